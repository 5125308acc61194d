package snapshot

import (
	"fmt"
	"net/netip"
	"net/url"

	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/strictjson"
)

// RegionType is the first field of a region's public description.
const RegionType = "landfall.dev/region/v1"

// Region is public/region.json of a region's folder: what every tool of the
// operator needs to know. It is not signed; slices are made from it.
type Region struct {
	Type    string   `json:"type"` // RegionType
	Name    string   `json:"name"`
	Members []Member `json:"members"`
	// AmendKeys are note verifiers (NAME+HASH+KEY), one of which must sign an
	// amendment beside the region root. The operator's tools demand it; devices
	// look for the region root only.
	AmendKeys []string `json:"amend_keys,omitempty"`
}

// TPMKeys are the names of a device's TPM keys, as the fleet recorded them when
// the device enrolled.
type TPMKeys struct {
	EKName    string // hex, as in Device
	AKName    string
	SRKName   string
	SRKPublic []byte // TPMT_PUBLIC
}

// ParseDescription reads what a person writes about a device: a slice in which
// Complete's parts may be left out.
func ParseDescription(text []byte) (*Slice, error) {
	s := new(Slice)
	if err := strictjson.Decode(text, MaxSliceSize, s); err != nil {
		return nil, fmt.Errorf("device description: %w", signed.Where(text, err))
	}
	return s, nil
}

// Loopback says whether a member's address is one that only its own machine
// reaches: no device does.
func (m Member) Loopback() bool { return loopback(m.URL) }

// Loopback says the same of a station's address.
func (s *Source) Loopback() bool { return loopback(s.URL) }

func loopback(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return err == nil && addr.IsLoopback() || u.Hostname() == "localhost"
}

// Complete fills in what no person should write by hand: type, region,
// generation 1, TPM names, fleet, volume UUIDs and the default policy. What the
// description says itself stays, and Validate finds it where it contradicts.
func (s *Slice) Complete(r *Region, ca []byte, keys TPMKeys) error {
	setDefault(&s.Type, SliceType)
	setDefault(&s.Region, r.Name)
	if s.Generation == 0 {
		s.Generation = 1
	}
	setDefault(&s.Device.Hostname, s.Device.ID)
	setDefault(&s.Device.EKName, keys.EKName)
	setDefault(&s.Device.AKName, keys.AKName)
	setDefault(&s.Device.SRKName, keys.SRKName)
	if s.Device.SRKPublic == nil {
		s.Device.SRKPublic = keys.SRKPublic
	}
	for i := range s.Volumes {
		setDefault(&s.Volumes[i].UUID, VolumeUUID(s.Device.ID, s.Volumes[i].Name))
	}
	if s.Fleet.CA == nil {
		s.Fleet.CA = ca
	}
	if s.Fleet.Members == nil {
		s.Fleet.Members = r.Members
	}
	setDefault(&s.Policy.Lease, "strict")
	setDefault(&s.Policy.Links, "required")
	if s.Region != r.Name {
		return fmt.Errorf("device description: region is %q, the folder is of %q", s.Region, r.Name)
	}
	return s.Validate()
}

func setDefault(s *string, def string) {
	if *s == "" {
		*s = def
	}
}

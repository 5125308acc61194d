package snapshot

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/strictjson"
)

// SealPlanType is the first field of a seal plan.
const SealPlanType = "landfall.dev/seal-plan/v1"

// Bounds of a seal plan.
const (
	MaxSealPlan    = 64 << 10 // bytes
	maxSealVolumes = 64
	maxImageBytes  = 2 << 40
)

// The ways to make a volume.
const (
	WayInPlace = "in-place"
	WayFormat  = "format"
	WayImage   = "image"
)

// What a seal plan says of recovery keys.
const (
	RecoveryEscrow = "escrow"
	RecoveryNone   = "none"
)

// SealPlan tells the factory how to make the volumes of one device, or of all
// devices of a model. Like a station document it is not signed: it only says
// how the volumes of a signed slice come about.
type SealPlan struct {
	Type   string `json:"type"`             // SealPlanType
	Device string `json:"device,omitempty"` // device ID
	Model  string `json:"model,omitempty"`  // product name as the firmware has it; one of both

	Volumes []SealVolume `json:"volumes"`
}

// SealVolume says how one volume is made: Factory's fields, by the volume's
// name.
type SealVolume struct {
	Name       string       `json:"name"`
	Way        string       `json:"way"` // WayInPlace, WayFormat, WayImage
	Disk       string       `json:"disk"`
	Partition  int          `json:"partition,omitempty"`
	SectorSize int          `json:"sector_size,omitempty"`
	Filesystem string       `json:"filesystem,omitempty"`
	Image      *VolumeImage `json:"image,omitempty"`
	Recovery   string       `json:"recovery,omitempty"` // RecoveryEscrow if empty, or RecoveryNone
}

// VolumeImage is a file at the station that holds the bytes of a volume.
type VolumeImage struct {
	// URL is a path at the station (images/debian.qcow2), or all of an https URL
	// of a server that shows the station's certificate.
	URL    string `json:"url"`
	Format string `json:"format"` // "raw", "raw.zst" or "qcow2"
	SHA256 string `json:"sha256"` // of the file as it is fetched, hex
	Bytes  int64  `json:"bytes"`  // of the file as it is fetched
}

// Digest returns SHA256's bytes.
func (i *VolumeImage) Digest() (sum [32]byte, err error) {
	b, err := hex.DecodeString(i.SHA256)
	if err != nil || copy(sum[:], b) != len(sum) || len(b) != len(sum) || i.SHA256 != strings.ToLower(i.SHA256) {
		return sum, fmt.Errorf("%q is no SHA-256 in lower-case hex", i.SHA256)
	}
	return sum, nil
}

// At returns the URL of the image, station being that of the factory station.
func (i *VolumeImage) At(station string) string {
	if strings.Contains(i.URL, "://") {
		return i.URL
	}
	return strings.TrimSuffix(station, "/") + "/" + strings.TrimPrefix(i.URL, "/")
}

// ParseSealPlan reads a plan strictly, in any form of JSON: people write it.
func ParseSealPlan(text []byte) (*SealPlan, error) {
	p := new(SealPlan)
	if err := strictjson.Decode(text, MaxSealPlan, p); err != nil {
		return nil, fmt.Errorf("seal plan: %w", signed.Where(text, err))
	}
	return p, p.Validate()
}

// For says what the plan is for, as people call it.
func (p *SealPlan) For() string {
	if p.Device != "" {
		return "device " + p.Device
	}
	return fmt.Sprintf("model %q", p.Model)
}

// Fits says whether the plan is for a machine: of this device ID, and of this
// model (DMI product name; "" when the firmware tells none, which then is
// nobody's contradiction).
func (p *SealPlan) Fits(device, model string) error {
	switch {
	case p.Device != "" && device != "" && p.Device != device:
		return fmt.Errorf("the plan is for device %s, this machine is %s", p.Device, device)
	case p.Model != "" && model != "" && p.Model != model:
		return fmt.Errorf("the plan is for model %q, this machine is a %q", p.Model, model)
	}
	return nil
}

// Validate reports all contradictions at once.
func (p *SealPlan) Validate() error {
	c := new(checker)
	if p.Type != SealPlanType {
		c.add("type", "is %q, must be %q", p.Type, SealPlanType)
	}
	if (p.Device == "") == (p.Model == "") {
		c.add("device, model", "must be one of both: the plan is for a device or for a model")
	}
	if p.Device != "" {
		c.name("device", p.Device)
	}
	if !isLabel(p.Model) {
		c.add("model", "must be at most 128 printable ASCII characters")
	}
	if len(p.Volumes) == 0 || len(p.Volumes) > maxSealVolumes {
		c.add("volumes", "are %d, must be 1 to %d", len(p.Volumes), maxSealVolumes)
	}
	names, places := map[string]string{}, map[string]string{}
	for i, v := range p.Volumes[:min(len(p.Volumes), maxSealVolumes)] {
		field := fmt.Sprintf("volumes[%d]", i)
		c.name(field+".name", v.Name)
		c.unique(field+".name", names, v.Name)
		c.unique(field, places, fmt.Sprintf("disk %s partition %d", v.Disk, v.Partition))
		v.check(c, field)
	}
	if len(c.errs) > 0 {
		return fmt.Errorf("seal plan: %w", errors.Join(c.errs...))
	}
	return nil
}

func (v *SealVolume) check(c *checker, field string) {
	c.oneOf(field+".way", v.Way, WayInPlace, WayFormat, WayImage)
	c.oneOf(field+".recovery", v.Recovery, "", RecoveryEscrow, RecoveryNone)
	v.factory().check(c, field)
	switch {
	case v.Way == WayImage && v.Image == nil:
		c.add(field+".image", "is missing: way \"image\" writes one")
	case v.Way != WayImage && v.Image != nil:
		c.add(field+".image", "is for way \"image\" only, this is %q", v.Way)
	case v.Image != nil:
		v.Image.check(c, field+".image")
	}
}

func (i *VolumeImage) check(c *checker, field string) {
	c.oneOf(field+".format", i.Format, "raw", "raw.zst", "qcow2")
	if _, err := i.Digest(); err != nil {
		c.add(field+".sha256", "%v", err)
	}
	if i.Bytes < 1 || i.Bytes > maxImageBytes {
		c.add(field+".bytes", "is %d, must be 1 to %d", i.Bytes, int64(maxImageBytes))
	}
	u, err := url.Parse(i.URL)
	switch {
	case i.URL == "" || len(i.URL) > 1024 || err != nil:
		c.add(field+".url", "is no URL")
	case u.User != nil || u.Fragment != "":
		c.add(field+".url", "must be without user and fragment")
	case u.Scheme == "" && (u.Host != "" || strings.Contains(u.Path, "..")), u.Scheme != "" && (u.Scheme != "https" || u.Host == ""):
		c.add(field+".url", "%q must be a path at the station or begin with https://HOST", i.URL)
	}
}

func (v *SealVolume) factory() *Factory {
	return &Factory{Way: v.Way, Disk: v.Disk, Partition: v.Partition, SectorSize: v.SectorSize,
		Filesystem: v.Filesystem, Image: v.Image, Recovery: v.Recovery}
}

// Apply returns the slice's volumes, made as the plan says; a volume that it
// does not name is made as the slice says. It lists all contradictions at once.
func (p *SealPlan) Apply(s *Slice) ([]Volume, error) {
	c := new(checker)
	if p.Device != "" && p.Device != s.Device.ID {
		c.add("device", "is %s, the slice is of %s", p.Device, s.Device.ID)
	}
	out := append([]Volume(nil), s.Volumes...)
	byName := map[string]*Volume{}
	for i := range out {
		byName[out[i].Name] = &out[i]
	}
	for i := range p.Volumes {
		v := byName[p.Volumes[i].Name]
		if v == nil {
			c.add(fmt.Sprintf("volumes[%d].name", i), "the slice of %s has no volume %q", s.Device.ID, p.Volumes[i].Name)
			continue
		}
		v.Factory = p.Volumes[i].factory()
	}
	places := map[string]string{}
	for _, v := range out {
		switch {
		case v.Factory != nil:
			c.unique("volume "+v.Name, places, fmt.Sprintf("disk %s partition %d", v.Factory.Disk, v.Factory.Partition))
		case v.Need == "required":
			c.add("volumes", "volume %s is required, and neither plan nor slice says how it is made", v.Name)
		}
	}
	if len(c.errs) > 0 {
		return nil, fmt.Errorf("seal plan: %w", errors.Join(c.errs...))
	}
	return out, nil
}

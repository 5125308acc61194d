package snapshot

import (
	"fmt"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/signed"
)

// DocumentType is the first field of a region's snapshot.
const DocumentType = "landfall.dev/snapshot/v1"

// Bounds of a region's snapshot: 4,000 devices with 40 neighbors each make
// about 25 MiB.
const (
	MaxDocumentSize = 64 << 20 // bytes
	MaxDevices      = 10000
	MaxCables       = 400000
)

// Document is the snapshot of a region: all devices and all links between
// them, from which the slices follow. It stays with the operator; a device
// carries its slice only.
type Document struct {
	Type       string `json:"type"` // DocumentType
	Region     string `json:"region"`
	Generation uint64 `json:"generation"` // grows with every change; a device's slice has its own

	Fleet    Fleet         `json:"fleet"`
	Switches []Switch      `json:"switches,omitempty"` // by ID
	Devices  []DeviceEntry `json:"devices"`            // by ID
	Links    []Cable       `json:"links"`              // by A, then B
}

// Switch is a switch by the name that people know it by. It is a hint for
// people; interfaces say what they expect of it.
type Switch struct {
	ID        string `json:"id"` // [a-z0-9-], such as tor-7
	Rack      string `json:"rack,omitempty"`
	Unit      string `json:"unit,omitempty"`
	ChassisID string `json:"chassis_id"` // as in LLDP of Interface
}

// DeviceEntry is a device of the region: what its slice will say, without what
// follows from the rest of the document.
type DeviceEntry struct {
	Device // its fields, in line

	// Generation is that of the device's slice, from 1. Amendment is there from
	// the second on.
	Generation uint64     `json:"generation"`
	Amendment  *Amendment `json:"amendment,omitempty"`

	Interfaces []Interface `json:"interfaces"`
	Volumes    []Volume    `json:"volumes"`
	Boot       Boot        `json:"boot"`
	// DHCPDevice serves this device; empty: nobody does.
	DHCPDevice string       `json:"dhcp_device,omitempty"`
	DHCP       *DHCPService `json:"dhcp,omitempty"` // of a device of role dhcp
	Policy     Policy       `json:"policy"`
}

// DHCPService is what a device of role dhcp serves, without the leases: they
// follow from the interfaces of the servers.
type DHCPService struct {
	// Serves is "region" (the servers of all racks) or "rack" (those of its own).
	Serves     string      `json:"serves"`
	Boot       *NetBoot    `json:"boot,omitempty"`
	Quarantine *Quarantine `json:"quarantine,omitempty"`
}

// Port is an interface of a device, by its name in the snapshot.
type Port struct {
	Device    string `json:"device"`
	Interface string `json:"interface"`
}

// String is "r07-u12/eth1".
func (p Port) String() string { return p.Device + "/" + p.Interface }

// Cable is a link between two devices that both ends prove: a cable, or a path
// through switches. A is the lesser end (device, then interface).
type Cable struct {
	A     Port   `json:"a"`
	B     Port   `json:"b"`
	Link  string `json:"link"`  // "l2" or "routed"
	Check string `json:"check"` // "required" or "advisory"
}

// Find returns the device with an ID; nil when there is none.
func (d *Document) Find(id string) *DeviceEntry {
	for i := range d.Devices {
		if d.Devices[i].ID == id {
			return &d.Devices[i]
		}
	}
	return nil
}

// Bytes validates the document and writes its canonical form.
func (d *Document) Bytes() ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	return signed.Marshal(d)
}

// ParseDocument reads an unsigned document strictly.
func ParseDocument(text []byte) (*Document, error) {
	if len(text) > MaxDocumentSize {
		return nil, fmt.Errorf("snapshot: %w: %d bytes, limit %d", signed.ErrSize, len(text), MaxDocumentSize)
	}
	d := new(Document)
	if err := signed.Unmarshal(text, DocumentType, d); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return d, d.Validate()
}

// SignDocument validates a document and writes it as a signed note.
func SignDocument(d *Document, signers ...note.Signer) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("sign snapshot: %w", err)
	}
	return signed.Sign(d, signers...)
}

// OpenDocument verifies the signature of the region root and reads the document
// strictly.
func OpenDocument(msg []byte, root note.Verifier) (*Document, error) {
	d := new(Document)
	if _, err := signed.Open(msg, MaxDocumentSize, DocumentType, d, root); err != nil {
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	return d, d.Validate()
}

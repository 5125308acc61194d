// Package snapshot defines the signed documents that describe a region: the
// slice that one device carries, and the LANDFALL partition it travels in.
// It opens no file and no socket.
package snapshot

// SliceType is the first field of every slice, so that a note signed for
// another purpose never passes as one.
const SliceType = "landfall.dev/slice/v1"

// MaxSliceSize bounds a signed slice, in bytes: that of a DHCP device lists the
// leases of 4,000 devices.
const MaxSliceSize = 2 << 20

// MaxBootKeys bounds the keys that may sign boot entries.
const MaxBootKeys = 8

// Role is what a device is for.
type Role string

// The roles of a device; the last two may be one device.
const (
	RoleServer    Role = "server"
	RoleKeyserver Role = "keyserver"
	RoleDHCP      Role = "dhcp"
)

// Slice is what one device carries: its signed configuration, which is its part
// of the network snapshot.
type Slice struct {
	Type       string `json:"type"`       // SliceType
	Region     string `json:"region"`     // name of the region
	Generation uint64 `json:"generation"` // grows with every amendment; starts at 1
	Device     Device `json:"device"`

	Interfaces []Interface `json:"interfaces"`
	Neighbors  []Neighbor  `json:"neighbors,omitempty"`
	Volumes    []Volume    `json:"volumes"`
	Boot       Boot        `json:"boot"`
	Fleet      Fleet       `json:"fleet"`
	DHCPDevice string      `json:"dhcp_device,omitempty"` // device ID
	DHCP       *DHCP       `json:"dhcp,omitempty"`        // what a device of that role serves
	Policy     Policy      `json:"policy"`
	Amendment  *Amendment  `json:"amendment,omitempty"`
}

// Amendment says which slice a later one replaces, and why.
type Amendment struct {
	Replaces string   `json:"replaces"` // SHA-256 of the replaced slice's text, hex
	Reason   string   `json:"reason"`
	Waivers  []Waiver `json:"waivers,omitempty"`
}

// Waiver excuses one link from its check.
type Waiver struct {
	Interface string `json:"interface"`
	Peer      string `json:"peer"`
	Reason    string `json:"reason"`
}

// Device identifies the machine. Only the TPM names are proof; the rest helps
// people.
type Device struct {
	ID       string `json:"id"` // unique in the region, [a-z0-9-], e.g. r07-u12
	Roles    []Role `json:"roles"`
	Rack     string `json:"rack,omitempty"`
	Unit     string `json:"unit,omitempty"`
	Hostname string `json:"hostname"`
	Serial   string `json:"serial,omitempty"`

	EKName    string `json:"ek_name"`    // hex, 2-byte algorithm and SHA-256 (TPM 2.0 Part 1, 16)
	AKName    string `json:"ak_name"`    // hex
	SRKName   string `json:"srk_name"`   // hex
	SRKPublic []byte `json:"srk_public"` // TPMT_PUBLIC, so that a session can be salted without reading it
}

// Interface is one network port that the device must have.
type Interface struct {
	Name      string   `json:"name"`      // a hint; the MAC decides
	MAC       string   `json:"mac"`       // 00:11:22:33:44:55
	Addresses []string `json:"addresses"` // CIDR; the lease must equal the first of its family
	Gateway   string   `json:"gateway,omitempty"`
	MTU       int      `json:"mtu,omitempty"`
	LLDP      *LLDP    `json:"lldp,omitempty"` // what the switch should say
}

// LLDP is the expected identity of the switch port (IEEE 802.1AB, 8.5.2, 8.5.3).
type LLDP struct {
	ChassisID string `json:"chassis_id"`
	PortID    string `json:"port_id"`
}

// Neighbor is a device whose link is to be proved.
type Neighbor struct {
	Device        string `json:"device"`
	Interface     string `json:"interface"`      // ours
	PeerInterface string `json:"peer_interface"` // theirs
	AKName        string `json:"ak_name"`
	Link          string `json:"link"`              // "l2" or "routed"
	Address       string `json:"address,omitempty"` // of the peer's interface; routed links only
	Check         string `json:"check"`             // "required" or "advisory"
}

// Volume is one LUKS2 volume of the device.
type Volume struct {
	Name     string   `json:"name"` // mapping name, [a-z0-9-]: root, data0
	UUID     string   `json:"uuid"` // LUKS UUID: VolumeUUID(device, name)
	Use      string   `json:"use"`  // "root" or "data"
	Need     string   `json:"need"` // "required" or "optional"
	Discards bool     `json:"discards,omitempty"`
	Factory  *Factory `json:"factory,omitempty"`
}

// Factory tells the factory how to make a volume; a booting server ignores it.
type Factory struct {
	// Way is "in-place" (keep the data), "format" (a fresh volume) or, in a seal
	// plan only, "image" (a fresh volume that a disk image is written to).
	Way string `json:"way"`
	// Disk and Partition select the block device: Disk is a path below
	// /dev/disk/by-path, a serial of the disk, or a kernel name; Partition is
	// 0 for the whole disk.
	Disk      string `json:"disk"`
	Partition int    `json:"partition,omitempty"`
	// SectorSize is the encryption sector size, 512 or 4096 bytes; 0 is 4096 for
	// format and 512 for the others, whose filesystem may have smaller blocks.
	SectorSize int `json:"sector_size,omitempty"`
	// Filesystem is made on a fresh volume: "ext4", or "" for none.
	Filesystem string `json:"filesystem,omitempty"`

	// Only a seal plan says these; a slice with them is refused.

	// Image is written to the volume, with way "image".
	Image *VolumeImage `json:"-"`
	// Recovery is "escrow" (or "") for a recovery key in keyslot 1 which the
	// fleet keeps, or "none".
	Recovery string `json:"-"`
}

// Recovers says whether the volume gets a recovery key.
func (f *Factory) Recovers() bool { return f.Recovery != RecoveryNone }

// Boot says what to start from the unlocked root.
type Boot struct {
	Entry   string `json:"entry,omitempty"`   // file name of the boot entry; "" is the default one
	Cmdline string `json:"cmdline,omitempty"` // appended to the entry's command line
	// Keys are the note verifiers (NAME+HASH+KEY) whose signature of the boot
	// entry counts, at most MaxBootKeys.
	Keys []string `json:"keys,omitempty"`
}

// Fleet lists the key servers, in the order to try them.
type Fleet struct {
	CA      []byte   `json:"ca"` // DER certificate of the fleet CA
	Members []Member `json:"members"`
}

// Member is one key server.
type Member struct {
	ID  string `json:"id"`  // DNS name in its certificate
	URL string `json:"url"` // https://10.1.2.3:7443
}

// Policy holds the choices of the region's operator.
type Policy struct {
	Lease string `json:"lease"` // "strict" or "warn"
	// Links is "required" (all required links must be proved), "advisory" (none)
	// or "fraction" (LinksPercent of them: for a device that serves others, which
	// one dead neighbor must not stop).
	Links        string `json:"links"`
	LinksPercent int    `json:"links_percent,omitempty"` // 1 to 100
	// KernelSignature demands a detached signature of the boot entry, by one of
	// Boot.Keys.
	KernelSignature bool `json:"kernel_signature,omitempty"`
}

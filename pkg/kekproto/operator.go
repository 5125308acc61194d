package kekproto

import (
	"encoding/json"
	"strings"
	"time"
)

// RegionState is where a region is in its life.
type RegionState string

// The states of a region, in their only order.
const (
	StateBuilding  RegionState = "building"
	StateInTransit RegionState = "in-transit"
	StateReceived  RegionState = "received"
	StateLive      RegionState = "live"
)

// NewDevice asks a member to expect a device.
type NewDevice struct {
	Device string `json:"device"`
	Again  bool   `json:"again,omitempty"` // a further token for a device that enrolled before, same EK only
}

// NewToken carries an enrolment token, shown this once.
type NewToken struct {
	Device string `json:"device"`
	Token  string `json:"token"`
}

// IsToken says whether text has an enrolment token's form: at least 128 random
// bits as base32 characters (RFC 4648, 6).
func IsToken(text string) bool {
	return len(text) >= 26 && len(text) <= 128 && strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// DeviceInfo is what operators may know of a device.
type DeviceInfo struct {
	Device     string `json:"device"`
	Enrolled   bool   `json:"enrolled"`
	Approved   bool   `json:"approved"` // by a valid EK certificate or an operator
	Suspended  bool   `json:"suspended"`
	Reason     string `json:"reason,omitempty"` // of the suspension
	EKName     string `json:"ek_name,omitempty"`
	AKName     string `json:"ak_name,omitempty"`
	SRKName    string `json:"srk_name,omitempty"`
	EKPublic   []byte `json:"ek_public,omitempty"`  // TPMT_PUBLIC
	AKPublic   []byte `json:"ak_public,omitempty"`  // TPMT_PUBLIC
	SRKPublic  []byte `json:"srk_public,omitempty"` // TPMT_PUBLIC
	EKCert     []byte `json:"ek_cert,omitempty"`    // DER
	Slice      uint64 `json:"slice,omitempty"`      // generation of the recorded slice
	SliceHash  string `json:"slice_sha256,omitempty"`
	Generation uint32 `json:"generation,omitempty"` // of the newest KEK
	Sealed     uint32 `json:"sealed,omitempty"`     // generation that the device reported sealed
	Stays      bool   `json:"stays,omitempty"`      // by its slice it has no volumes: there is nothing to seal
	Accepted   uint32 `json:"accepted,omitempty"`   // generation with which it opened all its volumes after sealing
	Recovery   bool   `json:"recovery,omitempty"`   // its recovery key is kept here
	Rack       string `json:"rack,omitempty"`       // of the recorded slice
	Unit       string `json:"unit,omitempty"`       // of the recorded slice
	Enrolling  bool   `json:"enrolling,omitempty"`  // it was given a credential and has not proved yet that it opens it

	// Changed is when its record last took a step: added, enrolled, approved,
	// slice, sealed, accepted.
	Changed  *time.Time    `json:"changed,omitempty"`
	Progress *ProgressInfo `json:"progress,omitempty"` // what seal last said

	Seen   *Seen        `json:"seen,omitempty"`
	Refuse *RefusalInfo `json:"last_refusal,omitempty"`
	// Unproved is the last request that named the device without a quote by its
	// AK: another TPM, or somebody else. It says nothing about the device.
	Unproved *RefusalInfo `json:"last_unproved,omitempty"`
	Drift    *Drift       `json:"firmware_drift,omitempty"` // the last one
	Held     *Drift       `json:"firmware_held,omitempty"`  // what a release is refused for, until it is accepted
	Report   string       `json:"last_report,omitempty"`    // as the device posted it
	Links    *LinksInfo   `json:"links,omitempty"`          // as the device last said

	// Capture is what the machine found out about itself in the factory:
	// snapshot.Capture as it was posted. Only lists in full have it.
	Capture json.RawMessage `json:"capture,omitempty"`
}

// ProgressInfo is what the seal of a device last said to the member that is
// asked. A member that was started since then knows phase, result and code only,
// from its audit log.
type ProgressInfo struct {
	Time    time.Time       `json:"time"`              // when it came
	Since   time.Time       `json:"since"`             // when this phase, result and code first came
	Factory json.RawMessage `json:"factory,omitempty"` // report.Factory
}

// LinksInfo is what a device last said about its links to the member that is
// asked, in an attested request of an accepted image.
type LinksInfo struct {
	Device   string    `json:"device"`
	Rack     string    `json:"rack,omitempty"` // of the recorded slice
	Time     time.Time `json:"time"`           // of the report
	Since    time.Time `json:"since"`          // when what is wrong, or that nothing is, was first said
	Slice    uint64    `json:"slice"`          // generation that the links were checked against
	Required int       `json:"required"`
	Proved   int       `json:"proved"`
	Wrong    string    `json:"wrong,omitempty"` // each link that is not as it should be, in words

	// Report is the report.LinkReport itself. A member that was started since
	// then knows only the rest, from its audit log.
	Report json.RawMessage `json:"report,omitempty"`
}

// LinkDemand is what the region asks of a device's links before it releases a
// key.
type LinkDemand string

// The demands. DemandClean takes a link report in which every link that the
// slice requires is proved.
const (
	DemandNone  LinkDemand = "none"
	DemandClean LinkDemand = "clean"
)

// SetLinkDemand changes the region's demand.
type SetLinkDemand struct {
	Demand LinkDemand `json:"link_report"`
}

// FirmwareDemand is what the region does about firmware that changed since a
// device's last release: PCR 0, 2 or 7.
type FirmwareDemand string

// FirmwareRecord raises an alarm and releases. FirmwareHold releases nothing until
// an operator accepts the change.
const (
	FirmwareRecord FirmwareDemand = "record"
	FirmwareHold   FirmwareDemand = "hold"
)

// SetFirmwareDemand changes the region's demand.
type SetFirmwareDemand struct {
	Demand FirmwareDemand `json:"firmware"`
}

// AcceptFirmware says which firmware an operator looked at, as Drift.To.
type AcceptFirmware struct {
	Firmware string `json:"firmware"`
}

// Seen is a device's last release at the member that is asked.
type Seen struct {
	Time       time.Time `json:"time"`
	Image      string    `json:"image"`
	ResetCount uint32    `json:"reset_count"`
	Firmware   string    `json:"firmware,omitempty"` // PCR 0, 2 and 7, the first 16 bytes of each
}

// Drift is a release at which a device's firmware PCRs were not those of the
// release before.
type Drift struct {
	Time time.Time `json:"time"`
	PCRs string    `json:"pcrs"` // which, as in "0,7"
	From string    `json:"from"` // as Seen.Firmware
	To   string    `json:"to"`
}

// RefusalInfo is a device's last refusal at the member that is asked.
type RefusalInfo struct {
	Refusal
	Op    Op        `json:"op"`
	Time  time.Time `json:"time"`
	Count int       `json:"count"` // since the member started

	// Differences are those of the last evidence from the device's accepted
	// image, in words.
	Differences []string `json:"differences,omitempty"`
}

// Reason explains a suspension.
type Reason struct {
	Reason string `json:"reason"`
}

// Approval accepts an enrolment whose EK certificate proves nothing. The name
// is compared, so that an operator approves what was seen at the machine.
type Approval struct {
	EKName string `json:"ek_name"`
}

// Document carries one signed note.
type Document struct {
	Note []byte `json:"note"`
}

// NewManifest carries a signed image manifest and, optionally, the signed PCR
// policy of the same image.
type NewManifest struct {
	Note   []byte `json:"note"`
	Policy []byte `json:"policy,omitempty"`
}

// ManifestState says what the fleet thinks of an image now.
type ManifestState string

// The states of a manifest. Only an accepted one opens anything.
const (
	ManifestAccepted ManifestState = "accepted"
	ManifestRevoked  ManifestState = "revoked" // for good
	ManifestTooOld   ManifestState = "too-old" // below the minimum version of its role
	ManifestRefused  ManifestState = "never"   // role debug, or an unmeasured boot where none is allowed
)

// ManifestInfo is one image that the member knows.
type ManifestInfo struct {
	Image   string        `json:"image"`
	Version string        `json:"version"`
	Role    string        `json:"role"`
	Form    string        `json:"form"`
	Digest  string        `json:"sha256"` // of the manifest's text
	State   ManifestState `json:"state"`
	Reason  string        `json:"reason,omitempty"` // why it is not accepted
	Policy  bool          `json:"policy"`           // a PCR policy is kept beside it
}

// Images is all that a member knows of images.
type Images struct {
	Manifests []ManifestInfo    `json:"manifests"`
	Minimum   map[string]string `json:"minimum,omitempty"` // version by role
}

// Revocation names the manifests to revoke: one by its digest (or the first 8
// digits of it, or more), or all of an image and version, or of one form of it.
type Revocation struct {
	Digest  string `json:"sha256,omitempty"`
	Image   string `json:"image,omitempty"`
	Version string `json:"version,omitempty"`
	Form    string `json:"form,omitempty"`
	Reason  string `json:"reason"` // one line, shown on the device's console
}

// Minimum is the oldest version of a role's images that gets anything.
type Minimum struct {
	Role    string `json:"role"`
	Version string `json:"version"`
	Lower   bool   `json:"lower,omitempty"` // it may be lower than the one before
}

// Evidence is what a device measured when it was last refused for its image,
// as it told this member.
type Evidence struct {
	Device      string         `json:"device"`
	Time        time.Time      `json:"time"`
	Op          Op             `json:"op"`
	PCRs        map[int][]byte `json:"pcrs"`            // quoted
	Image       string         `json:"image,omitempty"` // what it was compared with; "" where nothing was
	Differences []string       `json:"differences,omitempty"`
	Log         []byte         `json:"log"` // the device's word: only what replays to PCRs is true
}

// Bundle is a set of signed received statements.
type Bundle struct {
	Notes [][]byte `json:"notes"`
}

// ReceivedType is the first field of a received statement.
const ReceivedType = "landfall.dev/received/v1"

// Received is what an agent at the destination signs. Shipment is the random
// number of one `ship`, so that a statement serves one journey only.
type Received struct {
	Type     string `json:"type"`
	Region   string `json:"region"`
	Shipment string `json:"shipment"` // 16 bytes, hex
}

// Status answers "why is the region dark".
type Status struct {
	Member     string      `json:"member"`
	Region     string      `json:"region"`
	State      RegionState `json:"state"`
	Shipment   string      `json:"shipment,omitempty"`
	LinkReport LinkDemand  `json:"link_report"` // what a release takes

	Firmware   FirmwareDemand `json:"firmware"`  // what changed firmware does
	AllowLab   bool           `json:"allow_lab"` // unmeasured boots are accepted: never outside a lab
	Since      time.Time      `json:"since"`     // start of this member
	StoreEpoch uint64         `json:"store_epoch"`
	AuditLines uint64         `json:"audit_lines"`
	AuditHead  string         `json:"audit_head"` // hex
	AuditError string         `json:"audit_error,omitempty"`
	Devices    int            `json:"devices"`
	Enrolled   int            `json:"enrolled"`
	WithSlice  int            `json:"with_slice"`
	Sealed     int            `json:"sealed"`
	Accepted   int            `json:"accepted"`
	Suspended  int            `json:"suspended"`
	// LinksBroken is how many devices last said that a link is not proved that
	// has to be.
	LinksBroken int `json:"links_broken"`
	Released    int `json:"released"` // devices released to since this state began, at this member
	Images
	Refused       []DeviceInfo `json:"refused,omitempty"`  // refused since their last release, newest first
	RefusedOthers int          `json:"refused_unknown"`    // requests that named no known device
	Unproved      []string     `json:"unproved,omitempty"` // devices named without a quote by their AK, newest first
}

package fleet

import (
	"encoding/json"
	"fmt"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
)

// Paths in the store.
const (
	pathRegion    = "region"
	pathDevices   = "device/"
	pathSlices    = "slice/"    // the recorded generation and digest
	pathNotes     = "note/"     // device/generation: the signed slice
	pathManifests = "manifest/" // digest: the signed manifest
	pathPolicies  = "policy/"   // digest of the manifest: the signed PCR policy of its image
	pathRevoked   = "revoked/"  // digest of the manifest
	pathMinimum   = "minimum/"  // role
	pathKEKs      = "kek/"      // device/generation
	pathAuths     = "auths/"
	pathCaptures  = "capture/"          // device: what it found out about itself
	pathRecovery  = "recovery/"         // device: the key of its recovery keyslots
	pathRequests  = "recovery-request/" // device/ID
	pathRestored  = "restored"          // written when a backup takes a store's place
)

// Sizes of secrets, in bytes.
const (
	kekIDSize = 16
	kekSize   = 32
	authsSize = 64 // owner, then lockout authorization
)

// regionRecord is stored as JSON at pathRegion.
type regionRecord struct {
	Region   string               `json:"region"`
	State    kekproto.RegionState `json:"state"`
	Shipment string               `json:"shipment,omitempty"` // 16 bytes hex, of the last ship

	// LinkReport is what a release takes of the device's links; "" is none.
	LinkReport kekproto.LinkDemand `json:"link_report,omitempty"`

	// Firmware is what changed firmware does; "" is to be recorded.
	Firmware kekproto.FirmwareDemand `json:"firmware,omitempty"`
}

// deviceRecord is stored as JSON below pathDevices.
type deviceRecord struct {
	TokenHash []byte `json:"token_sha256,omitempty"`
	TokenUsed bool   `json:"token_used,omitempty"`
	EKPublic  []byte `json:"ek_public,omitempty"`
	EKCert    []byte `json:"ek_cert,omitempty"`
	AKPublic  []byte `json:"ak_public,omitempty"`
	SRKPublic []byte `json:"srk_public,omitempty"`
	EKName    string `json:"ek_name,omitempty"`
	AKName    string `json:"ak_name,omitempty"`
	SRKName   string `json:"srk_name,omitempty"`
	Approved  bool   `json:"approved,omitempty"`
	Suspended bool   `json:"suspended,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Sealed    uint32 `json:"sealed,omitempty"`   // KEK generation
	Accepted  uint32 `json:"accepted,omitempty"` // KEK generation with which it opened all its volumes
	Firmware  string `json:"firmware,omitempty"` // that an operator accepted last, of a release to come
	Removed   bool   `json:"removed,omitempty"`  // taken back: there is no such device
	Life      uint32 `json:"life,omitempty"`     // how often the ID was taken back
}

func (d *deviceRecord) enrolled() bool { return len(d.AKPublic) > 0 }

// revokedRecord is stored as JSON below pathRevoked, for good: it is never
// taken back, and its manifest is never accepted again.
type revokedRecord struct {
	Reason string `json:"reason"`
	Agent  string `json:"agent"`
}

// minimumRecord is stored as JSON below pathMinimum.
type minimumRecord struct {
	Version string `json:"version"`
	Agent   string `json:"agent"`
}

// accepted says whether the device, as it is sealed now, has opened all its
// volumes.
func (d *deviceRecord) accepted() bool { return d.Sealed > 0 && d.Accepted == d.Sealed }

// beginAnew is the record of an ID that is added: of one that was removed, nothing
// is kept but how often.
func (d *deviceRecord) beginAnew() {
	if d.Removed {
		*d = deviceRecord{Life: d.Life}
	}
}

// errRemoved is what a removed device is to everything but its own record.
func errRemoved(id string) error {
	return fmt.Errorf("%s was removed: %w", id, kekstore.ErrNotFound)
}

// authsPath is where the authorizations of a device's TPM are: of each life of
// an ID, its own.
func authsPath(id string, life uint32) string {
	if life == 0 {
		return pathAuths + id
	}
	return fmt.Sprintf("%s%s/%d", pathAuths, id, life)
}

func kekPath(device string, generation uint32) string {
	return fmt.Sprintf("%s%s/%d", pathKEKs, device, generation)
}

func notePath(device string, generation uint64) string {
	return fmt.Sprintf("%s%s/%d", pathNotes, device, generation)
}

func requestPath(device, id string) string { return pathRequests + device + "/" + id }

// write replaces a JSON record that is still at version old.
func write(path string, old uint64, v any) (kekstore.Write, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return kekstore.Write{}, fmt.Errorf("encode %s: %w", path, err)
	}
	return kekstore.Write{Path: path, Old: old, Data: data}, nil
}

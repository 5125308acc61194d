package kekproto

import (
	"crypto/sha256"
	"time"
)

// The two waits of a recovery request: for another agent's approval, and for the
// first agent to read the key after it.
const (
	RecoveryWait = 24 * time.Hour
	RecoveryTime = time.Hour
)

// RecoverySize is the length of a recovery key, in bytes.
const RecoverySize = 32

// NewRecovery asks that the recovery key of a device may be read. Another agent
// must approve it.
type NewRecovery struct {
	Reason string `json:"reason"` // one line
}

// RecoveryState is where a recovery request is in its life.
type RecoveryState string

// The states of a recovery request.
const (
	RecoveryWaits    RecoveryState = "waits for approval"
	RecoveryApproved RecoveryState = "approved"
	RecoveryOver     RecoveryState = "over" // not approved, or not read, in time
)

// RecoveryRequest is one agent's wish to read a device's recovery key, as this
// member knows it.
type RecoveryRequest struct {
	Device     string        `json:"device"`
	ID         string        `json:"id"`
	Agent      string        `json:"agent"` // who asked, and alone may read
	Reason     string        `json:"reason"`
	Time       time.Time     `json:"time"`
	ApprovedBy string        `json:"approved_by,omitempty"`
	Approved   *time.Time    `json:"approved,omitempty"`
	State      RecoveryState `json:"state"`
	Until      time.Time     `json:"until"`           // when it is over
	Reads      int           `json:"reads,omitempty"` // how often the key was handed out
}

// ReadRecovery asks for the key of an approved request. The public key is made
// for this one answer, so that the key itself is in no buffer of HTTP.
type ReadRecovery struct {
	HPKEPublic []byte `json:"hpke_public"` // X25519, 32 bytes
}

// RecoveryInfo is the HPKE info string of the answer to ReadRecovery, whose
// Secrets.Sealed holds RecoverySize bytes: "landfall recovery-read v1\x00" and
// the SHA-256 of device ID, one zero byte and request ID.
func RecoveryInfo(device, id string) []byte {
	sum := sha256.Sum256([]byte(device + "\x00" + id))
	return append([]byte(Op("recovery-read").Label()), sum[:]...)
}

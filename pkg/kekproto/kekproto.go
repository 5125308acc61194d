// Package kekproto defines the messages between a device and the key servers:
// JSON over HTTP/1.1 over TLS 1.3. It opens no file and no socket.
package kekproto

import "encoding/json"

// Version is the protocol version of every request. A server answers Version
// and the one before it, because crates travel for weeks.
const Version = 1

// ExporterLabel and ExporterLength bind a quote to its TLS connection
// (RFC 8446, 7.5; RFC 5705 without a context).
const (
	ExporterLabel  = "EXPORTER-landfall-v1"
	ExporterLength = 32
)

// Op names an attested request. Its label separates the quotes of different
// requests from each other.
type Op string

// The attested operations.
const (
	OpRelease Op = "release" // uinit: give me the KEK that opens my slot
	OpAuths   Op = "auths"   // factory: the TPM's owner and lockout authorizations
	OpKEK     Op = "kek"     // factory: make or return the KEK of a generation
	OpSealed  Op = "sealed"  // factory: this device is sealed
	OpSlice   Op = "slice"   // uinit, factory: is there a newer slice of mine
	OpCapture Op = "capture" // factory: what this machine found out about itself
	OpReport  Op = "report"  // on a connection that is attested already

	OpRecovery Op = "recovery" // factory: make or return the key of the recovery keyslots
	OpProgress Op = "progress" // factory: how far sealing is, and what came of it

	// OpEvidence: on a connection on which a quote of that device verified, and
	// was refused for its image; once for each refusal.
	OpEvidence Op = "evidence"
)

// Label is the first part of the qualifying data: "landfall <op> v1\x00".
func (o Op) Label() string { return "landfall " + string(o) + " v1\x00" }

// Path is the HTTP path of the operation.
func (o Op) Path() string { return "/v1/device/" + string(o) }

// Paths of enrolment, which has no quote yet.
const (
	PathEnrollBegin  = "/v1/enroll/begin"
	PathEnrollFinish = "/v1/enroll/finish"
)

// Quote is a TPM quote with what is needed to check it.
type Quote struct {
	Attest    []byte         `json:"attest"`    // TPMS_ATTEST
	Signature []byte         `json:"signature"` // TPMT_SIGNATURE
	PCRs      map[int][]byte `json:"pcrs"`      // SHA-256 bank, 32 bytes each
}

// Attested is the body of every attested request. Request is signed over byte
// by byte, so it travels as bytes.
type Attested struct {
	Request []byte `json:"request"`
	Quote   Quote  `json:"quote"`
}

// Request is what Attested.Request holds.
type Request struct {
	Protocol   int             `json:"protocol"`
	Op         Op              `json:"op"`
	Device     string          `json:"device"`
	HPKEPublic []byte          `json:"hpke_public,omitempty"` // X25519, 32 bytes, made for this request
	Generation uint32          `json:"generation,omitempty"`  // kek, sealed
	Slice      uint64          `json:"slice,omitempty"`       // generation of the slice in use
	NeedPolicy bool            `json:"need_policy,omitempty"` // release: no PCR policy at hand fits the measured values
	Body       json.RawMessage `json:"body,omitempty"`        // release, slice: a link report; capture: a capture; progress: report.Factory
}

// Response answers an attested request.
type Response struct {
	Protocol int      `json:"protocol"`
	KEK      *KEK     `json:"kek,omitempty"`      // release, kek
	Next     *KEK     `json:"next,omitempty"`     // release: re-wrap under this one
	Auths    *Secrets `json:"auths,omitempty"`    // auths
	Slice    []byte   `json:"slice,omitempty"`    // slice: the recorded one as a signed note, if it is newer than Request.Slice
	Policy   []byte   `json:"policy,omitempty"`   // release: the attested image's signed PCR policy, when asked for and known
	Recovery *Secrets `json:"recovery,omitempty"` // recovery: HPKE-sealed, the 32 bytes of the recovery key
	// Accepted (progress, report): since it was sealed, this device has opened
	// all its volumes with a released key and said so. In the answer to a report
	// only while the region is building.
	Accepted bool   `json:"accepted,omitempty"`
	Message  string `json:"message,omitempty"` // for the console; evidence: the differences, at most 1 KiB
}

// EventLog is the Request.Body of OpEvidence.
type EventLog struct {
	Log []byte `json:"log"` // as in securityfs' binary_bios_measurements, at most MaxEventLog bytes
}

// KEK is one generation of a device's key-encryption key.
type KEK struct {
	ID         []byte `json:"id"`         // 16 bytes
	Generation uint32 `json:"generation"` // from 1; its NV slot is its parity
	Sealed     []byte `json:"sealed"`     // HPKE: encapsulated key ‖ ciphertext of the 32 bytes
}

// Secrets are HPKE-sealed: the TPM authorizations owner ‖ lockout, 32 bytes
// each; or a recovery key.
type Secrets struct {
	Sealed []byte `json:"sealed"`
}

// Refusal is the body of every answer that is not a success.
type Refusal struct {
	Code    string `json:"code"`    // as in the runbook: LF-KEY-04
	Message string `json:"message"` // what and why
	Repair  string `json:"repair,omitempty"`
}

// EnrollBegin starts the enrolment of a device.
type EnrollBegin struct {
	Protocol  int    `json:"protocol"`
	Device    string `json:"device"`
	Token     string `json:"token"`      // one use
	EKPublic  []byte `json:"ek_public"`  // TPMT_PUBLIC
	EKCert    []byte `json:"ek_cert"`    // DER; may be empty where the region allows it
	AKPublic  []byte `json:"ak_public"`  // TPMT_PUBLIC
	SRKPublic []byte `json:"srk_public"` // TPMT_PUBLIC
}

// EnrollChallenge is a credential made for the EK and the AK's name
// (TPM 2.0 Part 1, 24).
type EnrollChallenge struct {
	Session    string `json:"session"`
	Credential []byte `json:"credential"` // TPM2B_ID_OBJECT
	Secret     []byte `json:"secret"`     // TPM2B_ENCRYPTED_SECRET
}

// EnrollFinish proves that EK and AK live in one TPM.
type EnrollFinish struct {
	Protocol int    `json:"protocol"`
	Session  string `json:"session"`
	Proof    []byte `json:"proof"` // the activated credential, 32 bytes
}

// Enrolled ends an enrolment.
type Enrolled struct {
	Device string `json:"device"`
	EKName string `json:"ek_name"` // hex
	AKName string `json:"ak_name"`
}

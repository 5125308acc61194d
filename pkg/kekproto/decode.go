package kekproto

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/strictjson"
)

// Sizes that a peer must not exceed, in bytes.
const (
	MaxBody     = 64 << 10  // any body of the device plane
	MaxRequest  = 16 << 10  // Attested.Request
	MaxReport   = 8 << 10   // Request.Body and a posted report
	MaxFinding  = 12 << 10  // Request.Body that is a link report, a capture or a progress
	MaxAnswer   = 64 << 10  // any answer of the device plane
	maxSlice    = 3 << 20   // but that to OpSlice: a DHCP device's slice in base64
	MaxEventLog = 256 << 10 // EventLog.Log
	MaxEvidence = 352 << 10 // a posted event log: the same in base64, and what is around it
	MaxMessage  = 1 << 10   // Response.Message
	MaxDeviceID = 63
	maxAttest   = 1 << 10 // TPMS_ATTEST of a quote is about 150
	maxPCRs     = 24
)

// ErrVersion is a protocol version that this build does not speak.
var ErrVersion = errors.New("protocol version not spoken here; update the older side (a member speaks two versions)")

// Supported reports whether a member answers protocol version v: its own and
// the one before.
func Supported(v int) bool { return v >= 1 && (v == Version || v == Version-1) }

// Decode parses one JSON value of at most limit bytes into v, as strictjson does:
// a newer peer's unknown fields are refused, for its protocol version is another.
func Decode(data []byte, limit int, v any) error {
	if err := strictjson.Decode(data, limit, v); err != nil {
		return fmt.Errorf("decode message: %w", signed.Where(data, err))
	}
	return nil
}

// ValidDeviceID reports whether id is a device ID: 1 to 63 of [a-z0-9-], not
// starting or ending with a hyphen (an RFC 1123 label).
func ValidDeviceID(id string) bool {
	if id == "" || len(id) > MaxDeviceID || id[0] == '-' || id[len(id)-1] == '-' {
		return false
	}
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// ParseAttested decodes the body of an attested request and the request inside
// it, and checks all that needs no knowledge of the device.
func ParseAttested(body []byte, op Op) (*Attested, *Request, error) {
	var a Attested
	if err := Decode(body, MaxBody, &a); err != nil {
		return nil, nil, err
	}
	switch {
	case len(a.Quote.Attest) == 0 || len(a.Quote.Attest) > maxAttest:
		return nil, nil, fmt.Errorf("quote: %d bytes of TPMS_ATTEST", len(a.Quote.Attest))
	case len(a.Quote.Signature) == 0 || len(a.Quote.Signature) > maxAttest:
		return nil, nil, fmt.Errorf("quote: %d bytes of TPMT_SIGNATURE", len(a.Quote.Signature))
	case len(a.Quote.PCRs) > maxPCRs:
		return nil, nil, fmt.Errorf("quote: %d PCR values", len(a.Quote.PCRs))
	}
	r, err := ParseRequest(a.Request, op)
	if err != nil {
		return nil, nil, err
	}
	return &a, r, nil
}

// ParseRequest decodes a request for op and checks its form.
func ParseRequest(data []byte, op Op) (*Request, error) {
	limit, body := op.limits()
	var r Request
	if err := Decode(data, limit, &r); err != nil {
		// A newer protocol may have fields that are unknown here: the
		// version is the more useful thing to say.
		var v struct {
			Protocol int `json:"protocol"`
		}
		if len(data) <= limit && json.Unmarshal(data, &v) == nil && v.Protocol != 0 && !Supported(v.Protocol) {
			return nil, fmt.Errorf("request of protocol %d: %w", v.Protocol, ErrVersion)
		}
		return nil, err
	}
	switch {
	case !Supported(r.Protocol):
		return nil, fmt.Errorf("request of protocol %d: %w", r.Protocol, ErrVersion)
	case r.Op != op:
		return nil, fmt.Errorf("request for %q at the path of %q", r.Op, op)
	case !ValidDeviceID(r.Device):
		return nil, errors.New("request without a valid device ID")
	case op.Secret() != (len(r.HPKEPublic) == HPKEPublicSize):
		return nil, fmt.Errorf("request with %d bytes of HPKE public key", len(r.HPKEPublic))
	case len(r.Body) > body:
		return nil, fmt.Errorf("request body of %d bytes, at most %d are allowed", len(r.Body), body)
	case r.NeedPolicy && op != OpRelease:
		return nil, fmt.Errorf("request for %q asks for a PCR policy", op)
	}
	return &r, nil
}

// limits returns how long a request of the operation and its body may be.
func (o Op) limits() (request, body int) {
	switch o {
	case OpEvidence:
		return MaxEvidence, MaxEvidence
	case OpRelease, OpSlice, OpCapture, OpProgress:
		return MaxRequest, MaxFinding
	default:
		return MaxRequest, MaxReport
	}
}

// AnswerLimit is how long an answer to the operation may be, in bytes.
func (o Op) AnswerLimit() int {
	if o == OpSlice {
		return maxSlice
	}
	return MaxAnswer
}

// ParseEvidence decodes a posted event log.
func ParseEvidence(data []byte) (*Request, []byte, error) {
	r, err := ParseRequest(data, OpEvidence)
	if err != nil {
		return nil, nil, err
	}
	var l EventLog
	if err := Decode(r.Body, MaxEvidence, &l); err != nil {
		return nil, nil, err
	}
	if len(l.Log) == 0 || len(l.Log) > MaxEventLog {
		return nil, nil, fmt.Errorf("event log of %d bytes, at most %d are allowed", len(l.Log), MaxEventLog)
	}
	return r, l.Log, nil
}

// Secret reports whether the answer to the operation holds a secret.
func (o Op) Secret() bool {
	return o == OpRelease || o == OpAuths || o == OpKEK || o == OpRecovery
}

package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/strictjson"
)

// Types of the words between a machine and its station.
const (
	AssignmentRequestType = "landfall.dev/assignment-request/v1"
	AssignmentType        = "landfall.dev/assignment/v1"
)

// Bounds of them, in bytes.
const (
	MaxAssignmentRequest = 16 << 10
	MaxAssignment        = 8 << 20
	maxMACs              = 64
)

// AssignmentRequest is what a machine says about itself to the station. It
// proves nothing; texts that do not tell it from others are left out.
type AssignmentRequest struct {
	Type   string   `json:"type"`             // AssignmentRequestType
	Device string   `json:"device,omitempty"` // as its station document or slice says
	Serial string   `json:"serial,omitempty"`
	UUID   string   `json:"uuid,omitempty"`
	Model  string   `json:"model,omitempty"` // product name
	MACs   []string `json:"macs,omitempty"`
}

// Assignment is the station's answer: who the machine is, and what of its
// documents there is so far. It is not believed further than a station
// document: slice and policies are signed, and the fleet knows the token.
type Assignment struct {
	Type     string    `json:"type"` // AssignmentType
	Device   string    `json:"device"`
	Token    []byte    `json:"token,omitempty"`    // one-use enrolment token
	Slice    []byte    `json:"slice,omitempty"`    // signed note
	Policies [][]byte  `json:"policies,omitempty"` // PCR policies
	Plan     *SealPlan `json:"plan,omitempty"`
}

// Bytes validates the request and writes it.
func (r *AssignmentRequest) Bytes() ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// ParseAssignmentRequest reads a request strictly.
func ParseAssignmentRequest(text []byte) (*AssignmentRequest, error) {
	r := new(AssignmentRequest)
	if err := strictjson.Decode(text, MaxAssignmentRequest, r); err != nil {
		return nil, fmt.Errorf("request for an assignment: %w", signed.Where(text, err))
	}
	return r, r.Validate()
}

// Validate reports all contradictions at once.
func (r *AssignmentRequest) Validate() error {
	c := new(checker)
	if r.Type != AssignmentRequestType {
		c.add("type", "is %q, must be %q", r.Type, AssignmentRequestType)
	}
	if r.Device != "" {
		c.name("device", r.Device)
	}
	c.printable("serial", r.Serial)
	c.printable("uuid", r.UUID)
	c.printable("model", r.Model)
	if len(r.MACs) > maxMACs {
		c.add("macs", "are %d, at most %d", len(r.MACs), maxMACs)
	}
	for i, text := range r.MACs[:min(len(r.MACs), maxMACs)] {
		if mac, err := net.ParseMAC(text); err != nil || len(mac) != 6 || mac.String() != text {
			c.add(fmt.Sprintf("macs[%d]", i), "%.40q must be six lower-case bytes as in 00:1b:21:aa:bb:cc", text)
		}
	}
	if len(c.errs) > 0 {
		return fmt.Errorf("request for an assignment: %w", errors.Join(c.errs...))
	}
	return nil
}

// Bytes validates the assignment and writes it.
func (a *Assignment) Bytes() ([]byte, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(a)
	if err == nil && len(b) > MaxAssignment {
		err = fmt.Errorf("assignment of %s: %d bytes, limit %d", a.Device, len(b), MaxAssignment)
	}
	return b, err
}

// ParseAssignment reads an assignment strictly.
func ParseAssignment(text []byte) (*Assignment, error) {
	a := new(Assignment)
	if err := strictjson.Decode(text, MaxAssignment, a); err != nil {
		return nil, fmt.Errorf("assignment: %w", signed.Where(text, err))
	}
	return a, a.Validate()
}

// Validate reports all contradictions at once.
func (a *Assignment) Validate() error {
	c := new(checker)
	if a.Type != AssignmentType {
		c.add("type", "is %q, must be %q", a.Type, AssignmentType)
	}
	c.name("device", a.Device)
	p := &Part{Slice: a.Slice, Policies: a.Policies, Token: a.Token}
	if err := p.check(); err != nil {
		c.add("slice, policies, token", "%v", err)
	}
	if a.Plan != nil {
		if err := a.Plan.Validate(); err != nil {
			c.add("plan", "%v", err)
		}
		if a.Plan.Device != "" && a.Plan.Device != a.Device {
			c.add("plan.device", "is %s, the assignment is of %s", a.Plan.Device, a.Device)
		}
	}
	if len(c.errs) > 0 {
		return fmt.Errorf("assignment: %w", errors.Join(c.errs...))
	}
	return nil
}

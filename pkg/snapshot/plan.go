package snapshot

import (
	"fmt"

	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/strictjson"
)

// PlanType is the first field of a plan.
const PlanType = "landfall.dev/plan/v1"

// Plan is what people write, or import, about a region. It becomes a Document
// with what only the machines know: MAC addresses and TPM names. Everything may
// be left out that a capture, a record of the fleet or Defaults brings.
type Plan struct {
	Type     string        `json:"type"` // PlanType
	Defaults *PlanDefaults `json:"defaults,omitempty"`
	Switches []PlanSwitch  `json:"switches,omitempty"`
	Devices  []PlanDevice  `json:"devices"`
	// Links are between devices, or between a device and a switch.
	Links []PlanLink `json:"links"`
}

// PlanDefaults are for each device that says nothing else.
type PlanDefaults struct {
	Roles   []Role   `json:"roles,omitempty"` // ["server"] if empty
	Volumes []Volume `json:"volumes,omitempty"`
	Boot    *Boot    `json:"boot,omitempty"`
	Policy  *Policy  `json:"policy,omitempty"`
}

// PlanSwitch is a switch. Links to it say what an interface should hear by LLDP.
type PlanSwitch struct {
	ID   string `json:"id"`
	Rack string `json:"rack,omitempty"`
	Unit string `json:"unit,omitempty"`
	// ChassisID is what the switch calls itself; empty: what captures heard at
	// its ports, and its ID if there are none.
	ChassisID string `json:"chassis_id,omitempty"`
	// Neighbors is how many links each port's device gets to others on this
	// switch; 0: none but those of Links.
	Neighbors int `json:"neighbors,omitempty"`
}

// PlanDevice is a device.
type PlanDevice struct {
	ID         string          `json:"id"`
	Roles      []Role          `json:"roles,omitempty"`
	Rack       string          `json:"rack,omitempty"`
	Unit       string          `json:"unit,omitempty"`
	Hostname   string          `json:"hostname,omitempty"` // the ID if empty
	Serial     string          `json:"serial,omitempty"`
	Interfaces []PlanInterface `json:"interfaces,omitempty"`
	Volumes    []Volume        `json:"volumes,omitempty"`
	Boot       *Boot           `json:"boot,omitempty"`
	DHCPDevice string          `json:"dhcp_device,omitempty"` // the one of the rack, or of the region, if empty
	DHCP       *DHCPService    `json:"dhcp,omitempty"`
	Policy     *Policy         `json:"policy,omitempty"`
}

// PlanInterface is a network port.
type PlanInterface struct {
	Name      string   `json:"name"`
	MAC       string   `json:"mac,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	Gateway   string   `json:"gateway,omitempty"`
	MTU       int      `json:"mtu,omitempty"`
	LLDP      *LLDP    `json:"lldp,omitempty"`
}

// PlanLink is a cable of the plan.
type PlanLink struct {
	A     Port   `json:"a"`
	B     Port   `json:"b"`
	Link  string `json:"link,omitempty"`  // "l2" if empty
	Check string `json:"check,omitempty"` // "required" if empty
}

// ParsePlan reads a plan. Only its form is checked, for Assemble lists what is
// wrong with all that it was given.
func ParsePlan(text []byte) (*Plan, error) {
	p := new(Plan)
	if err := strictjson.Decode(text, MaxDocumentSize, p); err != nil {
		return nil, fmt.Errorf("plan: %w", signed.Where(text, err))
	}
	if p.Type != PlanType {
		return nil, fmt.Errorf("plan: type is %q, expected %q", p.Type, PlanType)
	}
	return p, nil
}

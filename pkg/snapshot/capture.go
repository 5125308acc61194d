package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/landfall-project/landfall/pkg/lldp"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/strictjson"
)

// CaptureType is the first field of a capture.
const CaptureType = "landfall.dev/capture/v1"

// Bounds of a capture. It travels in a request to the fleet.
const (
	MaxCaptureSize = 12 << 10 // bytes
	maxPorts       = 64
	maxHeard       = 64 // at one port: a switch that forwards LLDP makes all of its devices heard
)

// Capture is what a machine found out about itself in the factory. It is the
// machine's word, and not signed. Only people read vendor, product and serial.
type Capture struct {
	Type    string        `json:"type"`   // CaptureType
	Device  string        `json:"device"` // ID
	Vendor  string        `json:"vendor,omitempty"`
	Product string        `json:"product,omitempty"`
	Serial  string        `json:"serial,omitempty"`
	Ports   []CapturePort `json:"ports"`
}

// CapturePort is a network port of the machine.
type CapturePort struct {
	Name    string  `json:"name"` // the kernel's
	MAC     string  `json:"mac"`  // the permanent one
	MTU     int     `json:"mtu,omitempty"`
	Driver  string  `json:"driver,omitempty"`
	Bus     string  `json:"bus,omitempty"` // such as a PCI address
	Carrier bool    `json:"carrier"`
	Heard   []Heard `json:"heard,omitempty"`
}

// Heard is one sender of LLDPDUs at a port: a switch, or another device.
type Heard struct {
	ChassisID string `json:"chassis_id"` // as lldp.ID.Exact writes it
	PortID    string `json:"port_id"`
	System    string `json:"system,omitempty"`    // system name
	PortText  string `json:"port_text,omitempty"` // port description
	// Device says that it is a machine with a Landfall image: System is its ID,
	// PortID names its port.
	Device bool `json:"device,omitempty"`
	// Station says that it calls itself a station only: no bridge, no router.
	Station bool `json:"station,omitempty"`
}

// HeardFrom is what a capture keeps of an LLDPDU.
func HeardFrom(du *lldp.DU) Heard {
	h := Heard{ChassisID: du.Chassis.Exact(), PortID: du.Port.Exact(), System: du.SystemName, PortText: du.PortDescription,
		Station: du.Capabilities.StationOnly()}
	if du.Chassis.Subtype == lldp.Local && du.Port.Subtype == lldp.InterfaceName && strings.HasPrefix(du.SystemDescription, "landfall") {
		h.Device, h.System = true, du.Chassis.Text()
	}
	return h
}

// port is the name of the other device's port.
func (h *Heard) port() string {
	_, name, _ := strings.Cut(h.PortID, ":")
	return name
}

// Bytes validates the capture and writes it in one line. What was heard beyond
// what fits is left out, evenly.
func (c *Capture) Bytes() ([]byte, error) {
	short := *c
	for limit := maxHeard; ; limit /= 2 {
		short.Ports = append([]CapturePort{}, c.Ports...)
		for i, p := range short.Ports {
			short.Ports[i].Heard = p.Heard[:min(len(p.Heard), limit)]
		}
		if err := short.Validate(); err != nil {
			return nil, err
		}
		b, err := json.Marshal(&short)
		if err != nil || len(b) <= MaxCaptureSize {
			return b, err
		}
		if limit == 0 {
			return nil, fmt.Errorf("capture of %s: %d bytes, limit %d", c.Device, len(b), MaxCaptureSize)
		}
	}
}

// ParseCapture reads a capture.
func ParseCapture(text []byte) (*Capture, error) {
	c := new(Capture)
	if err := strictjson.Decode(text, MaxCaptureSize, c); err != nil {
		return nil, fmt.Errorf("capture: %w", signed.Where(text, err))
	}
	return c, c.Validate()
}

// Validate reports all contradictions at once.
func (c *Capture) Validate() error {
	k := &checker{device: c.Device}
	if c.Type != CaptureType {
		k.add("type", "is %q, must be %q", c.Type, CaptureType)
	}
	k.name("device", c.Device)
	if len(c.Ports) > maxPorts {
		k.add("ports", "are %d, at most %d", len(c.Ports), maxPorts)
	}
	names, macs := map[string]string{}, map[string]string{}
	for _, p := range c.Ports[:min(len(c.Ports), maxPorts)] {
		k.unique("port "+p.Name, names, p.Name)
		k.unique("MAC address of "+p.Name, macs, p.MAC)
		p.check(k)
	}
	for _, text := range []string{c.Vendor, c.Product, c.Serial} {
		if !isLabel(text) {
			k.add("vendor, product and serial", "must be at most 128 printable ASCII characters")
		}
	}
	if len(k.errs) > 0 {
		return fmt.Errorf("capture: %w", errors.Join(k.errs...))
	}
	return nil
}

func (p *CapturePort) check(k *checker) {
	field := "port " + p.Name
	if !IsInterface(p.Name) {
		k.add(field, "is no interface name")
	}
	if mac, err := net.ParseMAC(p.MAC); err != nil || len(mac) != 6 || mac.String() != p.MAC {
		k.add(field, "MAC address %q must be six lower-case bytes as in 00:1b:21:aa:bb:cc", p.MAC)
	}
	if p.MTU < 0 || p.MTU > 1<<20 {
		k.add(field, "MTU is %d", p.MTU)
	}
	if !isLabel(p.Driver) || !isLabel(p.Bus) || len(p.Heard) > maxHeard {
		k.add(field, "driver or bus is not printable, or more than %d systems were heard", maxHeard)
	}
	for _, h := range p.Heard[:min(len(p.Heard), maxHeard)] {
		for _, id := range []string{h.ChassisID, h.PortID} {
			if e, err := lldp.ParseID(id); err != nil || e.Subtype == 0 || !harmless(id, 560) {
				k.add(field, "heard %q, which is no ID with its subtype", id)
			}
		}
		if !harmless(h.System, 255) || !harmless(h.PortText, 255) || h.Device && !IsName(h.System) {
			k.add(field, "heard a system %q with a name that no console should get", h.System)
		}
	}
}

// harmless says whether a text is printable ASCII of at most n characters.
func harmless(s string, n int) bool { return len(s) <= n && printable.IsASCII(s) }

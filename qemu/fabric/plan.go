package fabric

import (
	"fmt"
	"slices"
	"time"

	"github.com/landfall-project/landfall/pkg/linkcheck"
)

// Wire is a link of the snapshot, which the network is built to match.
type Wire struct {
	A, B     linkcheck.End
	Advisory bool
	Switch   string // both ends are on this switch; empty: a cable
}

// Plan is the snapshot of a region.
type Plan struct {
	Region     string
	Generation uint64
	Wires      []Wire
}

// E is short for an end of a link.
func E(device, iface string) linkcheck.End { return linkcheck.End{Device: device, Interface: iface} }

// Build adds the devices of a plan, without power, and plugs in every wire.
func (n *Network) Build(p Plan) error {
	tpms := map[string]*TPM{}
	configs := map[string]*linkcheck.Config{}
	var order []string
	port := func(e linkcheck.End) error {
		if tpms[e.Device] == nil {
			t, err := NewTPM()
			if err != nil {
				return err
			}
			tpms[e.Device] = t
			configs[e.Device] = &linkcheck.Config{Region: p.Region, Device: e.Device, Generation: p.Generation}
			order = append(order, e.Device)
		}
		c := configs[e.Device]
		if !slices.ContainsFunc(c.Ports, func(x linkcheck.PortConfig) bool { return x.Name == e.Interface }) {
			c.Ports = append(c.Ports, linkcheck.PortConfig{Name: e.Interface})
		}
		return nil
	}
	var switches []string
	ports := map[string][]linkcheck.End{}
	for _, w := range p.Wires {
		for _, e := range []linkcheck.End{w.A, w.B} {
			if err := port(e); err != nil {
				return err
			}
		}
		configs[w.A.Device].Links = append(configs[w.A.Device].Links, link(w, w.A, w.B, tpms[w.B.Device]))
		configs[w.B.Device].Links = append(configs[w.B.Device].Links, link(w, w.B, w.A, tpms[w.A.Device]))
		if w.Switch == "" {
			continue
		}
		if ports[w.Switch] == nil {
			switches = append(switches, w.Switch)
		}
		for _, e := range []linkcheck.End{w.A, w.B} {
			if !slices.Contains(ports[w.Switch], e) {
				ports[w.Switch] = append(ports[w.Switch], e)
			}
		}
	}
	for _, id := range order {
		n.Add(*configs[id], tpms[id])
	}
	for _, w := range p.Wires {
		if w.Switch == "" {
			n.Cable(w.A, w.B)
		}
	}
	for _, s := range switches {
		n.Connect(ports[s]...)
	}
	return nil
}

func link(w Wire, ours, theirs linkcheck.End, t *TPM) linkcheck.Link {
	return linkcheck.Link{Interface: ours.Interface, Peer: theirs, AKName: t.AKName(), Required: !w.Advisory}
}

// Region plans racks of devices. The first device of each rack is its dhcp
// device: every other one of the rack has a link to it over the rack's switch
// (eth0), and cables to the devices above and below (eth1, eth2), the last to
// the first. The dhcp devices of all racks are a ring of cables (eth3, eth4).
func Region(racks, perRack int) Plan {
	p := Plan{Region: "sea1", Generation: 1}
	id := func(rack, unit int) string { return fmt.Sprintf("r%03d-u%02d", rack%racks+1, unit%perRack+1) }
	for r := range racks {
		for u := range perRack {
			if u > 0 {
				p.Wires = append(p.Wires, Wire{A: E(id(r, u), "eth0"), B: E(id(r, 0), "eth0"), Switch: fmt.Sprintf("tor-%d", r+1)})
			}
			if perRack > 1 {
				p.Wires = append(p.Wires, Wire{A: E(id(r, u), "eth1"), B: E(id(r, u+1), "eth2")})
			}
		}
		if racks > 1 {
			p.Wires = append(p.Wires, Wire{A: E(id(r, 0), "eth3"), B: E(id(r+1, 0), "eth4")})
		}
	}
	return p
}

// PowerOnWithin boots every device at a random time within d from now. Errors
// of a boot are given to fail.
func (n *Network) PowerOnWithin(d time.Duration, fail func(error)) {
	for _, device := range n.order {
		n.After(time.Duration(n.rng.Int64N(int64(d)+1)), func() {
			if err := device.PowerOn(); err != nil {
				fail(err)
			}
		})
	}
}

// AllReady says whether every device has told its neighbors "ok", and has heard
// as much from all required ones.
func (n *Network) AllReady() bool {
	for _, d := range n.order {
		if !d.On || !d.OK() || !d.Left && !d.Machine.Summary().AllReady() {
			return false
		}
	}
	return true
}

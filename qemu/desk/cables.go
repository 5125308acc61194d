package main

import (
	"crypto/sha256"
	"fmt"
	"net"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/lldp"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// cables are how a region is plugged together.
type cables struct {
	plan     *snapshot.Plan
	switches map[string]bool
	far      map[snapshot.Port]snapshot.Port // the port at the other end of a device's cable
}

func readCables(name string) (*cables, error) {
	text, err := files.Read(name, 16<<20)
	if err != nil {
		return nil, err
	}
	c := &cables{switches: map[string]bool{}, far: map[snapshot.Port]snapshot.Port{}}
	if c.plan, err = snapshot.ParseDOT(text, nil); err != nil {
		return nil, fmt.Errorf("%s:\n%w", name, err)
	}
	for _, w := range c.plan.Switches {
		c.switches[w.ID] = true
	}
	for _, l := range c.plan.Links {
		for _, ends := range [][2]snapshot.Port{{l.A, l.B}, {l.B, l.A}} {
			if _, taken := c.far[ends[0]]; taken {
				return nil, fmt.Errorf("%s: two cables are plugged into %s", name, ends[0])
			}
			c.far[ends[0]] = ends[1]
		}
	}
	return c, nil
}

// plug plugs all cables in.
func (c *cables) plug(n *fabric.Network) {
	on := map[string][]linkcheck.End{}
	for _, l := range c.plan.Links {
		switch {
		case c.switches[l.A.Device]:
			on[l.A.Device] = append(on[l.A.Device], linkcheck.End(l.B))
		case c.switches[l.B.Device]:
			on[l.B.Device] = append(on[l.B.Device], linkcheck.End(l.A))
		default:
			n.Cable(linkcheck.End(l.A), linkcheck.End(l.B))
		}
	}
	for _, w := range c.plan.Switches {
		n.Connect(on[w.ID]...)
	}
}

// says is what a port says by LLDP: a switch its MAC address and name, a machine
// its ID.
func (c *cables) says(p snapshot.Port) *lldp.DU {
	du := &lldp.DU{Port: lldp.ID{Subtype: lldp.InterfaceName, Value: []byte(p.Interface)}, TTL: 120, SystemName: p.Device}
	if c.switches[p.Device] {
		du.Chassis = lldp.ID{Subtype: lldp.MACAddress, Value: mac(p.Device)}
		return du
	}
	du.Chassis = lldp.ID{Subtype: lldp.Local, Value: []byte(p.Device)}
	du.SystemDescription = "landfall"
	return du
}

// mac is the MAC address of what has that name.
func mac(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(name))
	return net.HardwareAddr{0x52, 0x54, 0x00, sum[0], sum[1], sum[2]}
}

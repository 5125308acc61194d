package snapshot

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/lldp"
	"github.com/landfall-project/landfall/pkg/printable"
)

func (s *Slice) findInterface(name string) *Interface {
	for i := range s.Interfaces {
		if s.Interfaces[i].Name == name {
			return &s.Interfaces[i]
		}
	}
	return nil
}

// IsInterface says whether a name is that of an interface: printable ASCII without space and slash, as linkcheck shows it
// on consoles; IFNAMSIZ is 16 with its NUL (linux/if.h).
func IsInterface(name string) bool {
	return name != "" && len(name) <= 15 && printable.IsASCII(name) && !strings.ContainsAny(name, " /")
}

func (s *Slice) checkInterfaces(c *checker) {
	names, macs, addrs := map[string]string{}, map[string]string{}, map[string]string{}
	addresses := 0
	for i, ifc := range s.Interfaces {
		field := fmt.Sprintf("interfaces[%d]", i)
		c.unique(field+".name", names, ifc.Name)
		addresses += ifc.check(c, field, macs, addrs)
		if l := ifc.LLDP; l != nil {
			for _, id := range []string{l.ChassisID, l.PortID} {
				if _, err := lldp.ParseID(id); err != nil {
					c.add(field+".lldp", "%v", err)
				}
			}
		}
	}
	if addresses == 0 {
		c.add("interfaces", "have no address: the fleet cannot be reached")
	}
}

// check looks at all but the neighborhood of an interface, and returns the number
// of good addresses.
func (i *Interface) check(c *checker, field string, macs, addrs map[string]string) int {
	if !IsInterface(i.Name) {
		c.add(field+".name", "%q is no interface name", i.Name)
	}
	if i.MAC == "" && c.unfinished[Port{c.device, i.Name}.String()] {
		return i.checkAddresses(c, field, addrs)
	}
	if mac, err := net.ParseMAC(i.MAC); err != nil || len(mac) != 6 || mac.String() != i.MAC {
		c.add(field+".mac", "%q must be six lower-case bytes as in 00:1b:21:aa:bb:cc", i.MAC)
	} else if mac[0]&1 != 0 {
		c.add(field+".mac", "%q is a group address", i.MAC)
	}
	if i.MAC != "" {
		c.unique(field+".mac", macs, i.MAC)
	}
	if i.MTU != 0 && (i.MTU < 576 || i.MTU > 65535) {
		c.add(field+".mtu", "is %d, must be 576 to 65535", i.MTU)
	}
	return i.checkAddresses(c, field, addrs)
}

// checkAddresses returns the number of good addresses.
func (i *Interface) checkAddresses(c *checker, field string, seen map[string]string) int {
	var prefixes []netip.Prefix
	for n, a := range i.Addresses {
		af := fmt.Sprintf("%s.addresses[%d]", field, n)
		p, err := netip.ParsePrefix(a)
		if err != nil || p.String() != a || !p.Addr().IsGlobalUnicast() {
			c.add(af, "%q must be a unicast address with its prefix length, as in 10.0.7.12/24", a)
			continue
		}
		prefixes = append(prefixes, p)
		c.unique(af, seen, p.Addr().String())
	}
	if i.Gateway == "" {
		return len(prefixes)
	}
	gw, err := netip.ParseAddr(i.Gateway)
	inside := func(p netip.Prefix) bool { return p.Contains(gw) && p.Addr() != gw }
	switch {
	case err != nil:
		c.add(field+".gateway", "%q is no address", i.Gateway)
	case !gw.IsLinkLocalUnicast() && !slices.ContainsFunc(prefixes, inside):
		c.add(field+".gateway", "%s is in none of the networks of %s", i.Gateway, i.Name)
	}
	return len(prefixes)
}

func (s *Slice) checkNeighbors(c *checker) {
	seen := map[string]string{}
	for i, n := range s.Neighbors {
		field := fmt.Sprintf("neighbors[%d]", i)
		c.name(field+".device", n.Device)
		if n.Device == s.Device.ID {
			c.add(field+".device", "is this device itself")
		}
		if s.findInterface(n.Interface) == nil {
			c.add(field+".interface", "%q is no interface of this device", n.Interface)
		}
		if !IsInterface(n.PeerInterface) {
			c.add(field+".peer_interface", "%q is no interface name", n.PeerInterface)
		}
		c.tpmName(field+".ak_name", n.AKName)
		if n.AKName == s.Device.AKName && n.AKName != "" {
			c.add(field+".ak_name", "is this device's own")
		}
		c.oneOf(field+".link", n.Link, "l2", "routed")
		if a, err := netip.ParseAddr(n.Address); n.Link == "routed" && (err != nil || a.Zone() != "" || !a.IsGlobalUnicast()) {
			c.add(field+".address", "is %q; a routed link needs the unicast address of the peer's interface", n.Address)
		} else if n.Link != "routed" && n.Address != "" {
			c.add(field+".address", "is for routed links")
		}
		c.oneOf(field+".check", n.Check, "required", "advisory")
		c.unique(field, seen, n.Interface+" to "+n.Device+"/"+n.PeerInterface)
	}
}

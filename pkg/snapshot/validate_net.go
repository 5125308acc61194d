package snapshot

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

func (s *Slice) findInterface(name string) *Interface {
	for i := range s.Interfaces {
		if s.Interfaces[i].Name == name {
			return &s.Interfaces[i]
		}
	}
	return nil
}

func (s *Slice) checkInterfaces(c *checker) {
	names, macs, addrs := map[string]string{}, map[string]string{}, map[string]string{}
	addresses := 0
	for i, ifc := range s.Interfaces {
		field := fmt.Sprintf("interfaces[%d]", i)
		// IFNAMSIZ is 16 with its NUL (linux/if.h).
		if ifc.Name == "" || len(ifc.Name) > 15 || !printable(ifc.Name) || slices.Contains([]byte(ifc.Name), '/') {
			c.add(field+".name", "%q is no interface name", ifc.Name)
		}
		c.unique(field+".name", names, ifc.Name)
		if mac, err := net.ParseMAC(ifc.MAC); err != nil || len(mac) != 6 || mac.String() != ifc.MAC {
			c.add(field+".mac", "%q must be six lower-case bytes as in 00:1b:21:aa:bb:cc", ifc.MAC)
		} else if mac[0]&1 != 0 {
			c.add(field+".mac", "%q is a group address", ifc.MAC)
		}
		c.unique(field+".mac", macs, ifc.MAC)
		addresses += ifc.checkAddresses(c, field, addrs)
		if ifc.MTU != 0 && (ifc.MTU < 576 || ifc.MTU > 65535) {
			c.add(field+".mtu", "is %d, must be 576 to 65535", ifc.MTU)
		}
		if l := ifc.LLDP; l != nil && (l.ChassisID == "" || l.PortID == "" || !printable(l.ChassisID) || !printable(l.PortID)) {
			c.add(field+".lldp", "needs a printable chassis_id and port_id")
		}
	}
	if addresses == 0 {
		c.add("interfaces", "have no address: the fleet cannot be reached")
	}
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
		if n.PeerInterface == "" || !printable(n.PeerInterface) {
			c.add(field+".peer_interface", "is missing")
		}
		c.tpmName(field+".ak_name", n.AKName)
		if n.AKName == s.Device.AKName && n.AKName != "" {
			c.add(field+".ak_name", "is this device's own")
		}
		c.oneOf(field+".link", n.Link, "l2", "routed")
		c.oneOf(field+".check", n.Check, "required", "advisory")
		c.unique(field, seen, n.Interface+" to "+n.Device+"/"+n.PeerInterface)
	}
}

package snapshot

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// maxQuarantine bounds the pool of a DHCP device, in addresses.
const maxQuarantine = 4096

func (s *Slice) checkDHCP(c *checker) {
	if is := slices.Contains(s.Device.Roles, RoleDHCP); is != (s.DHCP != nil) {
		c.add("dhcp", "belongs to a device of role dhcp, and to no other")
	}
	if s.DHCP == nil {
		return
	}
	macs, addrs := map[string]string{}, map[string]string{}
	for i, l := range s.DHCP.Leases {
		field := fmt.Sprintf("dhcp.leases[%d]", i)
		c.name(field+".device", l.Device)
		ifc := Interface{Name: l.Interface, MAC: l.MAC, Addresses: l.Addresses, Gateway: l.Gateway, MTU: l.MTU}
		if ifc.check(c, field, macs, addrs) == 0 {
			c.add(field+".addresses", "are empty: there is nothing to serve")
		}
		if l.Hostname != "" && !isDNSName(l.Hostname) {
			c.add(field+".hostname", "%q is not a host name in lower case", l.Hostname)
		}
	}
	s.DHCP.Boot.check(c)
	s.DHCP.Quarantine.check(c, addrs)
}

func (b *NetBoot) check(c *checker) {
	if b == nil {
		return
	}
	if _, err := netip.ParseAddr(b.Server); b.Server != "" && err != nil {
		c.add("dhcp.boot.server", "%q is no address", b.Server)
	}
	for _, f := range [][2]string{{"file", b.File}, {"script", b.Script}} {
		field, text := f[0], f[1]
		u, err := url.Parse(text)
		switch {
		case text == "" && field == "script":
		case text == "" || len(text) > 127 || !isLabel(text) || strings.ContainsRune(text, ' ') || err != nil:
			// 128 octets with their NUL is what the file field holds (RFC 2131, 2).
			c.add("dhcp.boot."+field, "%q must be a path or URL of at most 127 characters", text)
		case u.Scheme == "" && b.Server == "":
			c.add("dhcp.boot.server", "is missing: %q is a TFTP path", text)
		}
	}
}

func (q *Quarantine) check(c *checker, leases map[string]string) {
	if q == nil {
		return
	}
	first, err1 := netip.ParseAddr(q.First)
	last, err2 := netip.ParseAddr(q.Last)
	if err1 != nil || err2 != nil || !first.Is4() || !last.Is4() || last.Less(first) {
		c.add("dhcp.quarantine", "%q to %q is no range of IPv4 addresses", q.First, q.Last)
		return
	}
	n := 0
	for a := first; !last.Less(a); a = a.Next() {
		if owner, ok := leases[a.String()]; ok {
			c.add("dhcp.quarantine", "%s is taken by %s", a, owner)
		}
		if n++; n > maxQuarantine {
			c.add("dhcp.quarantine", "has more than %d addresses", maxQuarantine)
			return
		}
	}
}

package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/landfall-project/landfall/pkg/lldp"
)

// maxNeighbors bounds the links of a device, as its report does.
const maxNeighbors = 64

// Validate reports all contradictions of a snapshot at once, by the names of
// the devices and interfaces that they are about.
func (d *Document) Validate() error { return d.validate(new(checker)) }

func (d *Document) validate(c *checker) error {
	if d.Type != DocumentType {
		c.add("type", "is %q, must be %q", d.Type, DocumentType)
	}
	c.name("region", d.Region)
	if d.Generation == 0 {
		c.add("generation", "is 0, must be 1 or more")
	}
	if len(d.Devices) == 0 || len(d.Devices) > MaxDevices || len(d.Links) > MaxCables {
		c.add("devices", "are %d with %d links; there must be 1 to %d with at most %d", len(d.Devices), len(d.Links), MaxDevices, MaxCables)
		return errors.Join(c.errs...)
	}
	d.Fleet.check(c, "fleet")
	d.checkSwitches(c)
	d.checkDevices(c)
	d.checkShared(c)
	k := newCutter(d)
	d.checkCables(c, k)
	d.checkDHCP(c, k)
	return errors.Join(c.errs...)
}

func (d *Document) checkSwitches(c *checker) {
	chassis := map[string]string{}
	for i, w := range d.Switches {
		c.device = "switch " + w.ID
		c.name("id", w.ID)
		if i > 0 && d.Switches[i-1].ID >= w.ID {
			c.add("id", "is there twice, or not in order")
		}
		if !isLabel(w.Rack) || !isLabel(w.Unit) {
			c.add("rack", "and unit must be at most 128 printable ASCII characters")
		}
		if _, err := lldp.ParseID(w.ChassisID); err != nil {
			c.add("chassis_id", "%v", err)
		}
		c.unique("chassis_id", chassis, w.ChassisID)
	}
	c.device = ""
}

// checkDevices looks at each device for itself.
func (d *Document) checkDevices(c *checker) {
	for i := range d.Devices {
		e := &d.Devices[i]
		c.device = cmp.Or(e.ID, fmt.Sprintf("devices[%d]", i))
		if i > 0 && d.Devices[i-1].ID >= e.ID {
			c.add("id", "is there twice, or not in order")
		}
		if e.Generation == 0 {
			c.add("generation", "is 0, must be 1 or more")
		}
		if c.unfinished[e.ID] {
			continue
		}
		s := d.bare(e)
		s.checkDevice(c)
		s.checkInterfaces(c)
		s.checkVolumes(c)
		s.checkBoot(c)
		s.Policy.check(c)
		s.checkAmendment(c)
	}
	c.device = ""
}

// checkShared finds what two devices cannot both have.
func (d *Document) checkShared(c *checker) {
	seen := map[[2]string]string{}
	claim := func(owner, what, value string) {
		if value == "" {
			return
		}
		key := [2]string{what, value}
		first, taken := seen[key]
		if !taken {
			seen[key] = owner
		} else if first != owner {
			c.add(owner, "%s %s is that of %s as well", what, value, first)
		}
	}
	for i := range d.Devices {
		e := &d.Devices[i]
		claim(e.ID, "hostname", e.Hostname)
		claim(e.ID, "EK", e.EKName)
		claim(e.ID, "AK", e.AKName)
		if e.Rack != "" && e.Unit != "" {
			claim(e.ID, "place", "rack "+e.Rack+" unit "+e.Unit)
		}
		for _, ifc := range e.Interfaces {
			p := Port{e.ID, ifc.Name}.String()
			claim(p, "MAC address", ifc.MAC)
			for _, a := range ifc.Addresses {
				if prefix, err := netip.ParsePrefix(a); err == nil {
					claim(p, "address", prefix.Addr().String())
				}
			}
			if ifc.LLDP != nil {
				claim(p, "switch port", ifc.LLDP.PortID+" on "+ifc.LLDP.ChassisID)
			}
		}
	}
}

func (d *Document) checkCables(c *checker, k *cutter) {
	for i := range d.Links {
		l := &d.Links[i]
		name := "link " + l.A.String() + " - " + l.B.String()
		if i > 0 && d.Links[i-1].compare(l) >= 0 {
			c.add(name, "is there twice, or not in order")
		}
		if l.A.Device == l.B.Device {
			c.add(name, "is of a device with itself")
		} else if l.A.compare(l.B) > 0 {
			c.add(name, "has its ends in the wrong order")
		}
		for _, p := range []Port{l.A, l.B} {
			if _, ok := k.byID[p.Device]; !ok {
				c.add(name, "%q is no device of the region", p.Device)
			} else if k.ports[p] == nil {
				c.add(name, "%s has no interface %q", p.Device, p.Interface)
			}
		}
		c.oneOf(name, l.Link, "l2", "routed")
		c.oneOf(name, l.Check, "required", "advisory")
		a, b := k.ports[l.A], k.ports[l.B]
		if a == nil || b == nil {
			continue
		}
		if l.Link == "routed" && (routedAddress(a, b) == "" || routedAddress(b, a) == "") {
			c.add(name, "is routed, but its ends have no addresses of one family")
		}
		if l.Link == "l2" && a.MTU != 0 && b.MTU != 0 && a.MTU != b.MTU {
			c.add(name, "has an MTU of %d at one end and %d at the other", a.MTU, b.MTU)
		}
	}
	for i, links := range k.links {
		if len(links) > maxNeighbors {
			c.add(d.Devices[i].ID, "has %d links, at most %d", len(links), maxNeighbors)
		}
	}
}

func (l *Cable) compare(m *Cable) int { return cmp.Or(l.A.compare(m.A), l.B.compare(m.B)) }

func (p Port) compare(q Port) int {
	return cmp.Or(cmp.Compare(p.Device, q.Device), cmp.Compare(p.Interface, q.Interface))
}

func (d *Document) checkDHCP(c *checker, k *cutter) {
	addrs := map[string]string{}
	for i := range d.Devices {
		for _, ifc := range d.Devices[i].Interfaces {
			for _, a := range ifc.Addresses {
				if p, err := netip.ParsePrefix(a); err == nil {
					addrs[p.Addr().String()] = Port{d.Devices[i].ID, ifc.Name}.String()
				}
			}
		}
	}
	var pools []pool
	for i := range d.Devices {
		e := &d.Devices[i]
		c.device = e.ID
		if is := slices.Contains(e.Roles, RoleDHCP); is != (e.DHCP != nil) {
			c.add("dhcp", "belongs to a device of role dhcp, and to no other")
		}
		if e.DHCP != nil {
			c.oneOf("dhcp.serves", e.DHCP.Serves, "region", "rack")
			e.DHCP.Boot.check(c)
			e.DHCP.Quarantine.check(c, addrs)
			pools = append(pools, e.pools()...)
		}
		if e.DHCPDevice == "" {
			continue
		}
		if n, ok := k.byID[e.DHCPDevice]; !ok {
			c.add("dhcp_device", "%q is no device of the region", e.DHCPDevice)
		} else if !d.Devices[n].serves(e) {
			c.add("dhcp_device", "%s does not serve it: it is of another role, or serves another rack", e.DHCPDevice)
		}
	}
	c.device = ""
	checkPools(c, pools)
}

// pool is the quarantine of a device.
type pool struct {
	device      string
	first, last netip.Addr
}

// pools is the device's pool, or none: what is no range was said already.
func (e *DeviceEntry) pools() []pool {
	q := e.DHCP.Quarantine
	if q == nil {
		return nil
	}
	first, err1 := netip.ParseAddr(q.First)
	last, err2 := netip.ParseAddr(q.Last)
	if err1 != nil || err2 != nil {
		return nil
	}
	return []pool{{e.ID, first, last}}
}

// checkPools finds pools that share addresses.
func checkPools(c *checker, pools []pool) {
	slices.SortStableFunc(pools, func(x, y pool) int { return x.first.Compare(y.first) })
	var far pool // the one that reaches farthest so far
	for _, p := range pools {
		if far.device != "" && !far.last.Less(p.first) {
			c.add(p.device, "dhcp.quarantine shares addresses with that of %s", far.device)
		}
		if far.device == "" || far.last.Less(p.last) {
			far = p
		}
	}
}

package snapshot

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
)

// cutter makes slices of a document. It holds two numbers for each link, so
// that the slices of a region are made one after the other.
type cutter struct {
	d     *Document
	byID  map[string]int
	ports map[Port]*Interface
	links [][]int32 // by device: indexes of Document.Links
}

func newCutter(d *Document) *cutter {
	k := &cutter{d: d, byID: make(map[string]int, len(d.Devices)), ports: map[Port]*Interface{}, links: make([][]int32, len(d.Devices))}
	for i := range d.Devices {
		e := &d.Devices[i]
		k.byID[e.ID] = i
		for n := range e.Interfaces {
			k.ports[Port{e.ID, e.Interfaces[n].Name}] = &e.Interfaces[n]
		}
	}
	for n := range d.Links {
		for _, p := range []Port{d.Links[n].A, d.Links[n].B} {
			if i, ok := k.byID[p.Device]; ok {
				k.links[i] = append(k.links[i], int32(n))
			}
		}
	}
	return k
}

// Slices yields the slice of each device of a valid document, in its order.
// They are not signed.
func (d *Document) Slices() iter.Seq[*Slice] {
	return func(yield func(*Slice) bool) {
		k := newCutter(d)
		for i := range d.Devices {
			if !yield(k.slice(i)) {
				return
			}
		}
	}
}

// Slice returns the slice of one device of a valid document; nil when the
// region has no such device.
func (d *Document) Slice(id string) *Slice {
	k := newCutter(d)
	if i, ok := k.byID[id]; ok {
		return k.slice(i)
	}
	return nil
}

// bare is a device's slice without what follows from the rest of the document:
// neighbors and leases. It shares memory with the document.
func (d *Document) bare(e *DeviceEntry) *Slice {
	return &Slice{
		Type: SliceType, Region: d.Region, Generation: e.Generation, Device: e.Device,
		Interfaces: e.Interfaces, Volumes: e.Volumes, Boot: e.Boot, Fleet: d.Fleet,
		DHCPDevice: e.DHCPDevice, Policy: e.Policy, Amendment: e.Amendment,
	}
}

func (k *cutter) slice(i int) *Slice {
	e := &k.d.Devices[i]
	s := k.d.bare(e)
	for _, n := range k.links[i] {
		l := &k.d.Links[n]
		ours, theirs := l.A, l.B
		if ours.Device != e.ID {
			ours, theirs = theirs, ours
		}
		peer := &k.d.Devices[k.byID[theirs.Device]]
		neighbor := Neighbor{Device: peer.ID, Interface: ours.Interface, PeerInterface: theirs.Interface, AKName: peer.AKName, Link: l.Link, Check: l.Check}
		if l.Link == "routed" {
			neighbor.Address = routedAddress(k.ports[ours], k.ports[theirs])
		}
		s.Neighbors = append(s.Neighbors, neighbor)
	}
	slices.SortFunc(s.Neighbors, func(a, b Neighbor) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.Device, b.Device), cmp.Compare(a.PeerInterface, b.PeerInterface))
	})
	if e.DHCP != nil {
		s.DHCP = &DHCP{Leases: k.d.leases(e), Boot: e.DHCP.Boot, Quarantine: e.DHCP.Quarantine}
	}
	return s
}

// routedAddress is where a routed link is asked: the peer's first address of a
// family that our interface has as well; "" when there is none.
func routedAddress(ours, theirs *Interface) string {
	if ours == nil || theirs == nil {
		return ""
	}
	var v4, v6 bool
	for _, a := range ours.Addresses {
		p, err := netip.ParsePrefix(a)
		v4 = v4 || err == nil && p.Addr().Is4()
		v6 = v6 || err == nil && p.Addr().Is6()
	}
	for _, a := range theirs.Addresses {
		if p, err := netip.ParsePrefix(a); err == nil && (p.Addr().Is4() && v4 || p.Addr().Is6() && v6) {
			return p.Addr().String()
		}
	}
	return ""
}

// leases are those that a DHCP device serves: the interfaces with addresses of
// the servers. The other roles have static addresses.
func (d *Document) leases(dhcp *DeviceEntry) []Lease {
	list := []Lease{}
	for i := range d.Devices {
		e := &d.Devices[i]
		if !dhcp.serves(e) {
			continue
		}
		for _, ifc := range e.Interfaces {
			if len(ifc.Addresses) > 0 {
				list = append(list, Lease{Device: e.ID, Interface: ifc.Name, MAC: ifc.MAC, Addresses: ifc.Addresses,
					Gateway: ifc.Gateway, MTU: ifc.MTU, Hostname: e.Hostname})
			}
		}
	}
	return list
}

// serves says whether a device of role dhcp has leases for another device.
func (e *DeviceEntry) serves(other *DeviceEntry) bool {
	return e.DHCP != nil && slices.Contains(other.Roles, RoleServer) && (e.DHCP.Serves == "region" || e.Rack == other.Rack)
}

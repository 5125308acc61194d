package snapshot

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// differ tells in words what changed, one line each.
type differ struct {
	owner string
	lines []string
}

func (d *differ) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if d.owner != "" {
		line = d.owner + ": " + line
	}
	d.lines = append(d.lines, line)
}

// changed tells about one value; the empty one is "none".
func (d *differ) changed(what, old, new string) {
	if old != new {
		d.say("%s changes from %s to %s", what, cmp.Or(old, "none"), cmp.Or(new, "none"))
	}
}

// DiffDocuments tells in words what is different in a later snapshot of a
// region: nothing if they are the same.
func DiffDocuments(old, new *Document) []string {
	d := &differ{}
	d.changed("region", old.Region, new.Region)
	d.changed("generation", fmt.Sprint(old.Generation), fmt.Sprint(new.Generation))
	d.fleet(&old.Fleet, &new.Fleet)
	diffKeyed(d, "switch", byKey(old.Switches, func(s Switch) string { return s.ID }), byKey(new.Switches, func(s Switch) string { return s.ID }),
		func(x, y Switch) {
			d.owner = "switch " + x.ID
			d.changed("chassis ID", x.ChassisID, y.ChassisID)
			d.changed("place", strings.TrimSpace(x.Rack+" "+x.Unit), strings.TrimSpace(y.Rack+" "+y.Unit))
		})
	d.owner = ""
	next := 0
	id := func(e DeviceEntry) string { return e.ID }
	diffKeyed(d, "device", byKey(old.Devices, id), byKey(new.Devices, id), func(x, y DeviceEntry) {
		d.owner = x.ID
		if x.Generation != y.Generation {
			next++
			y.Generation = x.Generation
		}
		d.slice(old.bare(&x), new.bare(&y))
		if !reflect.DeepEqual(x.DHCP, y.DHCP) {
			d.say("what it serves by DHCP changes")
		}
	})
	d.owner = ""
	switch next {
	case 0:
	case 1:
		d.say("1 device gets another generation")
	default:
		d.say("%d devices get another generation", next)
	}
	pair := func(c Cable) string { return c.A.String() + " - " + c.B.String() }
	diffKeyed(d, "link", byKey(old.Links, pair), byKey(new.Links, pair), func(x, y Cable) {
		d.owner = "link " + pair(x)
		d.changed("kind", x.Link, y.Link)
		d.changed("check", x.Check, y.Check)
	})
	return d.lines
}

// DiffSlices tells in words what is different in a later slice.
func DiffSlices(old, new *Slice) []string {
	d := &differ{}
	d.changed("region", old.Region, new.Region)
	d.changed("device", old.Device.ID, new.Device.ID)
	d.fleet(&old.Fleet, &new.Fleet)
	d.slice(old, new)
	end := func(n Neighbor) string { return n.Interface + " to " + n.Device + "/" + n.PeerInterface }
	diffKeyed(d, "neighbor", byKey(old.Neighbors, end), byKey(new.Neighbors, end), func(x, y Neighbor) {
		what := "neighbor " + end(x) + ": "
		d.changed(what+"AK", x.AKName, y.AKName)
		d.changed(what+"kind", x.Link, y.Link)
		d.changed(what+"address", x.Address, y.Address)
		d.changed(what+"check", x.Check, y.Check)
	})
	var a, b DHCP
	if old.DHCP != nil {
		a = *old.DHCP
	}
	if new.DHCP != nil {
		b = *new.DHCP
	}
	lease := func(l Lease) string { return l.Device + "/" + l.Interface }
	diffKeyed(d, "lease", byKey(a.Leases, lease), byKey(b.Leases, lease), func(x, y Lease) {
		what := "lease of " + lease(x) + ": "
		d.changed(what+"MAC address", x.MAC, y.MAC)
		d.changed(what+"addresses", strings.Join(x.Addresses, " "), strings.Join(y.Addresses, " "))
		d.changed(what+"gateway, MTU or host name", fmt.Sprint(x.Gateway, " ", x.MTU, " ", x.Hostname), fmt.Sprint(y.Gateway, " ", y.MTU, " ", y.Hostname))
	})
	if !reflect.DeepEqual(a.Boot, b.Boot) || !reflect.DeepEqual(a.Quarantine, b.Quarantine) {
		d.say("what it serves to firmware or to unknown machines changes")
	}
	return d.lines
}

func byKey[T any](list []T, key func(T) string) map[string]T {
	m := make(map[string]T, len(list))
	for _, v := range list {
		m[key(v)] = v
	}
	return m
}

// diffKeyed tells what is gone and what is new, and calls both for the rest.
func diffKeyed[T any](d *differ, what string, old, new map[string]T, both func(x, y T)) {
	owner := d.owner
	all := maps.Clone(old)
	maps.Copy(all, new)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		x, was := old[key]
		y, is := new[key]
		switch {
		case !is:
			d.say("%s %s is gone", what, key)
		case !was:
			d.say("%s %s is new", what, key)
		case !reflect.DeepEqual(x, y):
			both(x, y)
			d.owner = owner
		}
	}
}

func (d *differ) fleet(old, new *Fleet) {
	if !slices.Equal(old.CA, new.CA) {
		d.say("the fleet's CA changes")
	}
	id := func(m Member) string { return m.ID }
	diffKeyed(d, "key server", byKey(old.Members, id), byKey(new.Members, id), func(x, y Member) {
		d.changed("URL of key server "+x.ID, x.URL, y.URL)
	})
	var was, is []string
	for _, m := range old.Members {
		was = append(was, m.ID)
	}
	for _, m := range new.Members {
		is = append(is, m.ID)
	}
	if len(was) == len(is) {
		d.changed("order of key servers", strings.Join(was, " "), strings.Join(is, " "))
	}
}

// slice tells what changes for a device itself.
func (d *differ) slice(old, new *Slice) {
	d.changed("generation", fmt.Sprint(old.Generation), fmt.Sprint(new.Generation))
	x, y := old.Device, new.Device
	for _, f := range [][3]string{{"rack", x.Rack, y.Rack}, {"unit", x.Unit, y.Unit}, {"hostname", x.Hostname, y.Hostname}, {"serial", x.Serial, y.Serial},
		{"roles", fmt.Sprint(x.Roles), fmt.Sprint(y.Roles)}, {"EK", x.EKName, y.EKName}, {"AK", x.AKName, y.AKName}, {"SRK", x.SRKName, y.SRKName},
		{"DHCP device", old.DHCPDevice, new.DHCPDevice}, {"policy", old.Policy.words(), new.Policy.words()},
		{"boot entry", old.Boot.Entry, new.Boot.Entry}, {"command line", old.Boot.Cmdline, new.Boot.Cmdline},
		{"boot keys", strings.Join(old.Boot.Keys, " "), strings.Join(new.Boot.Keys, " ")}} {
		d.changed(f[0], f[1], f[2])
	}
	name := func(i Interface) string { return i.Name }
	diffKeyed(d, "interface", byKey(old.Interfaces, name), byKey(new.Interfaces, name), func(x, y Interface) {
		d.changed(x.Name+" MAC address", x.MAC, y.MAC)
		d.changed(x.Name+" addresses", strings.Join(x.Addresses, " "), strings.Join(y.Addresses, " "))
		d.changed(x.Name+" gateway", x.Gateway, y.Gateway)
		d.changed(x.Name+" MTU", fmt.Sprint(x.MTU), fmt.Sprint(y.MTU))
		d.changed(x.Name+" switch port", x.LLDP.words(), y.LLDP.words())
	})
	volume := func(v Volume) string { return v.Name }
	diffKeyed(d, "volume", byKey(old.Volumes, volume), byKey(new.Volumes, volume), func(x, y Volume) {
		d.say("volume %s is used or made in another way", x.Name)
	})
	link := func(w Waiver) string { return w.Interface + " to " + w.Peer }
	diffKeyed(d, "waiver of", byKey(old.Amendment.waivers(), link), byKey(new.Amendment.waivers(), link), func(x, y Waiver) {
		d.changed("reason to waive "+link(x), x.Reason, y.Reason)
	})
}

func (p Policy) words() string {
	s := "lease " + p.Lease + ", links " + p.Links
	if p.LinksPercent != 0 {
		s += fmt.Sprintf(" %d %%", p.LinksPercent)
	}
	if p.KernelSignature {
		s += ", signed boot entry"
	}
	return s
}

func (l *LLDP) words() string {
	if l == nil {
		return ""
	}
	return l.ChassisID + " " + l.PortID
}

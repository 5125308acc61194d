package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/printable"
)

// Sources are what a region's snapshot is assembled from.
type Sources struct {
	Region *Region
	CA     []byte // DER certificate of the fleet CA
	// Plans may each say a part about a device, as an imported cabling plan and
	// one that people wrote do. One of them may have Defaults.
	Plans []*Plan
	// Descriptions are of one device each, as ParseDescription reads them. They
	// add to what the plans say about it.
	Descriptions []*Slice
	Captures     []*Capture
	Keys         map[string]TPMKeys // of the enrolled devices, by ID
}

// Assemble makes generation 1 of a region's snapshot. The error joins all
// contradictions between the sources, by the names of the devices, interfaces
// and switches that they are about. notes say what a person should look at
// though it contradicts nothing.
func Assemble(in Sources) (doc *Document, notes []string, err error) {
	a := &assembler{in: &in, devices: map[string]*PlanDevice{}, captures: map[string]*Capture{}, linked: map[[2]Port]bool{}}
	a.c.unfinished = map[string]bool{}
	a.collect()
	a.checkRecords()
	a.setPorts()
	a.setSwitches()
	a.heardDevices()
	a.meshes()
	doc = a.build()
	if err := doc.validate(&checker{unfinished: a.c.unfinished}); err != nil {
		a.c.errs = append(a.c.errs, err)
	}
	if len(a.c.errs) > 0 {
		return nil, a.notes, errors.Join(a.c.errs...)
	}
	return doc, a.notes, nil
}

// assembler gathers what the sources say; its steps come in Assemble's order.
type assembler struct {
	in       *Sources
	c        checker
	notes    []string
	devices  map[string]*PlanDevice
	captures map[string]*Capture
	switches []*planSwitch
	defaults *PlanDefaults
	links    []PlanLink // between devices
	linked   map[[2]Port]bool
	own      map[string]string // names and MAC addresses of devices, to words about them
	adopted  map[string]bool   // chassis IDs of switches that no plan lists
}

func (a *assembler) note(format string, args ...any) {
	a.notes = append(a.notes, fmt.Sprintf(format, args...))
}

// ids are the devices in order.
func (a *assembler) ids() []string { return slices.Sorted(maps.Keys(a.devices)) }

// collect reads plans and descriptions, and the links of both.
func (a *assembler) collect() {
	for _, p := range a.in.Plans {
		a.plan(p)
	}
	described := map[string]bool{}
	for _, s := range a.in.Descriptions {
		d := planOf(s)
		if described[d.ID] {
			a.c.add(d.ID, "is described twice")
			continue
		}
		described[d.ID] = true
		if s.Generation > 1 || s.Amendment != nil || s.Fleet.CA != nil || s.Fleet.Members != nil {
			a.c.add(d.ID, "its description holds a generation, an amendment or a fleet, which assemble brings itself")
		}
		a.addDevice(d)
	}
	for _, c := range a.in.Captures {
		switch {
		case a.captures[c.Device] != nil:
			a.c.add(c.Device, "was captured twice: two machines say they are it, or an old file is among the captures")
		case a.devices[c.Device] == nil:
			a.c.add(c.Device, "was captured, but is no device of the plan")
		}
		a.captures[c.Device] = c
	}
	for _, id := range a.ids() {
		if a.switchOf(id) != nil {
			a.c.add(id, "is a device and a switch")
		}
	}
	said := map[PlanLink]bool{} // by an earlier plan
	for _, p := range a.in.Plans {
		for _, l := range p.Links {
			if l = l.ordered(); !said[l] {
				a.planLink(l)
			}
		}
		for _, l := range p.Links {
			said[l.ordered()] = true
		}
	}
	a.describedLinks()
}

// plan takes the devices, switches and defaults of one plan.
func (a *assembler) plan(p *Plan) {
	if p.Defaults != nil && a.defaults != nil {
		a.c.add("defaults", "are in two plans")
	}
	a.defaults = cmp.Or(a.defaults, p.Defaults)
	seen := map[string]bool{}
	once := func(id string) bool {
		if seen[id] {
			a.c.add(id, "is in one plan twice")
			return false
		}
		seen[id] = true
		return true
	}
	for i := range p.Switches {
		if w := p.Switches[i]; once(w.ID) {
			a.addSwitch(w)
		}
	}
	for i := range p.Devices {
		if d := p.Devices[i]; once(d.ID) {
			d.Interfaces = slices.Clone(d.Interfaces)
			a.addDevice(&d)
		}
	}
}

func (a *assembler) addDevice(d *PlanDevice) {
	if known := a.devices[d.ID]; known != nil {
		a.merge(known, d)
		return
	}
	a.devices[d.ID] = d
}

// planLink sorts the links between devices from those to switches.
func (a *assembler) planLink(l PlanLink) {
	x, y := a.switchOf(l.A.Device), a.switchOf(l.B.Device)
	switch {
	case x != nil && y != nil: // between switches: none of our devices sees it
	case x != nil:
		a.onSwitch(x, l.A.Interface, l.B)
	case y != nil:
		a.onSwitch(y, l.B.Interface, l.A)
	default:
		a.addLink(l)
	}
}

// ordered is the link with its lesser end first, and with defaults.
func (l PlanLink) ordered() PlanLink {
	if l.A.compare(l.B) > 0 {
		l.A, l.B = l.B, l.A
	}
	l.Link, l.Check = cmp.Or(l.Link, "l2"), cmp.Or(l.Check, "required")
	return l
}

// addLink takes a link between two devices, once.
func (a *assembler) addLink(l PlanLink) {
	l = l.ordered()
	for _, p := range []Port{l.A, l.B} {
		a.wantPort(p, fmt.Sprintf("link %s - %s", l.A, l.B))
	}
	if a.linked[[2]Port{l.A, l.B}] {
		a.c.add(fmt.Sprintf("link %s - %s", l.A, l.B), "is there twice")
		return
	}
	a.linked[[2]Port{l.A, l.B}] = true
	a.links = append(a.links, l)
}

// wantPort makes sure that a port of a link exists. One that the plan leaves
// out is taken from the capture.
func (a *assembler) wantPort(p Port, why string) bool {
	d := a.devices[p.Device]
	if d == nil {
		a.c.add(why, "%q is no device of the plan", p.Device)
		return false
	}
	if d.find(p.Interface) != nil {
		return true
	}
	if c := a.captures[p.Device]; c != nil && c.find(p.Interface) != nil {
		d.Interfaces = append(d.Interfaces, PlanInterface{Name: p.Interface})
		return true
	}
	a.c.add(why, "%s has no interface %q", p.Device, p.Interface)
	return false
}

// describedLinks takes the neighbors of the descriptions, which both ends must
// name.
func (a *assembler) describedLinks() {
	claims := map[[2]Port]Neighbor{}
	for _, s := range a.in.Descriptions {
		for _, n := range s.Neighbors {
			claims[[2]Port{{s.Device.ID, n.Interface}, {n.Device, n.PeerInterface}}] = n
		}
	}
	ends := slices.SortedFunc(maps.Keys(claims), func(x, y [2]Port) int { return cmp.Or(x[0].compare(y[0]), x[1].compare(y[1])) })
	for _, e := range ends {
		n := claims[e]
		back, ok := claims[[2]Port{e[1], e[0]}]
		low := e[0].compare(e[1]) < 0
		planned := a.linked[[2]Port{e[0], e[1]}] || a.linked[[2]Port{e[1], e[0]}]
		switch {
		case planned:
		case !ok:
			a.c.add(e[0].String(), "names %s as its neighbor, but is not named there: the link has one end", e[1])
		case low && (n.Link != back.Link || n.Check != back.Check):
			a.c.add(e[0].String(), "and %s disagree about their link: %s %s, and %s %s", e[1], n.Link, n.Check, back.Link, back.Check)
		case low:
			a.addLink(PlanLink{e[0], e[1], n.Link, n.Check})
		}
		if keys, known := a.in.Keys[n.Device]; known && n.AKName != "" && n.AKName != keys.AKName {
			a.c.add(e[0].String(), "expects another AK of %s than the fleet recorded", n.Device)
		}
	}
}

// checkRecords compares the devices with those that the fleet knows.
func (a *assembler) checkRecords() {
	var missing []string
	for _, id := range a.ids() {
		if _, ok := a.in.Keys[id]; !ok {
			a.c.add(id, "is not enrolled, or its record is missing: boot it in the factory image first")
			a.c.unfinished[id] = true
			continue
		}
		if a.captures[id] == nil {
			missing = append(missing, id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(a.in.Keys)) {
		if a.devices[id] == nil {
			a.c.add(id, "is enrolled, but is no device of the plan")
		}
	}
	if n := len(missing); n > 0 && len(a.captures) > 0 {
		a.note("no capture of %s, so that nothing of theirs was compared: %s", printable.Count(n, "device"), strings.Join(missing[:min(n, 10)], " "))
	}
}

// build writes the document, in order.
func (a *assembler) build() *Document {
	d := &Document{Type: DocumentType, Region: a.in.Region.Name, Generation: 1,
		Fleet: Fleet{CA: a.in.CA, Members: a.in.Region.Members}, Links: []Cable{}}
	for _, w := range a.switches {
		d.Switches = append(d.Switches, Switch{ID: w.ID, Rack: w.Rack, Unit: w.Unit, ChassisID: cmp.Or(w.ChassisID, w.ID)})
	}
	slices.SortFunc(d.Switches, func(x, y Switch) int { return cmp.Compare(x.ID, y.ID) })
	for _, id := range a.ids() {
		d.Devices = append(d.Devices, a.entry(a.devices[id]))
	}
	for i := range d.Devices {
		if e := &d.Devices[i]; e.DHCPDevice == "" {
			e.DHCPDevice = d.dhcpFor(e)
		}
	}
	for _, l := range a.links {
		if a.portOf(l.A) != nil && a.portOf(l.B) != nil { // what is missing was said
			d.Links = append(d.Links, Cable(l))
		}
	}
	slices.SortFunc(d.Links, func(x, y Cable) int { return x.compare(&y) })
	return d
}

// entry completes a device.
func (a *assembler) entry(p *PlanDevice) DeviceEntry {
	var def PlanDefaults
	if a.defaults != nil {
		def = *a.defaults
	}
	keys := a.in.Keys[p.ID]
	e := DeviceEntry{
		Device: Device{ID: p.ID, Roles: p.Roles, Rack: p.Rack, Unit: p.Unit, Hostname: cmp.Or(p.Hostname, p.ID), Serial: p.Serial,
			EKName: keys.EKName, AKName: keys.AKName, SRKName: keys.SRKName, SRKPublic: keys.SRKPublic},
		Generation: 1, DHCPDevice: p.DHCPDevice, DHCP: p.DHCP, Interfaces: []Interface{}, Volumes: []Volume{},
	}
	if len(e.Roles) == 0 {
		e.Roles = def.Roles
	}
	if len(e.Roles) == 0 {
		e.Roles = []Role{RoleServer}
	}
	for _, i := range p.Interfaces {
		ifc := Interface(i)
		if ifc.Addresses == nil {
			ifc.Addresses = []string{}
		}
		e.Interfaces = append(e.Interfaces, ifc)
	}
	volumes := p.Volumes
	if volumes == nil && slices.Contains(e.Roles, RoleServer) {
		volumes = def.Volumes
	}
	for _, v := range volumes {
		setDefault(&v.UUID, VolumeUUID(p.ID, v.Name))
		e.Volumes = append(e.Volumes, v)
	}
	if b := cmp.Or(p.Boot, def.Boot); b != nil {
		e.Boot = *b
	}
	e.Policy = e.policy(cmp.Or(p.Policy, def.Policy))
	return e
}

// policy fills in the defaults. A DHCP device serves others: one dead neighbor
// of four must not stop it.
func (e *DeviceEntry) policy(said *Policy) Policy {
	p := Policy{}
	if said != nil {
		p = *said
	}
	setDefault(&p.Lease, "strict")
	if p.Links == "" && e.DHCP != nil {
		p.Links, p.LinksPercent = "fraction", 75
	}
	setDefault(&p.Links, "required")
	return p
}

// dhcpFor is the device that serves e: of its own rack rather than another.
func (d *Document) dhcpFor(e *DeviceEntry) string {
	found := ""
	for i := range d.Devices {
		o := &d.Devices[i]
		if o.serves(e) && (found == "" || o.Rack == e.Rack) {
			if found = o.ID; o.Rack == e.Rack {
				return found
			}
		}
	}
	return found
}

// Package draw shows the snapshot of a region, and what the devices report of
// their links, to the person in front of a rack: as SVG, and as a tree of plain
// text for 80 columns. It opens no file and no socket.
package draw

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// state says how a link, a port, a device or a rack is; the worst one counts.
type state uint8

const (
	plain   state = iota // no reports were given: the plan alone is drawn
	good                 // all required links are proved
	unheard              // the device sent no report, and nobody misses it
	warn                 // what stops nothing: an advisory link, a switch port
	waits                // a required link is not proved; the cause is at its other end
	bad                  // a required link is not proved, and the cause may be here
)

// word is how a state is told where there are no colours.
func (s state) word() string { return []string{"", "ok", "?", "warn", "wait", "BAD"}[s] }

// Model is a snapshot with the reports of its devices.
type Model struct {
	doc      *snapshot.Document
	devices  map[string]*device
	ports    map[snapshot.Port]*port
	racks    []*rack
	chassis  map[string]string // names of switches, by what they call themselves
	problems []*problem
	notes    []string
	reported int // devices with a report
	plan     bool
}

type rack struct {
	name     string
	devices  []*device // as they stand in the rack, from the top
	switches []snapshot.Switch
	state    state
	problems []*problem
}

type device struct {
	entry  *snapshot.DeviceEntry
	rack   *rack
	ports  []*port
	report *report.LinkReport
	state  state
	dead   bool // no report, and no neighbor hears it
}

type port struct {
	device *device
	ifc    *snapshot.Interface
	ends   []*end
	state  state
	// problems name the port, the gravest first.
	problems []*problem
	// The switch port that it belongs on, and where the switch says it is if
	// that differs; empty: unknown, or the same.
	belongs, found string
}

// end is one end of a link, with what its device reports about it.
type end struct {
	own, peer *port
	cable     *snapshot.Cable
	verdict   *report.LinkVerdict // nil: none
	seen      *port               // who answers instead, if the snapshot knows it
	state     state
}

// New puts reports to the devices that they are from. Without any, the plan
// alone is drawn. The document must be valid.
func New(doc *snapshot.Document, reports []*report.LinkReport) *Model {
	m := &Model{doc: doc, chassis: map[string]string{}, devices: map[string]*device{}, ports: map[snapshot.Port]*port{}, plan: len(reports) == 0}
	racks := map[string]*rack{}
	rackOf := func(name string) *rack {
		if racks[name] == nil {
			racks[name] = &rack{name: name}
			m.racks = append(m.racks, racks[name])
		}
		return racks[name]
	}
	for i := range doc.Devices {
		e := &doc.Devices[i]
		r := rackOf(e.Rack)
		d := &device{entry: e, rack: r}
		r.devices = append(r.devices, d)
		m.devices[e.ID] = d
		for n := range e.Interfaces {
			p := &port{device: d, ifc: &e.Interfaces[n]}
			d.ports = append(d.ports, p)
			m.ports[snapshot.Port{Device: e.ID, Interface: p.ifc.Name}] = p
		}
	}
	for _, w := range doc.Switches {
		if r := racks[w.Rack]; r != nil {
			r.switches = append(r.switches, w)
		}
	}
	for _, r := range m.racks {
		slices.SortFunc(r.devices, func(x, y *device) int {
			return cmp.Or(natural(y.entry.Unit, x.entry.Unit), natural(x.entry.ID, y.entry.ID))
		})
	}
	slices.SortFunc(m.racks, func(x, y *rack) int { return natural(x.name, y.name) })
	m.cable()
	m.read(reports)
	m.nameSwitches()
	m.judge()
	m.explain()
	m.total()
	return m
}

// cable makes both ends of each link.
func (m *Model) cable() {
	for i := range m.doc.Links {
		l := &m.doc.Links[i]
		a, b := m.ports[l.A], m.ports[l.B]
		a.ends = append(a.ends, &end{own: a, peer: b, cable: l})
		b.ends = append(b.ends, &end{own: b, peer: a, cable: l})
	}
}

// read takes the reports: of several from one device the last.
func (m *Model) read(reports []*report.LinkReport) {
	for _, r := range reports {
		d := m.devices[r.Device]
		if d == nil {
			m.note("a report is from %.63s, which is no device of this snapshot", printable.ASCII(r.Device))
			continue
		}
		if d.report == nil {
			m.reported++
		}
		d.report = r
	}
	for i := range m.doc.Devices {
		if d := m.devices[m.doc.Devices[i].ID]; d.report != nil {
			m.verdicts(d)
		}
	}
}

func (m *Model) verdicts(d *device) {
	if d.report.Slice != d.entry.Generation {
		m.note("the report of %s is about its slice %d, the snapshot has %d", d.entry.ID, d.report.Slice, d.entry.Generation)
	}
	by := map[[3]string]*report.LinkVerdict{}
	for i := range d.report.Links {
		v := &d.report.Links[i]
		by[[3]string{v.Interface, v.Peer, v.PeerInterface}] = v
	}
	for _, p := range d.ports {
		for _, e := range p.ends {
			key := [3]string{p.ifc.Name, e.peer.device.entry.ID, e.peer.ifc.Name}
			if e.verdict = by[key]; e.verdict == nil {
				continue
			}
			delete(by, key)
			if name, ifc, ok := strings.Cut(e.verdict.Seen, " "); ok {
				e.seen = m.ports[snapshot.Port{Device: name, Interface: ifc}]
				if e.seen == e.peer || e.seen == p {
					e.seen = nil // it is in its place, and something else is wrong
				}
			}
		}
	}
	if len(by) > 0 {
		m.note("%s reports %s that this snapshot does not have", d.entry.ID, printable.Count(len(by), "link"))
	}
}

func (m *Model) note(format string, args ...any) {
	m.notes = append(m.notes, fmt.Sprintf(format, args...))
}

// judge decides the states of links, and which devices are dead.
func (m *Model) judge() {
	if m.plan {
		return
	}
	m.eachPort(func(p *port) {
		for _, e := range p.ends {
			e.state = e.judge()
		}
	})
	for _, r := range m.racks {
		for _, d := range r.devices {
			d.dead = d.report == nil && m.missed(d)
		}
	}
}

// total decides the states of ports, devices and racks from those of the links,
// once it is known where the causes are.
func (m *Model) total() {
	if m.plan {
		return
	}
	for _, r := range m.racks {
		for _, d := range r.devices {
			d.state = good
			if d.report == nil {
				d.state = unheard
			}
			for _, p := range d.ports {
				for _, e := range p.ends {
					p.state = max(p.state, e.state)
				}
				if p.found != "" {
					p.state = max(p.state, warn)
				}
				d.state = max(d.state, p.state)
			}
			if d.dead {
				d.state = bad
			}
			r.state = max(r.state, d.state)
		}
	}
}

// eachPort visits all ports, in the order of the drawing.
func (m *Model) eachPort(do func(*port)) {
	for _, r := range m.racks {
		for _, d := range r.devices {
			for _, p := range d.ports {
				do(p)
			}
		}
	}
}

// judge is the state of one end. Only the device's own word counts.
func (e *end) judge() state {
	switch v := e.verdict; {
	case v == nil:
		return unheard
	case proof(v), v.Waived != "":
		return good
	case v.Required:
		return bad
	}
	return warn
}

func proof(v *report.LinkVerdict) bool {
	return v.Verdict == "proved" || v.Verdict == "proved-ok" || v.Verdict == "production"
}

// missed says whether neighbors expect a device and do not hear it on any port.
// Some may have heard it before it died.
func (m *Model) missed(d *device) bool {
	heard := map[*device]bool{} // by whom
	for _, p := range d.ports {
		for _, e := range p.ends {
			for _, back := range e.peer.ends {
				switch by := e.peer.device; {
				case back.peer != p || back.verdict == nil:
				case proof(back.verdict):
					heard[by] = true
				case back.silent():
					if !heard[by] {
						heard[by] = false // unless another port hears it
					}
				}
			}
		}
	}
	missing := 0
	for _, h := range heard {
		missing += btoi(!h)
	}
	return missing > 0 && 2*missing >= len(heard)
}

// silent says that nothing at all was heard.
func (e *end) silent() bool {
	return e.verdict != nil && (e.verdict.Verdict == "silent" || e.verdict.Verdict == "unknown")
}

// proved counts the links of a port, and those of them that are proved.
func (p *port) proved() (proved, links int) {
	for _, e := range p.ends {
		if e.verdict != nil && proof(e.verdict) {
			proved++
		}
	}
	return proved, len(p.ends)
}

// name is how people call a port: "r07-u12 eth1".
func (p *port) name() string { return p.device.entry.ID + " " + p.ifc.Name }

// natural compares names as people order them: u9 before u10.
func natural(x, y string) int {
	for x != "" && y != "" {
		a, b := number(x), number(y)
		if a == "" || b == "" {
			if x[0] != y[0] {
				return cmp.Compare(x[0], y[0])
			}
			x, y = x[1:], y[1:]
			continue
		}
		x, y = x[len(a):], y[len(b):]
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		if c := cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(x), len(y))
}

// number is the digits that a text begins with.
func number(s string) string {
	return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
}

package draw

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
)

// maxTold bounds the lines of one problem.
const maxTold = 4

// problem is one thing to repair: what several devices report of it is put
// together.
type problem struct {
	n     int // from 1, the gravest first
	code  report.Code
	title string
	lines []string // where and what
	do    string
	state state
	ends  []*end
	racks []*rack   // of the ports that it names
	dead  []*device // do not answer
	quiet []*device // sent no report
}

// grave orders codes: what a TPM vouches for, then claims, then silence.
func grave(c report.Code) int {
	order := []report.Code{
		report.LinkBadSignature, report.LinkForeign, report.LinkWrongPort, report.LinkWrongDevice, report.LinkDisagrees,
		report.LinkNoCarrier, report.LinkSilent, report.LinkLLDP,
	}
	if i := slices.Index(order, c); i >= 0 {
		return i
	}
	return len(order)
}

// explain finds what is to be repaired: first dead devices, which explain the
// silence of many links, then the ports that most bad links have in common.
func (m *Model) explain() {
	open := map[*end]bool{}
	m.eachPort(func(p *port) {
		for _, e := range p.ends {
			if e.state >= warn {
				open[e] = true
			}
		}
	})
	for _, r := range m.racks {
		m.deadDevices(r, open)
	}
	m.badPorts(open)
	m.switchPorts()
	for _, r := range m.racks {
		m.quiet(r)
	}
	slices.SortStableFunc(m.problems, func(x, y *problem) int {
		return cmp.Or(cmp.Compare(y.state, x.state), cmp.Compare(len(y.dead)+len(y.quiet), len(x.dead)+len(x.quiet)),
			cmp.Compare(grave(x.code), grave(y.code)), cmp.Compare(len(y.ends), len(x.ends)))
	})
	for i, p := range m.problems {
		p.n = i + 1
	}
	m.mark()
}

// mark ties problems to the racks and ports that they name.
func (m *Model) mark() {
	for _, p := range m.problems {
		at := map[*rack]bool{}
		touch := func(q *port) {
			at[q.device.rack] = true
			if !slices.Contains(q.problems, p) {
				q.problems = append(q.problems, p)
			}
		}
		for _, d := range p.quiet {
			at[d.rack] = true
		}
		for _, d := range p.dead {
			at[d.rack] = true
			for _, q := range d.ports {
				touch(q)
			}
		}
		for _, e := range p.ends {
			if e.state >= warn || e.own.found != "" {
				touch(e.own)
			}
			if e.seen != nil {
				touch(e.seen)
			}
		}
		for _, r := range m.racks {
			if at[r] {
				p.racks = append(p.racks, r)
				r.problems = append(r.problems, p)
			}
		}
	}
}

// deadDevices explains the links to devices that nobody hears.
func (m *Model) deadDevices(r *rack, open map[*end]bool) {
	var dead []*device
	for _, d := range r.devices {
		if d.dead {
			dead = append(dead, d)
		}
	}
	if len(dead) >= 3 && 2*len(dead) >= len(r.devices) {
		p := &problem{code: report.LinkSilent, state: bad, dead: dead, title: fmt.Sprintf("%d of %d devices of rack %s do not answer", len(dead), len(r.devices), r.title()),
			do: "look at the rack first: power, its switches, its uplinks"}
		for _, d := range dead {
			p.take(d, open)
		}
		p.lines = []string{"nobody hears " + some(ids(dead), 6)}
		m.problems = append(m.problems, p)
		return
	}
	for _, d := range dead {
		p := &problem{code: report.LinkSilent, state: bad, dead: []*device{d}, title: d.entry.ID + " does not answer"}
		p.take(d, open)
		p.lines = []string{fmt.Sprintf("no report from it, and no answer to its neighbors: %s", some(p.reporters(), 6))}
		p.do = fmt.Sprintf("go to %s: is it on? its own console says what holds it", d.place())
		m.problems = append(m.problems, p)
	}
}

// quiet tells of devices that sent no report, and that nobody misses.
func (m *Model) quiet(r *rack) {
	var quiet []*device
	for _, d := range r.devices {
		if d.report == nil && !d.dead {
			quiet = append(quiet, d)
		}
	}
	if m.plan || len(quiet) == 0 {
		return
	}
	p := &problem{state: unheard, quiet: quiet, title: fmt.Sprintf("no report from %d of the %s of rack %s", len(quiet), printable.Count(len(r.devices), "device"), r.title()),
		lines: []string{some(ids(quiet), 8)}, do: "look at one of their consoles: they have not reached a key server yet"}
	if len(quiet) == 1 {
		p.do = fmt.Sprintf("look at the console of %s: it has not reached a key server yet", quiet[0].place())
	}
	if len(quiet) == len(r.devices) {
		p.state = bad
		p.do = "look at the rack: power, its switches, its uplinks; then at one of the consoles"
	}
	m.problems = append(m.problems, p)
}

// take moves the silent links to a device into a problem.
func (p *problem) take(d *device, open map[*end]bool) {
	for _, q := range d.ports {
		for _, e := range q.ends {
			for _, back := range e.peer.ends {
				if back.peer == q && open[back] && back.silent() {
					delete(open, back)
					p.ends = append(p.ends, back)
					back.elsewhere()
				}
			}
		}
	}
}

// elsewhere says that the cause of an end's trouble is at the other end.
func (e *end) elsewhere() {
	if e.state == bad {
		e.state = waits
	}
}

// reporters are the devices that a problem's reports are from.
func (p *problem) reporters() []string {
	var all []string
	for _, e := range p.ends {
		if id := e.own.device.entry.ID; !slices.Contains(all, id) {
			all = append(all, id)
		}
	}
	slices.SortFunc(all, natural)
	return all
}

// ports are those that an end names: its own, the expected, the found one.
func (e *end) ports() []*port {
	all := []*port{e.own, e.peer}
	if e.seen != nil {
		all = append(all, e.seen)
	}
	return all
}

// badPorts gives each remaining bad link to the port that most have in common.
func (m *Model) badPorts(open map[*end]bool) {
	at := map[*port][]*end{}
	var order []*port
	m.eachPort(func(p *port) {
		for _, e := range p.ends {
			if !open[e] {
				continue
			}
			for _, q := range e.ports() {
				if at[q] == nil {
					order = append(order, q)
				}
				at[q] = append(at[q], e)
			}
		}
	})
	// A port that reports itself goes before one that others report.
	slices.SortStableFunc(order, func(x, y *port) int {
		return cmp.Or(cmp.Compare(len(at[y]), len(at[x])), cmp.Compare(y.weight(), x.weight()),
			natural(x.device.entry.ID, y.device.entry.ID), natural(x.ifc.Name, y.ifc.Name))
	})
	for _, q := range order {
		p := &problem{}
		take := func(q *port) {
			for _, e := range at[q] {
				if open[e] {
					delete(open, e)
					p.ends = append(p.ends, e)
				}
			}
		}
		take(q)
		if len(p.ends) == 0 {
			continue
		}
		if len(p.ends) <= 6 {
			p.miswired(take)
		}
		p.tell(q)
		if len(p.cables()) > 2 {
			for _, e := range p.ends {
				if e.own.device != q.device {
					e.elsewhere()
				}
			}
		}
		m.problems = append(m.problems, p)
	}
}

// weight is how much a port says about itself.
func (p *port) weight() int {
	w := 0
	for _, e := range p.ends {
		if e.state >= warn {
			w = max(w, 1+btoi(e.code() == report.LinkNoCarrier))
		}
	}
	return w
}

// miswired adds the other half of a swap: whatever else is reported by the
// ports that were found in another's place, or miss the one that is here.
func (p *problem) miswired(take func(*port)) {
	for _, e := range slices.Clone(p.ends) {
		if e.seen != nil {
			take(e.own)
			take(e.seen)
			take(e.peer)
		}
	}
}

func ids(all []*device) []string {
	names := map[string]bool{}
	for _, d := range all {
		names[d.entry.ID] = true
	}
	return slices.SortedFunc(maps.Keys(names), natural)
}

// some lists the first n of names.
func some(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}

func (r *rack) title() string { return cmp.Or(r.name, "(none)") }

// place is where a device stands.
func (d *device) place() string {
	text := d.entry.ID
	if d.entry.Rack != "" {
		text += ", rack " + d.entry.Rack
	}
	if d.entry.Unit != "" {
		text += " unit " + d.entry.Unit
	}
	if d.entry.Serial != "" {
		text += ", serial " + d.entry.Serial
	}
	return text
}

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

// headline is a problem in a line, with its code if it has one.
func (p *problem) headline() string { return strings.TrimSpace(string(p.code) + " " + p.title) }

// tell puts a problem into words. q is the port that its links have in common.
func (p *problem) tell(q *port) {
	slices.SortStableFunc(p.ends, func(x, y *end) int {
		return cmp.Or(cmp.Compare(grave(x.code()), grave(y.code())), cmp.Compare(btoi(y.own == q), btoi(x.own == q)),
			natural(x.own.device.entry.ID, y.own.device.entry.ID), natural(x.own.ifc.Name, y.own.ifc.Name))
	})
	p.code = p.ends[0].code()
	for _, e := range p.ends {
		p.state = max(p.state, e.state)
	}
	info, _ := report.Lookup(p.code)
	p.title, p.do = info.Title, info.Do
	if p.state == warn {
		p.title += " (advisory)"
	}
	cables := p.cables()
	switch {
	case len(cables) == 1 && p.ends[0].seen == nil:
		p.title += fmt.Sprintf(": %s - %s", q.name(), other(cables[0], q).name())
	case p.swap() != "":
		p.title, p.do = "two cables swapped", p.swap()
	case len(cables) > maxTold:
		p.title += fmt.Sprintf(": %s, %d links", q.name(), len(cables))
	}
	if q.belongs != "" && grave(p.code) >= grave(report.LinkNoCarrier) {
		p.lines = append(p.lines, fmt.Sprintf("the cable of %s belongs on %s", q.name(), q.belongs))
	}
	p.tellEnds(q, len(cables) > 2)
}

// tellEnds gives the devices' own words: once for each port, and once for each
// cable that leads elsewhere. If many miss q, they are listed.
func (p *problem) tellEnds(q *port, many bool) {
	ports, found := map[*port]bool{}, map[[2]*port]bool{}
	more := 0
	if many {
		defer func() {
			others := slices.DeleteFunc(p.reporters(), func(id string) bool { return id == q.device.entry.ID })
			if len(others) > 0 {
				p.lines = append(p.lines, "it is missed by "+some(others, 6))
			}
		}()
	}
	for _, e := range p.ends {
		if many && e.seen == nil && e.own.device != q.device {
			continue
		}
		if ports[e.own] || e.seen != nil && found[[2]*port{e.seen, e.own}] {
			continue
		}
		ports[e.own] = true
		if e.seen != nil {
			found[[2]*port{e.own, e.seen}] = true
		}
		if len(p.lines) == maxTold {
			more++
			continue
		}
		p.lines = append(p.lines, e.own.device.entry.ID+": "+e.what())
	}
	if more > 0 {
		p.lines = append(p.lines, fmt.Sprintf("and %s more: %s", printable.Count(more, "port"), some(p.reporters(), 4)))
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func other(e *end, q *port) *port {
	if e.own == q {
		return e.peer
	}
	return e.own
}

// cables are the ends of a problem, one for each link.
func (p *problem) cables() []*end {
	var all []*end
	seen := map[*snapshot.Cable]bool{}
	for _, e := range p.ends {
		if !seen[e.cable] {
			seen[e.cable] = true
			all = append(all, e)
		}
	}
	return all
}

// swap is the repair, if a problem is two cables that each lead to where the
// other belongs; empty if it is not.
func (p *problem) swap() string {
	cables := p.cables()
	if len(cables) != 2 {
		return ""
	}
	x, y := cables[0], cables[1]
	first := []*port{x.own, x.peer}
	for _, e := range p.ends {
		if e.seen == nil || slices.Contains(first, e.own) == slices.Contains(first, e.seen) {
			return ""
		}
	}
	// x.own now leads to seen; the plug beside x.peer's place is y's other one.
	far := x.seen
	if far == nil {
		return ""
	}
	near := other(y, far)
	a, b := x.peer, far
	if x.own.device == near.device {
		a, b = x.own, near
	}
	if natural(a.name(), b.name()) > 0 {
		a, b = b, a
	}
	if a.device == b.device {
		return fmt.Sprintf("at %s, swap the cables in %s and %s", a.device.entry.ID, a.ifc.Name, b.ifc.Name)
	}
	return fmt.Sprintf("swap the cables in %s and %s", a.name(), b.name())
}

func (e *end) code() report.Code {
	if e.verdict == nil {
		return ""
	}
	return e.verdict.Code
}

// what is the device's word about a link.
func (e *end) what() string {
	return cmp.Or(e.verdict.What, fmt.Sprintf("%s: %s; %s belongs there", e.own.ifc.Name, e.verdict.Verdict, e.peer.name()))
}

// word is the verdict on a link.
func (e *end) word() string {
	switch v := e.verdict; {
	case v == nil:
		return "no report"
	case v.Verdict == "production":
		return "proved (in production)"
	case proof(v):
		return "proved"
	case v.Waived != "":
		return "waived: " + v.Waived
	case e.seen != nil:
		return strings.ReplaceAll(v.Verdict, "-", " ") + ", " + e.seen.name() + " is there"
	case v.Code == report.LinkNoCarrier:
		return "no carrier"
	case v.Verdict == "silent":
		return "no answer"
	case v.Verdict == "unknown":
		return "no answer yet"
	default:
		return strings.ReplaceAll(v.Verdict, "-", " ")
	}
}

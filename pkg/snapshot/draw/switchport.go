package draw

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/landfall-project/landfall/pkg/lldp"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
)

// nameSwitches says where ports belong, and where they were found.
func (m *Model) nameSwitches() {
	for _, w := range m.doc.Switches {
		m.chassis[plainID(w.ChassisID)] = w.ID
	}
	for _, p := range m.ports {
		want := p.ifc.LLDP
		if want == nil {
			continue
		}
		p.belongs = m.switchPort(plainID(want.ChassisID), plainID(want.PortID))
		for _, e := range p.ends {
			if e.verdict != nil && e.verdict.LLDP == "mismatch" {
				p.found = m.heard(e.verdict.LLDPSeen)
			}
		}
	}
}

// plainID is an ID of a slice without its kind.
func plainID(text string) string {
	if e, err := lldp.ParseID(text); err == nil {
		return e.Text
	}
	return text
}

// heard reads what a device wrote about its switch: "mac 00:1b:… port ifname 7".
func (m *Model) heard(seen string) string {
	chassis, name, ok := strings.Cut(seen, " port ")
	if !ok {
		return cmp.Or(seen, "another switch")
	}
	return m.switchPort(bareText(chassis), bareText(name))
}

// bareText takes the kind off an ID that was written for people.
func bareText(s string) string {
	kind, text, ok := strings.Cut(s, " ")
	if e, err := lldp.ParseID(kind + ":" + text); ok && err == nil && e.Subtype != 0 {
		return e.Text
	}
	return s
}

func (m *Model) switchPort(chassis, name string) string {
	return printable.ASCII(cmp.Or(m.chassis[chassis], chassis) + " port " + name)
}

// switchPorts tells which ports are on another switch port than they belong.
func (m *Model) switchPorts() {
	owner := map[string]*port{}
	for _, p := range m.ports {
		if p.belongs != "" {
			owner[p.belongs] = p
		}
	}
	told := map[*port]bool{} // what a device says of a bad link names its switch port as well
	for _, p := range m.problems {
		for _, e := range p.ends[:min(len(p.ends), maxTold)] {
			told[e.own] = true
		}
	}
	m.eachPort(func(p *port) {
		if p.found == "" || told[p] {
			return
		}
		info, _ := report.Lookup(report.LinkLLDP)
		pr := &problem{code: report.LinkLLDP, title: info.Title, do: info.Do, state: warn, ends: p.ends[:1]}
		pr.lines = []string{p.onSwitch()}
		if q := owner[p.found]; q != nil && q != p && q.found == p.belongs {
			told[q] = true
			pr.title = "two switch ports swapped"
			pr.lines, pr.ends = append(pr.lines, q.onSwitch()), []*end{p.ends[0], q.ends[0]}
			pr.do = fmt.Sprintf("swap the plugs in %s and %s", p.belongs, q.belongs)
		}
		m.problems = append(m.problems, pr)
	})
}

// foundShort is where a port is, without the switch if that is the right one.
func (p *port) foundShort() string {
	have, name, ok := strings.Cut(p.found, " port ")
	want, _, _ := strings.Cut(p.belongs, " port ")
	if ok && have == want {
		return "is on port " + name
	}
	return "is on " + p.found
}

func (p *port) onSwitch() string {
	return fmt.Sprintf("%s is on %s, belongs on %s", p.name(), p.found, p.belongs)
}

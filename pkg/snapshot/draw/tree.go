package draw

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/printable"
)

// width of the tree, in characters: the console of a server.
const width = 80

// Bounds of what is told; the rest is counted.
const (
	maxShown = 20 // problems
	maxNotes = 10
)

// TreeOptions say how much a tree shows.
type TreeOptions struct {
	Rack  string // this one alone; empty: all
	All   bool   // every port of every device, not those with trouble only
	Color bool   // with the escape sequences of ECMA-48
}

// Tree writes the region, or one rack, as ASCII in lines of 80 characters at
// most. Without reports it is the plan, with all of its ports.
func (m *Model) Tree(w io.Writer, o TreeOptions) error {
	racks, problems, err := m.choose(o.Rack)
	if err != nil {
		return err
	}
	t := &tree{m: m, o: o, w: bufio.NewWriter(w)}
	t.head(racks)
	t.todo(problems, o.Rack)
	for _, r := range racks {
		t.rack(r)
	}
	for _, n := range m.notes[:min(len(m.notes), maxNotes)] {
		t.wrap("note: ", 6, n, plain)
	}
	if n := len(m.notes) - maxNotes; n > 0 {
		t.line(plain, "and %d more notes", n)
	}
	return t.w.Flush()
}

// choose returns what a rack's name selects; empty selects all.
func (m *Model) choose(name string) ([]*rack, []*problem, error) {
	if name == "" {
		return m.racks, m.problems, nil
	}
	for _, r := range m.racks {
		if r.name == name {
			return []*rack{r}, r.problems, nil
		}
	}
	var names []string
	for _, r := range m.racks {
		names = append(names, r.title())
	}
	return nil, nil, fmt.Errorf("no rack %q in this snapshot; it has %s", name, some(names, 20))
}

type tree struct {
	m *Model
	o TreeOptions
	w *bufio.Writer
}

// line writes a line, cut to the width, in the colour of a state.
func (t *tree) line(s state, format string, args ...any) {
	text := clip(strings.TrimRight(printable.Line(fmt.Sprintf(format, args...)), " "), width)
	if code := []string{"", "", "36", "33", "33", "1;31"}[s]; t.o.Color && code != "" {
		text = "\x1b[" + code + "m" + text + "\x1b[0m"
	}
	fmt.Fprintln(t.w, text)
}

// wrap writes text behind a prefix, and continues it at an indent.
func (t *tree) wrap(prefix string, indent int, text string, s state) {
	for _, l := range wrap(text, width-max(indent, len(prefix))) {
		t.line(s, "%s%s", prefix, l)
		prefix = strings.Repeat(" ", indent)
	}
}

// wrap breaks text at spaces; a word that is longer than a line is cut.
func wrap(text string, n int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		for len(word) > n {
			if line != "" {
				lines = append(lines, line)
			}
			line, word = word[:n], word[n:]
		}
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > n:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n-2] + ".."
}

func (t *tree) head(racks []*rack) {
	c := count(racks)
	where := "region " + t.m.doc.Region
	if t.o.Rack != "" {
		where += ", rack " + t.o.Rack
	}
	t.line(plain, "%s, snapshot %d: %s, %s", where, t.m.doc.Generation, printable.Count(c.devices, "device"), printable.Count(len(racks), "rack"))
	if t.m.plan {
		t.line(plain, "The plan; no reports of links were given.")
	} else {
		t.line(plain, "%s", c)
	}
	t.line(plain, "")
}

// tally counts the devices of racks by their state.
type tally struct {
	devices, reported int
	by                [bad + 1]int
	required, proved  int
}

func count(racks []*rack) tally {
	var c tally
	for _, r := range racks {
		for _, d := range r.devices {
			c.devices++
			c.by[d.state]++
			if d.report != nil {
				c.reported++
				c.required += d.report.Required
				c.proved += d.report.Proved
			}
		}
	}
	return c
}

func (c tally) String() string {
	text := fmt.Sprintf("%d ok", c.by[good])
	for _, s := range []state{bad, waits, warn, unheard} {
		if c.by[s] > 0 {
			text += fmt.Sprintf(", %d %s", c.by[s], legend(s))
		}
	}
	return text + fmt.Sprintf("; links proved %d/%d", c.proved, c.required)
}

// todo lists what is to be repaired, the gravest first.
func (t *tree) todo(problems []*problem, rack string) {
	if len(problems) == 0 {
		return
	}
	t.line(plain, "TO DO (the numbers stand beside the ports as well)")
	for _, p := range problems[:min(len(problems), maxShown)] {
		where := ""
		if rack == "" {
			where = " [rack " + p.where() + "]"
		}
		t.wrap(fmt.Sprintf("%3d  ", p.n), 5, p.headline()+where, p.state)
		for _, l := range p.lines {
			t.wrap("       ", 9, l, plain)
		}
		t.wrap("     DO  ", 9, p.do, plain)
	}
	if n := len(problems) - maxShown; n > 0 {
		hint := "; look at one rack after the other"
		if rack != "" {
			hint = ""
		}
		t.line(plain, "     and %d more%s", n, hint)
	}
	t.line(plain, "")
}

func (p *problem) where() string {
	var names []string
	for _, r := range p.racks {
		names = append(names, r.title())
	}
	return some(names, 3)
}

// rack writes one rack. Among others it has only the devices to look at, unless
// all are to be shown.
func (t *tree) rack(r *rack) {
	c := count([]*rack{r})
	if t.m.plan {
		t.line(plain, "rack %s  %s", r.title(), printable.Count(c.devices, "device"))
	} else {
		t.line(r.state, "%-4s rack %s  %s", r.state.word(), r.title(), c)
	}
	shown := r.devices
	if several := len(t.m.racks) > 1 && t.o.Rack == ""; several && !t.o.All && !t.m.plan {
		shown = nil
		for _, d := range r.devices {
			if d.state == bad || d.state == warn {
				shown = append(shown, d)
			}
		}
	}
	if len(r.switches) > 0 && len(shown) > 0 {
		var names []string
		for _, w := range r.switches {
			names = append(names, strings.TrimSpace(w.ID+" "+unit(w.Unit)))
		}
		t.wrap("     switches ", 8, some(names, 8), plain)
	}
	for i, d := range shown {
		t.device(d, i == len(shown)-1)
	}
}

func unit(u string) string {
	if u == "" {
		return ""
	}
	return "u" + u
}

func (t *tree) device(d *device, last bool) {
	branch, below := "|-- ", "|   "
	if last {
		branch, below = "`-- ", "    "
	}
	text := fmt.Sprintf("%-4s %s%-4s%s", d.state.word(), branch, unit(d.entry.Unit), d.entry.ID)
	if d.entry.Serial != "" {
		text += "  SN " + d.entry.Serial
	}
	for _, r := range d.entry.Roles {
		if r != "server" {
			text += "  " + string(r)
		}
	}
	t.line(d.state, "%-50s %s", text, d.summary())
	if !t.o.All && !t.m.plan && (d.state != bad && d.state != warn || d.dead) {
		return
	}
	var shown []*port
	for _, p := range d.ports {
		if t.o.All || t.m.plan || p.state >= warn {
			shown = append(shown, p)
		}
	}
	for i, p := range shown {
		t.port(p, below, i == len(shown)-1)
	}
}

// summary is a device in a few words.
func (d *device) summary() string {
	switch {
	case d.state == plain:
		return ""
	case d.dead:
		return "no answer"
	case d.report == nil:
		return "no report"
	case d.state == waits:
		return fmt.Sprintf("%d of %d proved; see %s", d.report.Proved, d.report.Required, d.sees())
	}
	return fmt.Sprintf("%d of %d proved", d.report.Proved, d.report.Required)
}

// sees are the numbers of the problems that a device waits for.
func (d *device) sees() string {
	var all []string
	for _, p := range d.ports {
		for _, q := range p.problems {
			if n := fmt.Sprintf("(%d)", q.n); !slices.Contains(all, n) && q.state == bad {
				all = append(all, n)
			}
		}
	}
	return strings.Join(all, " ")
}

func (t *tree) port(p *port, below string, last bool) {
	branch := "|-- "
	if last {
		branch = "`-- "
	}
	text := fmt.Sprintf("%-4s %s%s%-5s", p.state.word(), below, branch, p.ifc.Name)
	if len(p.problems) > 0 && p.state >= warn {
		text += fmt.Sprintf(" (%d)", p.problems[0].n)
	}
	if p.belongs != "" {
		text += " on " + p.belongs
	}
	switch proved, links := p.proved(); {
	case t.m.plan:
		t.wrap(text+" to ", 24, some(p.peers(), 6), plain)
		return
	case links == 1:
		t.line(p.state, "%s to %s", text, p.ends[0].told())
	default:
		t.line(p.state, "%s: %d of %s", text, proved, printable.Count(links, "link"))
	}
	if p.found != "" {
		t.line(p.state, "%s", strings.Repeat(" ", 13)+"but the switch says "+p.found)
	}
	if len(p.ends) == 1 {
		return
	}
	for i, e := range p.worst() {
		if e.state < warn && !t.o.All {
			return
		}
		if i == 3 && !t.o.All {
			t.line(plain, "%s", strings.Repeat(" ", 17)+"...")
			return
		}
		t.line(e.state, "%s%-4s %s", strings.Repeat(" ", 12), e.state.word(), e.told())
	}
}

// told is a link in a line.
func (e *end) told() string { return e.peer.name() + ": " + e.word() }

// peers are the names of those at the other ends.
func (p *port) peers() []string {
	var all []string
	for _, e := range p.ends {
		all = append(all, e.peer.name())
	}
	slices.SortFunc(all, natural)
	return all
}

// worst are the ends of a port, the worst first.
func (p *port) worst() []*end {
	all := slices.Clone(p.ends)
	slices.SortStableFunc(all, func(x, y *end) int {
		return cmp.Or(cmp.Compare(y.state, x.state), natural(x.peer.name(), y.peer.name()))
	})
	return all
}

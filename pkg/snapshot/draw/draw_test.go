package draw

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// update rewrites the golden files; look at them before they are committed.
var update = flag.Bool("update", false, "rewrite testdata")

func treeOf(t testing.TB, m *Model, o TreeOptions) string {
	t.Helper()
	var b bytes.Buffer
	if err := m.Tree(&b, o); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func svgOf(t testing.TB, m *Model) string {
	t.Helper()
	var b bytes.Buffer
	if err := m.SVG(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// models are those of the golden files.
func models() map[string]func() *Model {
	return map[string]func() *Model{
		"rack-of-5": brokenRack, "rack-of-5-ok": func() *Model { return rackOf5().model() }, "rack-of-5-plan": planOf5,
		"rack-of-40": bigRack, "region-of-4000": bigRegion,
	}
}

// inDocs are the golden files that docs/board.md shows.
func inDocs() map[string]string {
	return map[string]string{"rack-of-5.svg": "board-rack.svg", "region-of-4000.svg": "board-region.svg"}
}

func TestGolden(t *testing.T) {
	for name, get := range models() {
		m := get()
		files := map[string]string{name + ".txt": treeOf(t, m, TreeOptions{}), name + ".svg": svgOf(t, m)}
		if name == "rack-of-40" {
			delete(files, name+".svg") // a large one, which holds nothing new
		}
		for file, got := range files {
			path := filepath.Join("testdata", file)
			if doc := inDocs()[file]; doc != "" {
				path = filepath.Join("../../../docs", doc)
			}
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s: %s", file, diff)
			}
		}
	}
}

// checkTree: 80 columns of printable ASCII, and nothing is told by colour
// alone.
func checkTree(t testing.TB, m *Model) {
	t.Helper()
	escapes := regexp.MustCompile(`\x1b\[[0-9;]*m`)
	for _, all := range []bool{false, true} {
		text := treeOf(t, m, TreeOptions{All: all})
		for _, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
			if len(l) > width || l != printable.ASCII(l) {
				t.Errorf("line of %d characters: %q", len(l), l)
			}
		}
		colored := treeOf(t, m, TreeOptions{All: all, Color: true})
		if diff := cmp.Diff(text, escapes.ReplaceAllString(colored, "")); diff != "" {
			t.Error(diff)
		}
	}
}

// checkSVG: well-formed, no scripts, every reference leads somewhere.
func checkSVG(t testing.TB, text string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	known, used := map[string]bool{}, map[string]bool{}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		if !slices.Contains([]string{"svg", "title", "style", "defs", "g", "circle", "path", "rect", "text", "use", "a", "pattern"}, start.Name.Local) {
			t.Errorf("element %s", start.Name.Local)
		}
		for _, a := range start.Attr {
			switch {
			case a.Name.Local == "id":
				known[a.Value] = true
			case a.Name.Local == "href" && strings.HasPrefix(a.Value, "#"):
				used[a.Value[1:]] = true
			case strings.HasPrefix(a.Value, "url(#"):
				used[strings.Trim(a.Value, "url(#)")] = true
			case strings.HasPrefix(a.Name.Local, "on"):
				t.Errorf("attribute %s", a.Name.Local)
			}
		}
	}
	for id := range used {
		if !known[id] {
			t.Errorf("symbol %q is used, but not there", id)
		}
	}
}

func TestTreeAndSVGAreSane(t *testing.T) {
	for name, get := range models() {
		t.Run(name, func(t *testing.T) {
			m := get()
			checkTree(t, m)
			checkSVG(t, svgOf(t, m))
			for rack, file := range m.Files() {
				if name == "region-of-4000" && !slices.Contains([]string{"r01", "r13", "r44", "r71"}, rack) {
					continue
				}
				var b bytes.Buffer
				if err := m.RackSVG(&b, rack); err != nil {
					t.Fatal(err)
				}
				checkSVG(t, b.String())
				if b.Len() > 1<<20 || filepath.Base(file) != file {
					t.Errorf("%s: %d bytes", file, b.Len())
				}
			}
		})
	}
}

// TestHostile: what a device reports is text, and never more.
func TestHostile(t *testing.T) {
	g := rackOf5()
	evil := `</text><script>alert("x")</script> & ]]> ` + strings.Repeat("w", 150)
	g.say("r07-u02 eth1", evil, report.LinkWrongPort, evil, evil)
	r := g.reports["r07-u03"]
	r.Links[0].LLDP, r.Links[0].LLDPSeen = "mismatch", evil
	r.Links[1].Waived, r.Links[1].Verdict = evil, "silent"
	m := g.model()
	checkTree(t, m)
	checkSVG(t, svgOf(t, m))

	g = rackOf5()
	g.doc.Devices[0].Rack = `../"<r07>`
	g.doc.Switches[0].Rack = g.doc.Devices[0].Rack
	m = g.model()
	checkSVG(t, svgOf(t, m))
	var files []string
	for _, f := range m.Files() {
		files = append(files, f)
	}
	if diff := cmp.Diff([]string{"rack-number-1.svg", "rack-r07.svg"}, files); diff != "" {
		t.Error(diff)
	}
}

func problems(m *Model) []string {
	var all []string
	for _, p := range m.problems {
		all = append(all, strings.TrimSpace(p.state.word()+" "+p.headline()))
	}
	return all
}

func TestProblems(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*region)
		want   []string
		text   []string // in the tree
	}{
		"nothing": {func(*region) {}, nil, []string{"5 ok; links proved 10/10"}},
		"swap and a dead device": {func(g *region) { g.swapped(); g.kill("r07-u01") },
			[]string{"BAD LF-LINK-01 r07-u01 does not answer", "BAD LF-LINK-03 two cables swapped"}, []string{"u1  r07-u01"}},
		"one cable out": {func(g *region) {
			g.say("r07-u02 eth1", "unknown", report.LinkNoCarrier, "", "{own} has no carrier; {peer} belongs at its other end")
			g.say("r07-u03 eth2", "unknown", report.LinkNoCarrier, "", "{own} has no carrier; {peer} belongs at its other end")
		}, []string{"BAD LF-LINK-02 no carrier: r07-u02 eth1 - r07-u03 eth2"}, []string{"r07-u02: eth1 has no carrier", "r07-u03: eth2 has no carrier"}},
		"an advisory link": {func(g *region) {
			g.say("r07-u02 eth0", "silent", report.LinkSilent, "", "nothing answers on {own}; {peer} belongs there")
		}, []string{"warn LF-LINK-01 neighbor does not answer (advisory): r07-u02 eth0 - r07-u01 eth0"}, []string{"the cable of r07-u02 eth0 belongs on tor-07 port Eth1/2"}},
		"no report": {func(g *region) { delete(g.reports, "r07-u04") }, []string{"? no report from 1 of the 5 devices of rack r07"}, []string{"no report"}},
		"most are dead": {func(g *region) { g.kill("r07-u01"); g.kill("r07-u03"); g.kill("r07-u04") },
			[]string{"BAD LF-LINK-01 3 of 5 devices of rack r07 do not answer"}, []string{"look at the rack first"}},
		"switch port": {func(g *region) {
			for i := range g.reports["r07-u02"].Links {
				if v := &g.reports["r07-u02"].Links[i]; v.Interface == "eth0" {
					v.LLDP, v.LLDPSeen = "mismatch", "mac 00:1b:21:00:00:07 port ifname Eth1/9"
				}
			}
		}, []string{"warn LF-LINK-08 switch port differs"}, []string{"r07-u02 eth0 is on tor-07 port Eth1/9, belongs on tor-07 port Eth1/2", "but the switch says tor-07 port Eth1/9"}},
		"waived": {func(g *region) {
			for _, l := range g.reports["r07-u02"].Links {
				if l.Interface == "eth1" {
					g.say("r07-u02 eth1", "silent", report.LinkSilent, "", "")
				}
			}
			for i := range g.reports["r07-u02"].Links {
				if v := &g.reports["r07-u02"].Links[i]; v.Interface == "eth1" {
					v.Waived, v.Required = "board is on its way", false
				}
			}
		}, nil, []string{"waived: board is on its way"}},
		"old slice":     {func(g *region) { g.reports["r07-u02"].Slice = 7 }, nil, []string{"note: the report of r07-u02 is about its slice 7, the snapshot has 1"}},
		"in production": {func(g *region) { g.say("r07-u02 eth1", "production", "", "", "") }, nil, []string{"to r07-u03 eth2: proved (in production)"}},
		"unknown links": {func(g *region) {
			r := g.reports["r07-u02"]
			r.Links = append(r.Links, report.LinkVerdict{Interface: "eth9", Peer: "x", PeerInterface: "eth0"})
		}, nil, []string{"note: r07-u02 reports 1 link that this snapshot does not have"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := rackOf5()
			tt.change(g)
			m := g.model()
			if name == "waived" || name == "in production" { // one link less that was proved-ok
				m.devices["r07-u02"].report.Proved = m.devices["r07-u02"].report.Required
			}
			if diff := cmp.Diff(tt.want, problems(m)); diff != "" {
				t.Error(diff)
			}
			text := treeOf(t, m, TreeOptions{All: true})
			for _, want := range tt.text {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in\n%s", want, text)
				}
			}
		})
	}
}

// TestSwapRepair swaps two cables of a ring of direct ones, reports what their
// ends then see, and does what the drawing says: it must mend the ring.
func TestSwapRepair(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		g := newRegion("r07")
		n := 4 + rng.IntN(20)
		for u := 1; u <= n; u++ {
			g.add("r07", u, []snapshot.Role{"server"}, "eth1", "eth2")
		}
		for u := 1; u <= n; u++ {
			g.link(fmt.Sprintf("r07-u%02d eth1", u), fmt.Sprintf("r07-u%02d eth2", u%n+1), "required")
		}
		g.prove()
		name := func(p snapshot.Port) string { return p.Device + " " + p.Interface }
		leads := map[string]string{}
		for _, l := range g.doc.Links {
			leads[name(l.A)], leads[name(l.B)] = name(l.B), name(l.A)
		}
		want := map[string]string{}
		for k, v := range leads {
			want[k] = v
		}
		exchange := func(a, b string) { // the plugs in two ports
			x, y := leads[a], leads[b]
			leads[a], leads[b], leads[x], leads[y] = y, x, b, a
		}
		i := rng.IntN(n)
		j := (i + 1 + rng.IntN(n-1)) % n
		exchange(name(g.doc.Links[i].A), name(g.doc.Links[j].A))
		for p, seen := range leads {
			if seen != want[p] {
				g.wrongPort(p, seen)
			}
		}
		m := g.model()
		if diff := cmp.Diff([]string{"BAD LF-LINK-03 two cables swapped"}, problems(m)); diff != "" {
			t.Fatalf("%d of %d: %s", i, n, diff)
		}
		do := m.problems[0].do
		var a, b, device string
		if _, err := fmt.Sscanf(strings.ReplaceAll(do, ",", " ,"), "at %s , swap the cables in %s and %s", &device, &a, &b); err == nil {
			a, b = device+" "+a, device+" "+b
		} else {
			a, b, _ = strings.Cut(strings.TrimPrefix(do, "swap the cables in "), " and ")
		}
		exchange(a, b)
		if diff := cmp.Diff(want, leads); diff != "" {
			t.Fatalf("%q: %s", do, diff)
		}
	}
}

// TestBounds: however much is wrong, lists stay short and all is counted.
func TestBounds(t *testing.T) {
	g := newRegion("r01", "r02", "r03", "r04")
	for _, r := range []string{"r01", "r02", "r03", "r04"} {
		rackOf40(g, r)
	}
	g.prove()
	for i := range g.doc.Devices {
		if i%3 == 0 {
			g.kill(g.doc.Devices[i].ID)
		}
	}
	m := g.model()
	if len(m.problems) != 54 {
		t.Errorf("%d problems, want one for each dead device", len(m.problems))
	}
	text := treeOf(t, m, TreeOptions{})
	if n := strings.Count(text, "  DO  "); n != maxShown || !strings.Contains(text, "and 34 more") {
		t.Errorf("%d problems are told:\n%s", n, text)
	}
	if n := strings.Count(svgOf(t, m), ">DO<"); n != maxCards {
		t.Errorf("%d problems are drawn", n)
	}
	if _, _, err := m.choose("r09"); err == nil || !strings.Contains(err.Error(), "it has r01, r02") {
		t.Error(err)
	}
}

func TestNatural(t *testing.T) {
	names := []string{"r10", "r2", "r1", "", "r02-u9", "r02-u10", "a", "9", "10", "r2x"}
	slices.SortStableFunc(names, natural)
	if diff := cmp.Diff([]string{"", "9", "10", "a", "r1", "r2", "r02-u9", "r02-u10", "r2x", "r10"}, names); diff != "" {
		t.Error(diff)
	}
}

// No name turns or drives what is drawn.
func TestNamesAreHarmless(t *testing.T) {
	const name = "rack\u202e7\u009b31m<b>"
	if got, want := escape(name), "rack?7?31m&lt;b&gt;"; got != want {
		t.Errorf("escape(%q) = %q, want %q", name, got, want)
	}
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	(&tree{w: w}).line(good, "%s", name)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, want := b.String(), "rack?7?31m<b>\n"; got != want {
		t.Errorf("line(%q) = %q, want %q", name, got, want)
	}
}

package draw

import (
	"io"
	"testing"

	"github.com/landfall-project/landfall/pkg/report"
)

// FuzzReports: whatever a device reports, the drawings stay drawings.
func FuzzReports(f *testing.F) {
	g := rackOf5()
	g.swapped()
	g.model()
	for _, r := range g.reports {
		b, err := r.Bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := report.ParseLinkReport(text)
		if err != nil {
			return
		}
		g := rackOf5()
		m := New(g.doc, []*report.LinkReport{r, g.reports["r07-u04"]})
		checkTree(t, m)
		checkSVG(t, svgOf(t, m))
	})
}

// BenchmarkRegion is the whole way for 4,000 devices with 40 links each.
func BenchmarkRegion(b *testing.B) {
	m := bigRegion()
	var all []*report.LinkReport
	for _, r := range m.racks {
		for _, d := range r.devices {
			if d.report != nil {
				all = append(all, d.report)
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		m := New(m.doc, all)
		if err := m.Tree(io.Discard, TreeOptions{}); err != nil {
			b.Fatal(err)
		}
		if err := m.SVG(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

package draw

import (
	"fmt"
	"io"
	"iter"
	"strings"
)

// Sizes of the overview, in pixels.
const (
	maxColumns = 20
	tileWidth  = 78
	barHeight  = 5 // of each device; all tiles begin at a multiple of it
)

// SVG draws the region; one of a single rack is that rack.
func (m *Model) SVG(w io.Writer) error {
	if len(m.racks) == 1 {
		return m.RackSVG(w, m.racks[0].name)
	}
	return m.OverviewSVG(w, false)
}

// Files yields each rack's name and the file that the overview leads to.
func (m *Model) Files() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for i, r := range m.racks {
			if !yield(r.name, r.file(i)) {
				return
			}
		}
	}
}

// file is a harmless file name of a rack, whatever its name is.
func (r *rack) file(i int) string {
	name := r.name
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || name == "" || len(name) > 60 {
		name = fmt.Sprintf("number-%d", i+1)
	}
	return "rack-" + name + ".svg"
}

// OverviewSVG draws all racks side by side, each device as a bar; those with
// trouble stick out. With links, each rack leads to its file.
func (m *Model) OverviewSVG(w io.Writer, links bool) error {
	columns := min(max(12, len(m.racks)), maxColumns)
	c := &canvas{width: 40 + columns*tileWidth}
	c.head(m, "region "+m.doc.Region, m.racks)
	c.cards(m.problems, true)
	c.patterns()
	c.y += barHeight - c.y%barHeight
	row, height := c.y, 0
	for i, r := range m.racks {
		x := 20 + tileWidth*(i%columns)
		if i%columns == 0 {
			row += height
			height = 0
		}
		if links {
			c.raw(`<a href="%s">`, escape(r.file(i)))
		}
		height = max(height, c.tile(m, r, x, row))
		if links {
			c.raw("</a>")
		}
	}
	c.y = row + height + 8
	if !m.plan {
		c.overviewLegend()
	}
	return c.write(w, "region "+m.doc.Region)
}

// tile draws one rack, and returns its height.
func (c *canvas) tile(m *Model, r *rack, x, y int) int {
	t := count([]*rack{r})
	h := 25 + len(r.devices)*barHeight + 20
	c.raw("<g><title>%s</title>", escape("rack "+r.title()+": "+t.String()))
	c.rect(x, y, tileWidth-8, h, "f-"+r.state.id())
	c.text(x+4, y+17, 12, "b", clip(r.title(), 6))
	if r.state > good {
		c.symbol(x+tileWidth-26, y+4, 15, r.state)
	}
	for i := 0; i < len(r.devices); {
		n := 1
		for i+n < len(r.devices) && r.devices[i+n].state == r.devices[i].state {
			n++
		}
		c.bars(r.devices[i].state, x+4, y+25+i*barHeight, n)
		i += n
	}
	text := fmt.Sprint(t.devices)
	if !m.plan {
		text = fmt.Sprintf("%d/%d ok", t.by[good], t.devices)
	}
	c.text(x+4, y+h-6, 11, "", text)
	if len(r.problems) > 0 && r.problems[0].n <= maxCards {
		c.number(x+tileWidth-18, y+h-10, 8, r.problems[0])
	}
	c.raw("</g>")
	return h + 10
}

// bars draws n devices of one state, which stand above each other.
func (c *canvas) bars(s state, x, y, n int) {
	w := map[state]int{plain: 40, good: 40, unheard: 40, warn: 50, waits: 46, bad: 62}[s]
	c.raw(`<rect x="%d" y="%d" width="%d" height="%d" fill="url(#bar-%s)"/>`, x, y, w, n*barHeight, s.id())
}

// patterns are the bars of each state, once for each barHeight of the drawing.
func (c *canvas) patterns() {
	c.raw("<defs>")
	for s, fill := range []string{"#cbd5e1", "#86efac", "#fff", "#fb923c", "#facc15", "#b91c1c"} {
		extra := ""
		if state(s) == unheard {
			extra = ` stroke="#94a3b8"`
		}
		c.raw(`<pattern id="bar-%s" patternUnits="userSpaceOnUse" width="200" height="%d"><rect width="200" height="%d" y="0.5" fill="%s"%s/></pattern>`,
			state(s).id(), barHeight, barHeight-1, fill, extra)
	}
	c.raw("</defs>")
}

func (c *canvas) overviewLegend() {
	x := 20
	for _, s := range []state{good, bad, waits, warn, unheard} {
		text := map[state]string{good: "ok: short bar", bad: "required link not proved, or dead: longest bar", waits: "waits for another device",
			warn: "stops nothing", unheard: "no report: empty bar"}[s]
		c.symbol(x, c.y, 16, s)
		c.text(x+22, c.y+13, 12, "", text)
		x += 44 + 7*len(text)
	}
	c.y += 30
}

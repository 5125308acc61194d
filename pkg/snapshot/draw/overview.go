package draw

import (
	"fmt"
	"io"
	"iter"
	"strings"
)

// Sizes of the overview, in pixels.
const (
	overviewWidth = 1280
	tileWidth     = 78
	barHeight     = 4
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
	c := &canvas{width: overviewWidth}
	c.head(m, "region "+m.doc.Region, m.racks)
	c.cards(m.problems, true)
	columns := (overviewWidth - 40) / tileWidth
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
	h := 22 + len(r.devices)*(barHeight+1) + 22
	c.raw("<g><title>%s</title>", escape("rack "+r.title()+": "+t.String()))
	c.rect(x, y, tileWidth-8, h, "f-"+r.state.id())
	c.text(x+4, y+15, 12, "b", clip(r.title(), 6))
	if r.state > good {
		c.symbol(x+tileWidth-26, y+3, 15, r.state)
	}
	for i, d := range r.devices {
		c.bar(d, x+4, y+22+i*(barHeight+1))
	}
	text := fmt.Sprint(t.devices)
	if !m.plan {
		text = fmt.Sprintf("%d/%d ok", t.by[good], t.devices)
	}
	c.text(x+4, y+h-6, 11, "", text)
	c.raw("</g>")
	return h + 8
}

// bar draws one device.
func (c *canvas) bar(d *device, x, y int) {
	look := map[state]struct {
		width int
		fill  string
	}{
		plain: {40, "#cbd5e1"}, good: {40, "#86efac"}, unheard: {40, "none"}, warn: {50, "#fb923c"}, waits: {46, "#facc15"}, bad: {62, "#b91c1c"},
	}[d.state]
	extra := ""
	if d.state == unheard {
		extra = ` stroke="#94a3b8"`
	}
	c.raw(`<rect x="%d" y="%d" width="%d" height="%d" fill="%s"%s/>`, x, y, look.width, barHeight, look.fill, extra)
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

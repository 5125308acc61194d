package draw

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/landfall-project/landfall/pkg/printable"
)

// canvas gathers the body of an SVG, whose height is known at its end. y is
// where the next thing comes. All lengths are in pixels of the viewBox.
type canvas struct {
	b     strings.Builder
	y     int
	width int
}

// style and the symbols of the states: each has a form of its own, so that
// none is told by its colour alone.
const style = `<style>
text{font-family:"DejaVu Sans",Verdana,Helvetica,Arial,sans-serif;fill:#0f172a}
.s{fill:#475569}.b{font-weight:bold}.m{text-anchor:middle}.e{text-anchor:end}.w{fill:#fff}
.bad{fill:#b91c1c}.waits{fill:#92400e}.warn{fill:#92400e}.unheard{fill:#475569}.good{fill:#166534}
.f-bad{fill:#fee2e2;stroke:#b91c1c}.f-waits{fill:#fef9c3;stroke:#ca8a04}.f-warn{fill:#ffedd5;stroke:#c2410c}
.f-unheard{fill:#f1f5f9;stroke:#64748b;stroke-dasharray:3 2}.f-good{fill:#dcfce7;stroke:#15803d}.f-plain{fill:#f8fafc;stroke:#94a3b8}.row{fill:#fff;stroke:#cbd5e1}
.belongs{fill:none;stroke:#b91c1c;stroke-width:2.5;stroke-dasharray:7 5}.found{fill:none;stroke:#c2410c;stroke-width:3.5}
.cable{fill:none;stroke:#94a3b8;stroke-width:1.2}.missing{fill:none;stroke:#a16207;stroke-width:1.2;stroke-dasharray:2 4}
</style>
<defs>
<g id="good"><circle cx="8" cy="8" r="7.5" fill="#15803d"/><path d="M4 8.3l2.8 2.9L12 5.2" fill="none" stroke="#fff" stroke-width="2.2"/></g>
<g id="bad"><rect width="16" height="16" fill="#b91c1c"/><path d="M3.5 3.5l9 9m0-9l-9 9" stroke="#fff" stroke-width="2.6"/></g>
<g id="warn"><path d="M8 0.5L16 15.5H0z" fill="#c2410c"/><path d="M8 5.5v5m0 1.6v2" stroke="#fff" stroke-width="2"/></g>
<g id="waits"><circle cx="8" cy="8" r="7" fill="#fef9c3" stroke="#a16207" stroke-width="2"/><path d="M8 3.8V8l3 2" fill="none" stroke="#713f12" stroke-width="1.8"/></g>
<g id="unheard"><circle cx="8" cy="8" r="7" fill="#fff" stroke="#64748b" stroke-width="1.6" stroke-dasharray="3 2"/><path d="M5.8 6.2q0-2.2 2.2-2.2t2.2 2q0 1.3-2.1 2.4v1.2m0 1.3v1.6" fill="none" stroke="#334155" stroke-width="1.6"/></g>
<g id="c-good"><rect width="6" height="12" y="2" fill="#86efac"/></g>
<g id="c-bad"><rect width="6" height="16" fill="#b91c1c"/><path d="M1 5l4 6m0-6l-4 6" stroke="#fff" stroke-width="1.2"/></g>
<g id="c-waits"><rect x="0.5" y="2.5" width="5" height="11" fill="#fef9c3" stroke="#a16207"/><path d="M3 4v5" stroke="#713f12"/></g>
<g id="c-warn"><path d="M3 1L6 15H0z" fill="#c2410c"/></g>
<g id="c-unheard"><rect x="0.5" y="2.5" width="5" height="11" fill="none" stroke="#94a3b8" stroke-dasharray="2 1"/></g>
</defs>
`

// id is the name of a state's symbol and classes.
func (s state) id() string {
	return []string{"plain", "good", "unheard", "warn", "waits", "bad"}[s]
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(printable.Line(s))) // a Builder never fails
	return b.String()
}

func (c *canvas) raw(format string, args ...any) { fmt.Fprintf(&c.b, format+"\n", args...) }

// text writes a line; class is of style.
func (c *canvas) text(x, y, size int, class, s string) {
	if class != "" {
		class = fmt.Sprintf(` class="%s"`, class)
	}
	c.raw(`<text x="%d" y="%d" font-size="%d"%s>%s</text>`, x, y, size, class, escape(s))
}

// symbol draws that of a state in a square.
func (c *canvas) symbol(x, y, size int, s state) {
	if s != plain {
		c.raw(`<use href="#%s" transform="translate(%d %d) scale(%.3g)"/>`, s.id(), x, y, float64(size)/16)
	}
}

func (c *canvas) rect(x, y, w, h int, class string) {
	c.raw(`<rect x="%d" y="%d" width="%d" height="%d" class="%s"/>`, x, y, w, h, class)
}

// number draws the number of a problem.
func (c *canvas) number(x, y, r int, p *problem) {
	fill := map[state]string{bad: "#b91c1c", warn: "#c2410c"}[p.state]
	if fill == "" {
		fill = "#475569"
	}
	c.raw(`<circle cx="%d" cy="%d" r="%d" fill="%s"/>`, x, y, r, fill)
	size := r + 3
	if p.n > 99 {
		size = r - 1
	}
	c.text(x, y+size*2/5, size, "m b w", fmt.Sprint(p.n))
}

// write puts the frame around the body.
func (c *canvas) write(w io.Writer, title string) error {
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">
<title>%s</title>
%s<rect width="%d" height="%d" fill="#fff"/>
%s</svg>
`, c.width, c.y, c.width, c.y, escape(title), style, c.width, c.y, c.b.String())
	return err
}

// head draws title and counts.
func (c *canvas) head(m *Model, title string, racks []*rack) {
	t := count(racks)
	c.text(20, 36, 26, "b", title)
	under := fmt.Sprintf("region %s, snapshot %d: %s", m.doc.Region, m.doc.Generation, printable.Count(t.devices, "device"))
	if m.plan {
		c.text(20, 60, 14, "s", under+". The plan; no reports of links were given.")
		c.y = 80
		return
	}
	c.text(20, 60, 14, "s", under+fmt.Sprintf(", reports of %d; %d of %d required links proved", t.reported, t.proved, t.required))
	x := c.width - 20
	for _, s := range []state{unheard, warn, waits, good, bad} {
		if t.by[s] == 0 {
			continue
		}
		label := fmt.Sprintf("%d %s", t.by[s], legend(s))
		x -= 12*len(label) + 46
		c.symbol(x, 16, 24, s)
		c.text(x+31, 35, 18, "b "+s.id(), label)
	}
	c.y = 80
}

// legend is a state in a word.
func legend(s state) string {
	return []string{"", "ok", "no report", "warn", "waiting", "BAD"}[s]
}

// maxCards bounds the problems of a drawing; the rest is counted.
const maxCards = 12

// cards lists what is to be repaired.
func (c *canvas) cards(problems []*problem, place bool) {
	for _, p := range problems[:min(len(problems), maxCards)] {
		var lines []string
		for _, l := range p.lines {
			lines = append(lines, wrap(l, c.width/8)...)
		}
		do := wrap(p.do, c.width/8)
		h := 36 + 18*(len(lines)+len(do)) + 4
		c.rect(20, c.y, c.width-40, h, "f-"+p.state.id())
		c.number(44, c.y+24, 15, p)
		c.text(72, c.y+25, 17, "b", clip(p.headline(), c.width/11-10))
		if place {
			c.text(c.width-32, c.y+25, 14, "b e", clip("rack "+p.where(), 40))
		}
		y := c.y + 47
		for _, l := range lines {
			c.text(72, y, 14, "", l)
			y += 18
		}
		c.text(72, y+2, 14, "b", "DO")
		for _, l := range do {
			c.text(102, y+2, 14, "b", l)
			y += 18
		}
		c.y += h + 8
	}
	if n := len(problems) - maxCards; n > 0 {
		c.text(20, c.y+14, 14, "b", fmt.Sprintf("and %d more", n))
		c.y += 24
	}
	c.y += 6
}

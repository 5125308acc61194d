package draw

import (
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Columns and sizes of a rack's drawing, in pixels.
const (
	rackWidth  = 1000
	portHeight = 18
	xUnit      = 46
	xDevice    = 84
	xPort      = 300
	xMark      = 384
	xSwitch    = 400
	xPeer      = 548
	xArc       = 880
	maxCells   = 40 // links of one port
	maxCables  = 60 // cables in order that are drawn
)

// RackSVG draws one rack.
func (m *Model) RackSVG(w io.Writer, name string) error {
	i := slices.IndexFunc(m.racks, func(r *rack) bool { return r.name == name })
	if i < 0 {
		_, _, err := m.choose(name)
		return err
	}
	r := m.racks[i]
	c := &canvas{width: rackWidth}
	c.head(m, "rack "+r.title(), []*rack{r})
	c.cards(r.problems, false)
	top := c.y
	at := c.rows(m, r)
	c.cables(r, at)
	c.raw(`<rect x="20" y="%d" width="8" height="%d" fill="#334155"/>`, top, c.y-top)
	if !m.plan {
		c.legend()
	}
	return c.write(w, "rack "+r.title()+" of region "+m.doc.Region)
}

// slot is what stands at a unit of a rack.
type slot struct {
	unit   string
	device *device
	sw     *snapshot.Switch
}

func (r *rack) slots() []slot {
	var all []slot
	for i := range r.switches {
		all = append(all, slot{unit: r.switches[i].Unit, sw: &r.switches[i]})
	}
	for _, d := range r.devices {
		all = append(all, slot{unit: d.entry.Unit, device: d})
	}
	slices.SortStableFunc(all, func(x, y slot) int { return natural(y.unit, x.unit) })
	return all
}

// rows draws the rack from the top, and returns the height of each port.
func (c *canvas) rows(m *Model, r *rack) map[*port]int {
	at := map[*port]int{}
	above := 0
	for _, s := range r.slots() {
		u, err := strconv.Atoi(s.unit)
		if err == nil && above-u > 1 {
			text := fmt.Sprintf("u%d empty", u+1)
			if above-u > 2 {
				text = fmt.Sprintf("u%d to u%d empty", u+1, above-1)
			}
			c.text(xDevice, c.y+13, 11, "s", text)
			c.y += 18
		}
		above = u
		if s.sw != nil {
			c.rect(28, c.y, xArc-28, 24, "f-plain")
			c.text(xUnit+24, c.y+17, 14, "b e", s.unit)
			c.text(xDevice, c.y+17, 14, "", clip(s.sw.ID, 60)+", switch")
			c.y += 26
			continue
		}
		c.device(m, s.device, at)
	}
	return at
}

func (c *canvas) device(m *Model, d *device, at map[*port]int) {
	h := max(1, len(d.ports))*portHeight + 6
	class := "row"
	if d.state == bad || d.state == unheard {
		class = "f-" + d.state.id() // what to look at stands out
	}
	c.raw("<g><title>%s</title>", escape(d.place()))
	c.rect(28, c.y, xArc-28, h, class)
	c.text(xUnit+24, c.y+18, 14, "b e", clip(d.entry.Unit, 4))
	c.symbol(xDevice-6, c.y+4, 17, d.state)
	c.text(xDevice+18, c.y+18, 14, "b", clip(d.entry.ID, 21))
	if len(d.ports) > 1 {
		c.text(xDevice+18, c.y+34, 11, "s", clip(d.detail(), 29))
	}
	c.raw("</g>")
	if s := d.summary(); d.report == nil && !m.plan {
		c.text(xPeer, c.y+18, 14, "b "+d.state.id(), s)
	}
	for i, p := range d.ports {
		y := c.y + 3 + i*portHeight
		at[p] = y + portHeight/2
		c.port(m, p, y)
	}
	c.y += h + 2
}

// detail is what tells a device from others, beside its name.
func (d *device) detail() string {
	text := ""
	for _, r := range d.entry.Roles {
		if r != snapshot.RoleServer {
			text += string(r) + " "
		}
	}
	if d.entry.Serial != "" {
		text += "SN " + d.entry.Serial
	}
	return text
}

func (c *canvas) port(m *Model, p *port, y int) {
	c.rect(xPort, y+1, 56, 16, "f-"+p.state.id())
	c.text(xPort+28, y+13, 12, "m", clip(p.ifc.Name, 8))
	if p.state >= warn {
		c.symbol(xPort+60, y+2, 14, p.state)
	}
	if len(p.problems) > 0 {
		c.number(xMark, y+9, 8, p.problems[0])
	}
	if p.found != "" {
		c.text(xSwitch, y+13, 12, "b warn", clip(p.foundShort(), 20))
	} else if p.belongs != "" {
		c.text(xSwitch, y+13, 12, "s", clip(p.belongs, 22))
	}
	if len(p.ends) == 0 || p.device.report == nil && !m.plan {
		return
	}
	if len(p.ends) == 1 {
		e := p.ends[0]
		text, class := "to "+e.peer.name(), "s"
		if !m.plan {
			text += ": " + e.word()
		}
		if e.state >= warn {
			class = e.state.id()
		}
		c.text(xPeer, y+13, 12, class, clip(text, 50))
		return
	}
	if m.plan {
		c.text(xPeer, y+13, 12, "s", clip("to "+some(p.peers(), 2), 50))
		return
	}
	ends := p.worst()
	for i, e := range ends[:min(len(ends), maxCells)] {
		c.raw(`<use href="#c-%s" transform="translate(%d %d)"/>`, e.state.id(), xPeer+7*i, y+1)
	}
	proved, links := p.proved()
	c.text(xPeer+7*min(links, maxCells)+6, y+13, 12, "s", fmt.Sprintf("%d/%d", proved, links))
}

// cables draws those of the rack's cables that a person can follow: the wrong
// ones, and direct ones as long as they are few.
func (c *canvas) cables(r *rack, at map[*port]int) {
	var direct []*end
	drawn := map[[2]*port]bool{}
	arc := func(class string, p, q *port) {
		y1, ok1 := at[p]
		y2, ok2 := at[q]
		if !ok1 || !ok2 || y1 == y2 {
			return
		}
		if y1 > y2 {
			p, q, y1, y2 = q, p, y2, y1
		}
		if drawn[[2]*port{p, q}] {
			return
		}
		drawn[[2]*port{p, q}] = true
		c.arc(class, y1, y2)
	}
	for _, d := range r.devices {
		for _, p := range d.ports {
			if len(p.ends) == 1 && len(p.ends[0].peer.ends) == 1 && p.ends[0].own == p && p.ends[0].cable.A.Device == d.entry.ID {
				direct = append(direct, p.ends[0])
			}
		}
	}
	for _, p := range r.problems[:min(len(r.problems), maxCards)] {
		if len(p.ends) > 8 || len(p.dead) > 0 {
			continue // what is to be done is at one place
		}
		for _, e := range p.ends {
			if e.seen != nil {
				arc("found", e.own, e.seen)
			}
			if e.state >= warn {
				arc("belongs", e.own, e.peer)
			}
		}
	}
	if len(direct) <= maxCables {
		for _, e := range direct {
			class := "cable"
			if e.silent() || e.peer.ends[0].silent() {
				class = "missing"
			}
			arc(class, e.own, e.peer)
		}
	}
}

// arc draws a cable beside the rack; the farther, the wider.
func (c *canvas) arc(class string, y1, y2 int) {
	x := xArc + 20 + min(110, (y2-y1)/3)
	switch class {
	case "found":
		x = xArc + 14 + min(90, (y2-y1)/4)
	case "belongs":
		x = xArc + 50 + min(90, (y2-y1)/3)
	}
	c.raw(`<path class="%s" d="M%d %dC%d %d %d %d %d %d"/>`, class, xArc, y1, x, y1, x, y2, xArc, y2)
	if class == "found" || class == "belongs" {
		c.raw(`<circle cx="%d" cy="%d" r="4" class="%s"/><circle cx="%d" cy="%d" r="4" class="%s"/>`, xArc, y1, ends(class), xArc, y2, ends(class))
	}
}

// ends is the class of the dots at a cable's ends.
func ends(class string) string { return map[string]string{"belongs": "bad", "found": "warn"}[class] }

// legend explains the drawing.
func (c *canvas) legend() {
	c.y += 12
	x := 28
	for _, s := range []state{good, bad, waits, warn, unheard} {
		text := map[state]string{good: "ok", bad: "required link not proved", waits: "waits for another device",
			warn: "stops nothing", unheard: "no report"}[s]
		c.symbol(x, c.y, 16, s)
		c.text(x+22, c.y+13, 12, "", text)
		x += 44 + 8*len(text)
	}
	c.y += 26
	c.raw(`<path class="found" d="M28 %[1]dh40"/><path class="belongs" d="M190 %[1]dh40"/><path class="missing" d="M346 %[1]dh40"/>`, c.y+8)
	c.text(76, c.y+13, 12, "", "leads here now")
	c.text(238, c.y+13, 12, "", "belongs here")
	c.text(394, c.y+13, 12, "", "nothing heard")
	c.text(520, c.y+13, 12, "", "1/2: links proved. The numbers are those of the list above.")
	c.y += 28
}

package draw

import (
	"fmt"
	"strings"

	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// region is a plan of racks that a test breaks.
type region struct {
	doc     *snapshot.Document
	linked  map[[2]snapshot.Port]bool
	reports map[string]*report.LinkReport
}

func port2(s string) snapshot.Port {
	d, i, _ := strings.Cut(s, " ")
	return snapshot.Port{Device: d, Interface: i}
}

// add adds a device with its ports.
func (g *region) add(rack string, unit int, roles []snapshot.Role, ports ...string) string {
	id := fmt.Sprintf("%s-u%02d", rack, unit)
	e := snapshot.DeviceEntry{Device: snapshot.Device{ID: id, Roles: roles, Rack: rack, Unit: fmt.Sprint(unit),
		Hostname: id, Serial: fmt.Sprintf("CZ23%s%02d", strings.ToUpper(rack), unit)}, Generation: 1}
	for _, p := range ports {
		i := snapshot.Interface{Name: p}
		if p == "eth0" {
			i.LLDP = &snapshot.LLDP{ChassisID: "mac:00:1b:21:00:00:" + rack[1:], PortID: fmt.Sprintf("ifname:Eth1/%d", unit)}
		}
		e.Interfaces = append(e.Interfaces, i)
	}
	g.doc.Devices = append(g.doc.Devices, e)
	return id
}

func (g *region) link(a, b, check string) {
	c := snapshot.Cable{A: port2(a), B: port2(b), Link: "l2", Check: check}
	if c.A.String() > c.B.String() {
		c.A, c.B = c.B, c.A
	}
	if key := [2]snapshot.Port{c.A, c.B}; !g.linked[key] {
		g.linked[key] = true
		g.doc.Links = append(g.doc.Links, c)
	}
}

// prove makes reports in which all is well.
func (g *region) prove() {
	g.reports = map[string]*report.LinkReport{}
	for _, e := range g.doc.Devices {
		g.reports[e.ID] = &report.LinkReport{Type: report.LinkReportType, Device: e.ID, Slice: 1}
	}
	for _, l := range g.doc.Links {
		for _, x := range [][2]snapshot.Port{{l.A, l.B}, {l.B, l.A}} {
			r := g.reports[x[0].Device]
			r.Links = append(r.Links, report.LinkVerdict{Interface: x[0].Interface, Peer: x[1].Device, PeerInterface: x[1].Interface,
				Required: l.Check == "required", Verdict: "proved-ok"})
		}
	}
}

// say changes what a port's device says of it.
func (g *region) say(own, verdict string, code report.Code, seen, what string) {
	p := port2(own)
	for i := range g.reports[p.Device].Links {
		v := &g.reports[p.Device].Links[i]
		if v.Interface == p.Interface {
			v.Verdict, v.Code, v.Seen = verdict, code, seen
			v.What = strings.NewReplacer("{peer}", v.Peer+" "+v.PeerInterface, "{own}", v.Interface, "{seen}", seen).Replace(what)
		}
	}
}

func (g *region) wrongPort(own, seen string) {
	g.say(own, "wrong-port", report.LinkWrongPort, seen, "{own} leads to {seen}, belongs in {peer}")
}

// kill takes a device off: no report, and silence at its neighbors.
func (g *region) kill(id string) {
	delete(g.reports, id)
	for _, r := range g.reports {
		for i := range r.Links {
			if v := &r.Links[i]; v.Peer == id {
				v.Verdict, v.Code = "silent", report.LinkSilent
				v.What = fmt.Sprintf("nothing answers on %s; %s %s belongs there", v.Interface, v.Peer, v.PeerInterface)
			}
		}
	}
}

// model counts, and puts it together.
func (g *region) model() *Model {
	var all []*report.LinkReport
	for _, e := range g.doc.Devices {
		r := g.reports[e.ID]
		if r == nil {
			continue
		}
		r.Required, r.Proved = 0, 0
		for _, v := range r.Links {
			if v.Required {
				r.Required++
				if v.Verdict == "proved-ok" {
					r.Proved++
				}
			}
		}
		all = append(all, r)
	}
	return New(g.doc, all)
}

func newRegion(racks ...string) *region {
	g := &region{linked: map[[2]snapshot.Port]bool{}, doc: &snapshot.Document{Type: snapshot.DocumentType, Region: "north", Generation: 3}}
	for _, r := range racks {
		g.doc.Switches = append(g.doc.Switches, snapshot.Switch{ID: "tor-" + r[1:], Rack: r, Unit: "42", ChassisID: "mac:00:1b:21:00:00:" + r[1:]})
	}
	return g
}

// rackOf5 is a ring of direct cables, and a switch.
func rackOf5() *region {
	g := newRegion("r07")
	g.add("r07", 1, []snapshot.Role{"dhcp", "keyserver"}, "eth0", "eth1", "eth2")
	for u := 2; u <= 5; u++ {
		g.add("r07", u, []snapshot.Role{"server"}, "eth0", "eth1", "eth2")
	}
	for u := 1; u <= 5; u++ {
		g.link(fmt.Sprintf("r07-u%02d eth1", u), fmt.Sprintf("r07-u%02d eth2", u%5+1), "required")
		if u > 1 {
			g.link("r07-u01 eth0", fmt.Sprintf("r07-u%02d eth0", u), "advisory")
		}
	}
	g.prove()
	return g
}

// swapped crosses two cables of the ring: u02-u03 and u04-u05.
func (g *region) swapped() {
	g.wrongPort("r07-u02 eth1", "r07-u05 eth2")
	g.wrongPort("r07-u05 eth2", "r07-u02 eth1")
	g.wrongPort("r07-u04 eth1", "r07-u03 eth2")
	g.wrongPort("r07-u03 eth2", "r07-u04 eth1")
}

// rackOf40 has two switches' worth of neighbors: each device checks 40.
func rackOf40(g *region, rack string) {
	for u := 1; u <= 40; u++ {
		roles := []snapshot.Role{"server"}
		if u == 1 {
			roles = []snapshot.Role{"dhcp", "keyserver"}
		}
		g.add(rack, u, roles, "eth0", "eth1")
	}
	for u := range 40 {
		for step := 1; step <= 10; step++ {
			for _, i := range []string{"eth0", "eth1"} {
				g.link(fmt.Sprintf("%s-u%02d %s", rack, u+1, i), fmt.Sprintf("%s-u%02d %s", rack, (u+step)%40+1, i), "required")
			}
		}
	}
}

// brokenRack is a rack of 5 with two cables swapped and a dead device.
func brokenRack() *Model {
	g := rackOf5()
	for x, y := range map[string]string{"r07-u02 eth1": "r07-u03 eth1", "r07-u04 eth2": "r07-u03 eth2"} {
		g.wrongPort(x, y)
		g.wrongPort(y, x)
	}
	g.kill("r07-u01")
	return g.model()
}

// bigRack is a rack of 40 with a dead device, a port without carrier, and two
// plugs swapped at the switch.
func bigRack() *Model {
	g := newRegion("r08")
	rackOf40(g, "r08")
	g.prove()
	g.kill("r08-u17")
	g.say("r08-u30 eth1", "unknown", report.LinkNoCarrier, "", "{own} has no carrier; {peer} belongs at its other end")
	for _, r := range g.reports {
		for i := range r.Links {
			v := &r.Links[i]
			if v.Peer == "r08-u30" && v.PeerInterface == "eth1" {
				v.Verdict, v.Code, v.What = "silent", report.LinkSilent, "nothing answers on eth1; r08-u30 eth1 belongs there"
			}
			for _, x := range [][2]int{{5, 6}, {6, 5}} {
				if r.Device == fmt.Sprintf("r08-u%02d", x[0]) && v.Interface == "eth0" {
					v.LLDP, v.LLDPSeen = "mismatch", fmt.Sprintf("tor-08 port Eth1/%d", x[1])
				}
			}
		}
	}
	return g.model()
}

// bigRegion has 4,000 devices: one rack is dark, two devices are dead, one sent
// no report.
func bigRegion() *Model {
	var racks []string
	for i := range 100 {
		racks = append(racks, fmt.Sprintf("r%02d", i+1))
	}
	g := newRegion(racks...)
	for _, r := range racks {
		rackOf40(g, r)
	}
	g.prove()
	for u := range 40 {
		delete(g.reports, fmt.Sprintf("r13-u%02d", u+1))
	}
	g.kill("r44-u05")
	g.kill("r70-u40")
	delete(g.reports, "r71-u11")
	return g.model()
}

// planOf5 has no reports.
func planOf5() *Model {
	g := rackOf5()
	g.reports = nil
	return g.model()
}

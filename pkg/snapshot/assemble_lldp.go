package snapshot

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/lldp"
)

// maxAdopted bounds the devices heard at a port that become its links: more are
// heard through a switch that forwards LLDP.
const maxAdopted = 4

// planSwitch is a switch with the ports of devices that are planned on it.
type planSwitch struct {
	PlanSwitch
	ports map[string]Port // by the switch's name for its port
}

func (a *assembler) switchOf(id string) *planSwitch {
	for _, w := range a.switches {
		if w.ID == id {
			return w
		}
	}
	return nil
}

func (a *assembler) onSwitch(w *planSwitch, port string, p Port) {
	if other, ok := w.ports[port]; ok {
		a.c.add("switch "+w.ID, "port %s is planned for %s and for %s", port, other, p)
		return
	}
	if a.wantPort(p, fmt.Sprintf("switch %s port %s", w.ID, port)) {
		w.ports[port] = p
	}
}

// same says whether what was heard (lldp.ID.Exact) is what was planned.
func same(planned, heard string) bool {
	want, err1 := lldp.ParseID(planned)
	have, err2 := lldp.ParseID(heard)
	if err1 != nil || err2 != nil {
		return false
	}
	if want.Subtype == 0 {
		want, err1 = lldp.ParseID(have.Subtype.String() + ":" + want.Text)
	}
	return err1 == nil && want == have
}

// heardAt lists the switches and the devices that a captured interface heard.
func (a *assembler) heardAt(id string, i *PlanInterface) (switches, devices []Heard) {
	c := a.captures[id]
	if c == nil {
		return nil, nil
	}
	port := c.byMAC(i.MAC)
	if port == nil {
		return nil, nil
	}
	for _, h := range port.Heard {
		if h.Device {
			devices = append(devices, h)
		} else {
			switches = append(switches, h)
		}
	}
	return switches, devices
}

// setSwitches decides what each interface should hear, and compares it with
// what it heard.
func (a *assembler) setSwitches() {
	for _, w := range a.switches {
		a.chassis(w)
	}
	planned := map[Port]bool{}
	for _, w := range a.switches {
		for _, name := range slices.Sorted(maps.Keys(w.ports)) {
			p := w.ports[name]
			if planned[p] {
				a.c.add(p.String(), "is planned on two ports of switches")
			}
			planned[p] = true
			a.place(w, name, p)
		}
	}
	for _, id := range a.ids() {
		for i := range a.devices[id].Interfaces {
			ifc := &a.devices[id].Interfaces[i]
			if !planned[Port{id, ifc.Name}] {
				a.adoptSwitch(id, ifc)
			}
		}
	}
}

// chassis finds out what a switch calls itself.
func (a *assembler) chassis(w *planSwitch) {
	if w.ChassisID != "" {
		return
	}
	from := ""
	for _, name := range slices.Sorted(maps.Keys(w.ports)) {
		p := w.ports[name]
		heard, _ := a.heardAt(p.Device, a.devices[p.Device].find(p.Interface))
		for _, h := range heard {
			if h.System != w.ID && !same(w.ID, h.ChassisID) {
				continue
			}
			if from != "" && w.ChassisID != h.ChassisID {
				a.c.add("switch "+w.ID, "calls itself %s at %s and %s at %s: two switches have one name", w.ChassisID, from, h.ChassisID, p)
			}
			w.ChassisID, from = h.ChassisID, p.String()
		}
	}
	w.ChassisID = cmp.Or(w.ChassisID, w.ID)
}

// place says what the interface at a switch's port should hear.
func (a *assembler) place(w *planSwitch, name string, p Port) {
	ifc := a.devices[p.Device].find(p.Interface)
	if ifc.LLDP != nil {
		a.c.add(p.String(), "is planned on %s port %s, and says itself what it should hear: keep one", w.ID, name)
		return
	}
	ifc.LLDP = &LLDP{ChassisID: w.ChassisID, PortID: name}
	heard, _ := a.heardAt(p.Device, ifc)
	if len(heard) == 0 {
		if a.captures[p.Device] != nil {
			a.note("%s heard no switch; it is planned on %s port %s", p, w.ID, name)
		}
		return
	}
	for _, h := range heard {
		if same(w.ChassisID, h.ChassisID) && (same(name, h.PortID) || h.PortText == name) {
			ifc.LLDP = &LLDP{ChassisID: h.ChassisID, PortID: h.PortID}
			return
		}
	}
	var found []string
	for _, h := range heard {
		found = append(found, a.seen(h))
	}
	a.c.add(p.String(), "is planned on %s port %s, but heard %s", w.ID, name, strings.Join(found, " and "))
}

// seen tells what was heard in the plan's words, and who belongs there.
func (a *assembler) seen(h Heard) string {
	for _, w := range a.switches {
		if !same(w.ChassisID, h.ChassisID) {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(w.ports)) {
			if same(name, h.PortID) || h.PortText == name {
				return fmt.Sprintf("%s port %s, where %s belongs", w.ID, name, w.ports[name])
			}
		}
		return fmt.Sprintf("%s port %s", w.ID, h.port())
	}
	return fmt.Sprintf("%s port %s", cmp.Or(h.System, h.ChassisID), h.port())
}

// adoptSwitch takes the switch that an interface heard, unless the plan says
// what it should hear.
func (a *assembler) adoptSwitch(id string, i *PlanInterface) {
	heard, _ := a.heardAt(id, i)
	switch {
	case i.LLDP == nil && len(heard) == 1:
		i.LLDP = &LLDP{ChassisID: heard[0].ChassisID, PortID: heard[0].PortID}
		a.adoptName(id, heard[0])
	case i.LLDP == nil && len(heard) > 1:
		a.note("%s/%s heard %d switches; the plan should say which one counts", id, i.Name, len(heard))
	case i.LLDP != nil && len(heard) > 0:
		match := func(h Heard) bool { return same(i.LLDP.ChassisID, h.ChassisID) && same(i.LLDP.PortID, h.PortID) }
		if !slices.ContainsFunc(heard, match) {
			a.c.add(id+"/"+i.Name, "is planned on %s port %s, but heard %s", i.LLDP.ChassisID, i.LLDP.PortID, a.seen(heard[0]))
		}
	}
}

// adoptName keeps the name of a switch that no plan lists, for people.
func (a *assembler) adoptName(id string, h Heard) {
	for _, w := range a.switches {
		if w.ID == h.System || same(w.ChassisID, h.ChassisID) {
			return
		}
	}
	if IsName(h.System) && a.devices[h.System] == nil {
		w := PlanSwitch{ID: h.System, Rack: a.devices[id].Rack, ChassisID: h.ChassisID}
		a.switches = append(a.switches, &planSwitch{PlanSwitch: w, ports: map[string]Port{}})
	}
}

// meshes adds the links between the devices of a switch: a ring in which each
// has its nearest neighbors on both sides.
func (a *assembler) meshes() {
	for _, w := range a.switches {
		ports := slices.SortedFunc(maps.Values(w.ports), Port.compare)
		for i := range ports {
			for step := 1; step <= (w.Neighbors+1)/2 && step <= len(ports)/2; step++ {
				l := PlanLink{A: ports[i], B: ports[(i+step)%len(ports)]}
				if l.A.compare(l.B) > 0 {
					l.A, l.B = l.B, l.A
				}
				if l.A.Device != l.B.Device && !a.linked[[2]Port{l.A, l.B}] {
					a.addLink(l)
				}
			}
		}
	}
}

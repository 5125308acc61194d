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
	a.own, a.adopted = a.ownMarks(), map[string]bool{}
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
			a.note("%s heard no switch; it is planned on %s port %s%s", p, w.ID, name, a.deaf(p.Device, ifc))
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

// deaf says why a port may hear nobody: some cards have an LLDP agent in their
// firmware, which takes all LLDPDUs for itself.
func (a *assembler) deaf(id string, i *PlanInterface) string {
	port := a.captures[id].byMAC(i.MAC)
	if port == nil {
		return ""
	}
	off := map[string]string{"i40e": "disable-fw-lldp on", "ice": "fw-lldp-agent off"}[port.Driver]
	if off == "" {
		return ""
	}
	return fmt.Sprintf("; the firmware of this card may take LLDP for itself: switch its agent off in the card's setup or by `ethtool --set-priv-flags %s %s`, then capture again", port.Name, off)
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
	if i.LLDP != nil {
		match := func(h Heard) bool { return same(i.LLDP.ChassisID, h.ChassisID) && same(i.LLDP.PortID, h.PortID) }
		if len(heard) > 0 && !slices.ContainsFunc(heard, match) {
			a.c.add(id+"/"+i.Name, "is planned on %s port %s, but heard %s", i.LLDP.ChassisID, i.LLDP.PortID, a.seen(heard[0]))
		}
		return
	}
	var switches []Heard
	for _, h := range heard {
		if why := a.noSwitch(h); why != "" {
			a.note("%s/%s heard %s port %s, which is not taken for a switch: %s", id, i.Name, cmp.Or(h.System, h.ChassisID), h.port(), why)
			continue
		}
		switches = append(switches, h)
	}
	switch len(switches) {
	case 0:
	case 1:
		i.LLDP = &LLDP{ChassisID: switches[0].ChassisID, PortID: switches[0].PortID}
		a.adoptName(id, i.Name, switches[0])
	default:
		a.note("%s/%s heard %d switches; the plan should say which one counts", id, i.Name, len(switches))
	}
}

// noSwitch says why what was heard is none: a server may announce itself too. A
// switch that the plan names is one whatever it says.
func (a *assembler) noSwitch(h Heard) string {
	if slices.ContainsFunc(a.switches, func(w *planSwitch) bool { return w.ID == h.System || same(w.ChassisID, h.ChassisID) }) {
		return ""
	}
	name, _, _ := strings.Cut(h.System, ".")
	for _, key := range []string{name, h.ChassisID, h.PortID} {
		if why := a.own[key]; why != "" {
			return why
		}
	}
	if h.Station {
		return "it says that it is a station only; if it is a switch, a plan must name it"
	}
	return ""
}

// ownMarks maps the names and MAC addresses of devices, as LLDP carries them, to
// words about them.
func (a *assembler) ownMarks() map[string]string {
	own := map[string]string{}
	for _, id := range a.ids() {
		d := a.devices[id]
		own[id], own[cmp.Or(d.Hostname, id)] = "it has the name of the device "+id, "it has the name of the device "+id
		mark := func(mac string) { own["mac:"+mac] = "it has a MAC address of the device " + id }
		for _, i := range d.Interfaces {
			mark(i.MAC)
		}
		if c := a.captures[id]; c != nil {
			for _, p := range c.Ports {
				mark(p.MAC)
			}
		}
	}
	return own
}

// adoptName keeps the name of a switch that no plan lists, for people, and says
// so, once.
func (a *assembler) adoptName(id, port string, h Heard) {
	for _, w := range a.switches {
		if w.ID == h.System || same(w.ChassisID, h.ChassisID) {
			return
		}
	}
	if !a.adopted[h.ChassisID] {
		a.note("switch %s is in no plan; it is taken from what %s/%s heard", cmp.Or(h.System, h.ChassisID), id, port)
		a.adopted[h.ChassisID] = true
	}
	if IsName(h.System) {
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

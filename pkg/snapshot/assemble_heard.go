package snapshot

import "slices"

// heardDevices compares the links between devices with the devices that were
// heard, and takes the links that no plan names. Only ports without a switch
// between them hear each other.
func (a *assembler) heardDevices() {
	hears := map[[2]Port]bool{} // the first port heard the second one
	for _, id := range a.ids() {
		for i := range a.devices[id].Interfaces {
			ifc := &a.devices[id].Interfaces[i]
			_, heard := a.heardAt(id, ifc)
			for _, h := range heard {
				if h.System == id {
					a.note("%s/%s hears %s of the same device: a cable between its own ports, or a switch that forwards LLDP", id, ifc.Name, h.port())
					continue
				}
				if p, ok := a.peer(Port{id, ifc.Name}, h); ok {
					hears[[2]Port{{id, ifc.Name}, p}] = true
				}
			}
		}
	}
	a.unnamedHeard()
	wrong := a.compareHeard(hears)
	a.unheard(hears, wrong)
	a.adoptHeard(hears, wrong)
}

// unnamedHeard notes captured ports that heard a device and that no plan names.
func (a *assembler) unnamedHeard() {
	for _, id := range a.ids() {
		c := a.captures[id]
		if c == nil {
			continue
		}
		for i := range c.Ports {
			port := &c.Ports[i]
			if a.interfaceOf(id, port) != nil || a.devices[id].find(port.Name) != nil {
				continue
			}
			for _, h := range port.Heard {
				if h.Device && h.System != id {
					a.note("%s/%s heard %s/%s, but no plan names this port", id, port.Name, h.System, h.port())
				}
			}
		}
	}
}

// unheard notes planned links that a captured end did not prove by hearing the
// other. Through a switch nobody hears anybody.
func (a *assembler) unheard(hears map[[2]Port]bool, wrong map[Port]bool) {
	direct := func(p Port) bool { i := a.portOf(p); return i != nil && i.LLDP == nil }
	for _, l := range a.links {
		x, y := l.A, l.B
		if l.Link != "l2" || a.captures[x.Device] == nil || a.captures[y.Device] == nil || wrong[x] || wrong[y] {
			continue
		}
		forth, back := hears[[2]Port{x, y}], hears[[2]Port{y, x}]
		switch {
		case forth && back:
		case back:
			a.note("%s did not hear %s, which heard it: look at the cable, or capture both again", x, y)
		case forth:
			a.note("%s did not hear %s, which heard it: look at the cable, or capture both again", y, x)
		case direct(x) && direct(y):
			a.note("%s and %s are planned to be linked, but neither heard the other: look at the cable, or capture both at one time", x, y)
		}
	}
}

// peer is the port that a device said it was speaking from, by its name in the
// plan: it speaks by the kernel's.
func (a *assembler) peer(at Port, h Heard) (Port, bool) {
	if a.devices[h.System] == nil {
		a.c.add(at.String(), "heard %s, which is no device of the plan", h.System)
		return Port{}, false
	}
	p := Port{h.System, h.port()}
	if c := a.captures[h.System]; c != nil {
		if i := a.interfaceOf(h.System, c.find(p.Interface)); i != nil {
			p.Interface = i.Name
		}
	}
	return p, true
}

// neighbors maps each port to those that it has links with.
func (a *assembler) neighbors() map[Port][]Port {
	of := map[Port][]Port{}
	for _, l := range a.links {
		if l.Link == "l2" {
			of[l.A] = append(of[l.A], l.B)
			of[l.B] = append(of[l.B], l.A)
		}
	}
	return of
}

func sortedPairs(hears map[[2]Port]bool) [][2]Port {
	var all [][2]Port
	for pair := range hears {
		all = append(all, pair)
	}
	slices.SortFunc(all, func(x, y [2]Port) int {
		if n := x[0].compare(y[0]); n != 0 {
			return n
		}
		return x[1].compare(y[1])
	})
	return all
}

// compareHeard finds ports that hear others than planned. A port that hears its
// neighbor may hear more: a hub, or a switch that forwards LLDP. The wrong ones
// are returned.
func (a *assembler) compareHeard(hears map[[2]Port]bool) (wrong map[Port]bool) {
	wrong = map[Port]bool{}
	planned := a.neighbors()
	heard := map[Port][]Port{}
	var order []Port
	for _, pair := range sortedPairs(hears) {
		if heard[pair[0]] == nil {
			order = append(order, pair[0])
		}
		heard[pair[0]] = append(heard[pair[0]], pair[1])
	}
	for _, p := range order {
		want := planned[p]
		found := func(q Port) bool { return slices.Contains(heard[p], q) }
		if len(want) > 0 && !slices.ContainsFunc(want, found) {
			a.c.add(p.String(), "is planned to %v, but heard %v", want, heard[p])
			wrong[p] = true
		}
	}
	return wrong
}

// adoptHeard takes the links that are there and that no plan names.
func (a *assembler) adoptHeard(hears map[[2]Port]bool, wrong map[Port]bool) {
	planned := a.neighbors()
	count := map[Port]int{}
	for pair := range hears {
		count[pair[0]]++
	}
	for _, pair := range sortedPairs(hears) {
		p, q := pair[0], pair[1]
		back := hears[[2]Port{q, p}]
		switch {
		case planned[p] != nil || wrong[q]:
		case planned[q] != nil:
			a.note("%s heard %s, which is planned to %v; no plan names a link of %s", p, q, planned[q], p)
		case a.portOf(q) == nil:
			a.note("%s heard %s, but no plan names that port", p, q)
		case count[p] > maxAdopted || count[q] > maxAdopted:
			a.note("%s and %s hear each other among %d others: no link is made of it; the plan should name those to check", p, q, max(count[p], count[q])-1)
		case !back && a.captures[q.Device] != nil:
			a.c.add(p.String(), "heard %s, but was not heard there: the link has one end; look at the cable and capture both again", q)
		case !back || p.compare(q) < 0:
			a.addLink(PlanLink{A: p, B: q})
		}
	}
}

package snapshot

import (
	"reflect"
	"slices"
)

// planOf is what a description says, in the words of a plan. Its neighbors are
// looked at apart.
func planOf(s *Slice) *PlanDevice {
	d := &PlanDevice{ID: s.Device.ID, Roles: s.Device.Roles, Rack: s.Device.Rack, Unit: s.Device.Unit, Hostname: s.Device.Hostname,
		Serial: s.Device.Serial, Volumes: s.Volumes, DHCPDevice: s.DHCPDevice}
	for _, i := range s.Interfaces {
		d.Interfaces = append(d.Interfaces, PlanInterface(i))
	}
	if !reflect.ValueOf(s.Boot).IsZero() {
		d.Boot = &s.Boot
	}
	if s.Policy != (Policy{}) {
		d.Policy = &s.Policy
	}
	if s.DHCP != nil {
		d.DHCP = &DHCPService{Serves: "region", Boot: s.DHCP.Boot, Quarantine: s.DHCP.Quarantine}
	}
	return d
}

func (d *PlanDevice) find(name string) *PlanInterface {
	for i := range d.Interfaces {
		if d.Interfaces[i].Name == name {
			return &d.Interfaces[i]
		}
	}
	return nil
}

func (c *Capture) find(name string) *CapturePort {
	for i := range c.Ports {
		if c.Ports[i].Name == name {
			return &c.Ports[i]
		}
	}
	return nil
}

func (c *Capture) byMAC(mac string) *CapturePort {
	for i := range c.Ports {
		if c.Ports[i].MAC == mac {
			return &c.Ports[i]
		}
	}
	return nil
}

// merge adds to what is known about a device; the same field said twice in
// different words is a contradiction.
func (a *assembler) merge(to, from *PlanDevice) {
	mergeValue(a, to.ID, "rack", &to.Rack, from.Rack)
	mergeValue(a, to.ID, "unit", &to.Unit, from.Unit)
	mergeValue(a, to.ID, "hostname", &to.Hostname, from.Hostname)
	mergeValue(a, to.ID, "serial", &to.Serial, from.Serial)
	mergeValue(a, to.ID, "dhcp_device", &to.DHCPDevice, from.DHCPDevice)
	mergeValue(a, to.ID, "roles", &to.Roles, from.Roles)
	mergeValue(a, to.ID, "volumes", &to.Volumes, from.Volumes)
	mergeValue(a, to.ID, "boot", &to.Boot, from.Boot)
	mergeValue(a, to.ID, "policy", &to.Policy, from.Policy)
	mergeValue(a, to.ID, "dhcp", &to.DHCP, from.DHCP)
	for _, i := range from.Interfaces {
		known := to.find(i.Name)
		if known == nil {
			to.Interfaces = append(to.Interfaces, i)
			continue
		}
		name := to.ID + "/" + i.Name
		mergeValue(a, name, "MAC address", &known.MAC, i.MAC)
		mergeValue(a, name, "addresses", &known.Addresses, i.Addresses)
		mergeValue(a, name, "gateway", &known.Gateway, i.Gateway)
		mergeValue(a, name, "MTU", &known.MTU, i.MTU)
		mergeValue(a, name, "switch port", &known.LLDP, i.LLDP)
	}
}

// mergeValue takes what was not said before.
func mergeValue[T any](a *assembler, owner, what string, to *T, from T) {
	switch x, y := reflect.ValueOf(*to), reflect.ValueOf(from); {
	case y.IsZero():
	case x.IsZero():
		*to = from
	case reflect.DeepEqual(*to, from):
	case x.Kind() == reflect.String:
		a.c.add(owner, "its sources say %s %q and %q", what, x.String(), y.String())
	default:
		a.c.add(owner, "its sources say different %s", what)
	}
}

// addSwitch takes a switch, or adds to what is known about it.
func (a *assembler) addSwitch(w PlanSwitch) {
	known := a.switchOf(w.ID)
	if known == nil {
		a.switches = append(a.switches, &planSwitch{PlanSwitch: w, ports: map[string]Port{}})
		return
	}
	name := "switch " + w.ID
	mergeValue(a, name, "rack", &known.Rack, w.Rack)
	mergeValue(a, name, "unit", &known.Unit, w.Unit)
	mergeValue(a, name, "chassis_id", &known.ChassisID, w.ChassisID)
	mergeValue(a, name, "neighbors", &known.Neighbors, w.Neighbors)
}

// setPorts takes MAC addresses and serial numbers from the captures, and
// compares those that were planned.
func (a *assembler) setPorts() {
	for _, id := range a.ids() {
		d, c := a.devices[id], a.captures[id]
		if c != nil && d.Serial == "" {
			d.Serial = c.Serial
		} else if c != nil && c.Serial != "" && d.Serial != c.Serial {
			a.c.add(id, "the plan says serial %q, the machine %q: another machine took its place", d.Serial, c.Serial)
		}
		if len(d.Interfaces) == 0 && c != nil {
			a.note("%s: the plan names none of its interfaces; the captured ones are not taken", id)
		}
		for i := range d.Interfaces {
			a.setMAC(id, &d.Interfaces[i], c)
		}
	}
}

func (a *assembler) setMAC(id string, i *PlanInterface, c *Capture) {
	name := id + "/" + i.Name
	if c == nil {
		if i.MAC == "" && !a.c.unfinished[id] {
			a.c.add(name, "has no MAC address: neither the plan nor a capture names it")
			a.c.unfinished[name] = true
		}
		return
	}
	var have []string
	for _, p := range c.Ports {
		have = append(have, p.Name+" "+p.MAC)
	}
	port := c.find(i.Name)
	switch {
	case i.MAC != "" && c.byMAC(i.MAC) == nil:
		a.c.add(name, "is planned with MAC address %s, which the machine does not have; it has %v", i.MAC, have)
	case i.MAC == "" && port == nil:
		a.c.add(name, "is no port of the machine, and the plan names no MAC address; it has %v", have)
		a.c.unfinished[name] = true
	case i.MAC == "":
		i.MAC = port.MAC
	}
	if port = c.byMAC(i.MAC); port != nil && !port.Carrier {
		a.note("%s had no carrier when it was captured", name)
	}
}

// portOf is the planned interface of a name; nil when there is none.
func (a *assembler) portOf(p Port) *PlanInterface {
	if d := a.devices[p.Device]; d != nil {
		return d.find(p.Interface)
	}
	return nil
}

// interfaceOf is the planned interface of a captured port, which MAC decides.
func (a *assembler) interfaceOf(id string, port *CapturePort) *PlanInterface {
	d := a.devices[id]
	if d == nil || port == nil {
		return nil
	}
	n := slices.IndexFunc(d.Interfaces, func(i PlanInterface) bool { return i.MAC == port.MAC })
	if n < 0 {
		return nil
	}
	return &d.Interfaces[n]
}

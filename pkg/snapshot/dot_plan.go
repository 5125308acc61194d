package snapshot

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
)

// dotKnown are the attributes that count; docs/spec/dot.md explains them.
func dotKnown() []string {
	return []string{
		"function", "rack", "unit", "serial", "hostname", "roles", "chassis_id", "neighbors", // of nodes
		"link", "check", "left_mac", "right_mac", // of links
	}
}

// dotSwitches are the words of "function" that make a node a switch.
func dotSwitches() []string {
	return []string{"switch", "tor", "leaf", "spine", "superspine", "super-spine", "border", "exit", "oob-switch"}
}

// dotEnd is a node with a port.
type dotEnd struct {
	node, port string
	line       int
}

func (e dotEnd) String() string { return fmt.Sprintf("%.70q:%.70q", e.node, e.port) }

// dotNode is a device or a switch, where it was first named.
type dotNode struct {
	line  int
	attr  dotAttributes
	ports []PlanInterface
	index map[string]int // of ports, by name
}

type dotEdge struct {
	a, b dotEnd
	attr dotAttributes
}

// dotPlan is what a plan says, before its names are looked at.
type dotPlan struct {
	nodes map[string]*dotNode
	edges []dotEdge
	errs  []error
}

// add keeps a contradiction; the first ones tell enough.
func (d *dotPlan) add(line int, format string, args ...any) {
	if len(d.errs) < maxDOTErrors {
		d.errs = append(d.errs, fmt.Errorf("%w: line %d: %s", ErrDOT, line, fmt.Sprintf(format, args...)))
	}
}

// node is the node of a name. As in Graphviz, defaults count where it is named
// first.
func (d *dotPlan) node(name string, line int, defaults dotAttributes) (*dotNode, error) {
	if n := d.nodes[name]; n != nil {
		return n, nil
	}
	if len(d.nodes) >= 2*MaxDevices {
		return nil, fmt.Errorf("%w: line %d: more than %d devices and switches", ErrDOT, line, 2*MaxDevices)
	}
	n := &dotNode{line: line, attr: maps.Clone(defaults), index: map[string]int{}}
	d.nodes[name] = n
	return n, nil
}

func (d *dotPlan) addNode(e dotEnd, defaults, own dotAttributes) error {
	n, err := d.node(e.node, e.line, defaults)
	if err != nil {
		return err
	}
	maps.Copy(n.attr, own)
	return nil
}

func (d *dotPlan) addEdge(a, b dotEnd, attr, defaults dotAttributes) error {
	if len(d.edges) >= MaxCables {
		return fmt.Errorf("%w: line %d: more than %d links", ErrDOT, a.line, MaxCables)
	}
	for i, e := range []dotEnd{a, b} {
		n, err := d.node(e.node, e.line, defaults)
		if err != nil {
			return err
		}
		if e.port == "" {
			device, port, _ := strings.Cut(e.node+":PORT", ":")
			d.add(e.line, "%.70q is the end of a link without a port: write %.70q:%.70q", e.node, device, strings.TrimSuffix(port, ":PORT"))
			continue
		}
		d.addPort(n, e, attr[[]string{"left_mac", "right_mac"}[i]])
	}
	d.edges = append(d.edges, dotEdge{a, b, attr})
	return nil
}

// addPort lists a port once, with the MAC address that a link names for it.
func (d *dotPlan) addPort(n *dotNode, e dotEnd, mac string) {
	if mac != "" {
		hw, err := net.ParseMAC(mac)
		if err != nil || len(hw) != 6 {
			d.add(e.line, "%q is no MAC address of %s", mac, e)
		} else {
			mac = hw.String()
		}
	}
	i, ok := n.index[e.port]
	if !ok {
		n.index[e.port] = len(n.ports)
		n.ports = append(n.ports, PlanInterface{Name: e.port, MAC: mac})
		return
	}
	if mac == "" {
		return
	}
	if known := n.ports[i].MAC; known != "" && known != mac {
		d.add(e.line, "%s has the MAC address %s, and %s before", e, mac, known)
	}
	n.ports[i].MAC = mac
}

// build writes the plan, in order.
func (d *dotPlan) build(isSwitch func(string) bool) (*Plan, error) {
	plan := &Plan{Type: PlanType, Devices: []PlanDevice{}, Links: []PlanLink{}}
	switches := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(d.nodes)) {
		n := d.nodes[name]
		if !IsName(name) {
			d.add(n.line, "%.70q cannot be the ID of a device or switch, which is 1 to 63 of a-z, 0-9 and -", name)
		}
		if slices.Contains(dotSwitches(), n.attr["function"]) || isSwitch != nil && isSwitch(name) {
			switches[name] = true
			plan.Switches = append(plan.Switches, d.planSwitch(name, n))
		} else {
			plan.Devices = append(plan.Devices, d.planDevice(name, n))
		}
	}
	for _, e := range d.edges {
		d.cable(plan, e, switches)
	}
	if len(d.errs) > 0 {
		return nil, errors.Join(d.errs...)
	}
	return plan, nil
}

func (d *dotPlan) planSwitch(name string, n *dotNode) PlanSwitch {
	d.text(n, "rack", "unit", "chassis_id")
	w := PlanSwitch{ID: name, Rack: n.attr["rack"], Unit: n.attr["unit"], ChassisID: n.attr["chassis_id"]}
	if text := n.attr["neighbors"]; text != "" {
		count, err := strconv.Atoi(text)
		if err != nil || count < 0 || count > maxNeighbors {
			d.add(n.line, "neighbors of %.70q is %.40q, must be 0 to %d", name, text, maxNeighbors)
		}
		w.Neighbors = count
	}
	for _, p := range n.ports {
		if !isLabel(p.Name) {
			d.add(n.line, "%.70q has a port %.70q, whose name must be at most 128 printable ASCII characters", name, p.Name)
		}
	}
	return w
}

func (d *dotPlan) planDevice(name string, n *dotNode) PlanDevice {
	d.text(n, "rack", "unit", "serial", "hostname")
	dev := PlanDevice{ID: name, Rack: n.attr["rack"], Unit: n.attr["unit"], Serial: n.attr["serial"],
		Hostname: n.attr["hostname"], Interfaces: n.ports}
	for _, r := range strings.FieldsFunc(n.attr["roles"], func(r rune) bool { return r == ' ' || r == ',' }) {
		if !slices.Contains([]Role{RoleServer, RoleKeyserver, RoleDHCP}, Role(r)) {
			d.add(n.line, "role %.40q of %.70q must be server, keyserver or dhcp", r, name)
		}
		dev.Roles = append(dev.Roles, Role(r))
	}
	for _, p := range n.ports {
		if !IsInterface(p.Name) {
			d.add(n.line, "%.70q has a port %.70q, which cannot be the name of an interface", name, p.Name)
		}
	}
	return dev
}

// text checks attributes that people read.
func (d *dotPlan) text(n *dotNode, names ...string) {
	for _, a := range names {
		if !isLabel(n.attr[a]) {
			d.add(n.line, "%s must be at most 128 printable ASCII characters", a)
		}
	}
}

// cable keeps a link, unless it is between switches: none of the devices sees
// those.
func (d *dotPlan) cable(plan *Plan, e dotEdge, switches map[string]bool) {
	link, check := e.attr["link"], e.attr["check"]
	if !slices.Contains([]string{"", "l2", "routed"}, link) || !slices.Contains([]string{"", "required", "advisory"}, check) {
		d.add(e.a.line, "the link %s -- %s has link %.40q (l2 or routed) and check %.40q (required or advisory)", e.a, e.b, link, check)
	}
	if e.a.node == e.b.node && e.a.port == e.b.port {
		d.add(e.a.line, "the link %s -- %s is of a port with itself", e.a, e.b)
	}
	if !switches[e.a.node] || !switches[e.b.node] {
		plan.Links = append(plan.Links, PlanLink{A: Port{e.a.node, e.a.port}, B: Port{e.b.node, e.b.port}, Link: link, Check: check})
	}
}

package scenario

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/landfall-project/landfall/qemu/hub"
	"github.com/landfall-project/landfall/qemu/netlab"
)

// stationPort is the switch's port that leads to the network namespace with
// the scenario's own programs.
const (
	stationPort   = "station"
	stationSocket = "Eth1/48"
	stationCIDR   = "10.77.0.250/24"
)

// Wiring is the rack's cables and its switch.
type Wiring struct {
	lab     *Lab
	hub     *hub.Hub
	sw      *hub.Switch
	station *netlab.Net
	sockets map[rackPort]string

	mu    sync.Mutex
	on    map[string]*Machine
	mends map[rackPort]func() error
}

// newWiring cables the rack as its snapshot says.
func (l *Lab) newWiring() *Wiring {
	l.Helper()
	w := &Wiring{lab: l, hub: hub.New(l.Dir), sockets: map[rackPort]string{}, on: map[string]*Machine{}, mends: map[rackPort]func() error{}}
	l.onEnd("unplug the rack", w.hub.Close)
	w.hub.OnCarrier(w.carrier)
	chassis, err := net.ParseMAC(rackChassis)
	l.Check(err)
	w.sw = w.hub.NewSwitch(rackSwitch, chassis)
	for _, d := range rackDevices() {
		for _, name := range rackPorts(d) {
			p := rackPort{d, name}
			w.sockets[p], err = w.hub.Port(p.String())
			l.Check(err)
		}
		l.Check(w.sw.Plug(switchPort(d), rackPort{d, "eth0"}.String()))
	}
	for _, c := range rackCables() {
		l.Check(w.hub.Cable(c[0].String(), c[1].String()))
	}
	w.station = l.Network(stationCIDR)
	tap, err := w.station.AddTap(l.Context())
	l.Check(err)
	l.Check(w.hub.Tap(stationPort, w.station, tap))
	l.Check(w.sw.Plug(stationSocket, stationPort))
	return w
}

// socket is what QEMU plugs a card into.
func (w *Wiring) socket(p rackPort) string { return w.sockets[p] }

// powered tells a machine that was just started which of its cables are in.
func (w *Wiring) powered(device string, m *Machine) {
	w.lab.Helper()
	w.mu.Lock()
	w.on[device] = m
	w.mu.Unlock()
	for _, name := range rackPorts(device) {
		p := rackPort{device, name}.String()
		w.carrier(p, w.hub.Carrier(p))
	}
}

// carrier takes the carrier from a card, or gives it.
func (w *Wiring) carrier(port string, up bool) {
	for _, device := range rackDevices() {
		n := slices.IndexFunc(rackPorts(device), func(name string) bool { return rackPort{device, name}.String() == port })
		w.mu.Lock()
		m := w.on[device]
		w.mu.Unlock()
		if n < 0 || m == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(w.lab.Context(), 10*time.Second)
		if err := m.SetLink(ctx, n, up); err != nil {
			w.lab.Logf("carrier of %s: %v", port, err)
		}
		cancel()
	}
}

// Cut pulls the plug out of a port, and Mend puts it back.
func (w *Wiring) Cut(p rackPort) {
	w.lab.Helper()
	mend, err := w.hub.Cut(p.String())
	w.lab.Check(err)
	w.mends[p] = mend
}

// Mend puts back what Cut pulled out.
func (w *Wiring) Mend(p rackPort) {
	w.lab.Helper()
	w.lab.Check(w.mends[p]())
}

// Swap exchanges the plugs in two ports.
func (w *Wiring) Swap(a, b rackPort) {
	w.lab.Helper()
	w.lab.Check(w.hub.Swap(a.String(), b.String()))
}

// Rogue is a DHCP server that is not the rack's, in its segment: it gives wrong
// addresses to all who ask.
func (r *Rack) Rogue(cidr string) *netlab.Process {
	r.Helper()
	n := r.Network(cidr)
	tap, err := n.AddTap(r.Context())
	r.Check(err)
	r.Check(r.Wiring.hub.Tap("rogue", n, tap))
	r.Check(r.Wiring.sw.Plug("Eth1/47", "rogue"))
	p, err := n.StartDHCP(r.Context(), netlab.DHCP{
		Dir: r.Dir, Subnet: "10.66.0.0", Netmask: "255.255.255.0", Router: "10.66.0.1", Range: "10.66.0.100,10.66.0.200",
	})
	r.Check(err)
	return p
}

// Region is the rack's, handled from the station's port. Its key server is in the
// rack.
func (r *Rack) Region() *Region {
	return &Region{lab: r.Lab, Dir: r.Path(rackRegion), Net: r.Wiring.station, bins: r.Sealed.Dir}
}

// Kekctl runs kekctl as the operator alice.
func (r *Rack) Kekctl(args ...string) string {
	r.Helper()
	return r.Region().Kekctl(args...)
}

package hub

import (
	"fmt"
	"net"
	"slices"
	"time"
)

// Subtypes of IDs (IEEE 802.1AB, tables 8-2 and 8-3).
const (
	chassisMAC = 4
	portIfName = 5
)

// lldpEvery is how often a switch says by LLDP who it is. Real ones take 30 s
// (IEEE 802.1AB, 9.2.5.7); tests have less time.
const lldpEvery = 2 * time.Second

// Switch is a segment of any number of ports, each of which tells its name by
// LLDP.
type Switch struct {
	Name    string
	Chassis net.HardwareAddr

	hub    *Hub
	wire   *wire
	mute   bool
	socket map[*port]string // the switch's name of the port
	apart  map[string]bool  // sockets of a part that is cut off from the rest
}

// Cable plugs a cable into two free ports.
func (h *Hub) Cable(a, b string) error {
	h.mu.Lock()
	pa, pb := h.ports[a], h.ports[b]
	if pa == nil || pb == nil || pa.wire != nil || pb.wire != nil {
		h.mu.Unlock()
		return fmt.Errorf("cable from %s to %s: one of them is not there, or taken", a, b)
	}
	w := &wire{ports: []*port{pa, pb}}
	pa.wire, pb.wire = w, w
	h.mu.Unlock()
	h.tell(pa, pb)
	return nil
}

// NewSwitch makes a switch without cables.
func (h *Hub) NewSwitch(name string, chassis net.HardwareAddr) *Switch {
	s := &Switch{Name: name, Chassis: chassis, hub: h, socket: map[*port]string{}}
	s.wire = &wire{sw: s}
	h.wg.Go(s.announce)
	return s
}

// Plug runs a cable from a port to the switch's socket of that name.
func (s *Switch) Plug(socket, name string) error {
	s.hub.mu.Lock()
	p := s.hub.ports[name]
	if p == nil || p.wire != nil || s.taken(socket) {
		s.hub.mu.Unlock()
		return fmt.Errorf("plug %s into %s %s: one of them is not there, or taken", name, s.Name, socket)
	}
	p.wire = s.wire
	s.wire.ports = append(s.wire.ports, p)
	s.socket[p] = socket
	s.hub.mu.Unlock()
	s.hub.tell(p)
	return nil
}

// taken says whether something is plugged into a socket.
func (s *Switch) taken(socket string) bool {
	return slices.ContainsFunc(s.wire.ports, func(p *port) bool { return s.socket[p] == socket })
}

// Mute has the switch say nothing by LLDP, or speak again.
func (s *Switch) Mute(on bool) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.mute = on
}

// Partition splits the switch in two: what is plugged into these sockets, and
// the rest. No carrier changes. Without sockets, the switch is whole again.
func (s *Switch) Partition(sockets ...string) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.apart = map[string]bool{}
	for _, x := range sockets {
		s.apart[x] = true
	}
}

// joins says whether frames pass between two of the switch's ports.
func (s *Switch) joins(a, b *port) bool { return s.apart[s.socket[a]] == s.apart[s.socket[b]] }

// announce sends LLDPDUs until the hub ends.
func (s *Switch) announce() {
	tick := time.NewTicker(lldpEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.hub.done:
			return
		case <-tick.C:
		}
		s.hub.mu.Lock()
		for _, p := range s.wire.ports {
			if !s.mute {
				p.deliver(s.frame(s.socket[p]))
			}
		}
		s.hub.mu.Unlock()
	}
}

// frame is the LLDPDU of a socket in its Ethernet frame (IEEE 802.1AB, 8.2).
func (s *Switch) frame(socket string) []byte {
	f := []byte{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e}
	f = append(f, s.Chassis...)
	f = append(f, 0x88, 0xcc)
	tlv := func(kind byte, value ...byte) {
		f = append(append(f, kind<<1|byte(len(value)>>8), byte(len(value))), value...)
	}
	tlv(1, append([]byte{chassisMAC}, s.Chassis...)...)
	tlv(2, append([]byte{portIfName}, socket...)...)
	tlv(3, 0, 120)
	tlv(5, []byte(s.Name)...)
	tlv(0)
	return f
}

// tell says what has become of the carriers of these ports.
func (h *Hub) tell(ports ...*port) {
	h.mu.Lock()
	fn := h.carrier
	up := make([]bool, len(ports))
	for i, p := range ports {
		up[i] = p.up()
	}
	h.mu.Unlock()
	if fn == nil {
		return
	}
	for i, p := range ports {
		fn(p.name, up[i])
	}
}

// up says whether a port has a carrier: a switch gives it, and a cable that is
// plugged in at both ends.
func (p *port) up() bool { return p.wire != nil && (p.wire.sw != nil || len(p.wire.ports) == 2) }

// Carrier says whether a port has one.
func (h *Hub) Carrier(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ports[name] != nil && h.ports[name].up()
}

// Swap exchanges the plugs in two ports; either may be empty. Swap it again to
// mend it.
func (h *Hub) Swap(a, b string) error {
	h.mu.Lock()
	pa, pb := h.ports[a], h.ports[b]
	if pa == nil || pb == nil || pa == pb {
		h.mu.Unlock()
		return fmt.Errorf("swap %s and %s: one of them is not there", a, b)
	}
	wa, wb := pa.wire, pb.wire
	replace(wa, pa, pb)
	if wb != wa {
		replace(wb, pb, pa)
	}
	pa.wire, pb.wire = wb, wa
	touched := slices.Concat(members(wa), members(wb), []*port{pa, pb})
	h.mu.Unlock()
	h.tell(touched...)
	return nil
}

// replace puts a port in another's place in a wire; within one switch both
// change their sockets.
func replace(w *wire, from, to *port) {
	if w == nil {
		return
	}
	other := slices.Index(w.ports, to)
	w.ports[slices.Index(w.ports, from)] = to
	if other >= 0 {
		w.ports[other] = from
	}
	if s := w.sw; s != nil {
		was, also := s.socket[from], s.socket[to]
		delete(s.socket, from)
		s.socket[to] = was
		if other >= 0 {
			s.socket[from] = also
		}
	}
}

func members(w *wire) []*port {
	if w == nil || w.sw != nil {
		return nil // a switch's other ports keep their carrier
	}
	return slices.Clone(w.ports)
}

// Cut takes the plug out of a port and returns what puts it back.
func (h *Hub) Cut(name string) (mend func() error, err error) {
	h.mu.Lock()
	p := h.ports[name]
	if p == nil || p.wire == nil {
		h.mu.Unlock()
		return nil, fmt.Errorf("cut %s: nothing is plugged in", name)
	}
	w, touched := p.wire, members(p.wire)
	w.ports = slices.DeleteFunc(w.ports, func(x *port) bool { return x == p })
	p.wire = nil
	h.mu.Unlock()
	h.tell(append(touched, p)...)
	return func() error {
		h.mu.Lock()
		if p.wire != nil || !w.room(p) {
			h.mu.Unlock()
			return fmt.Errorf("mend %s: something else is plugged in, here or at the other end", name)
		}
		p.wire = w
		w.ports = append(w.ports, p)
		touched := append(members(w), p)
		h.mu.Unlock()
		h.tell(touched...)
		return nil
	}, nil
}

// room says whether a port can have the end of the wire back that it had.
func (w *wire) room(p *port) bool {
	if w.sw != nil {
		return !w.sw.taken(w.sw.socket[p])
	}
	return len(w.ports) < 2
}

// Disturb has the cable in a port do this to frames, both ways, from now on.
func (h *Hub) Disturb(name string, f Faults) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ports[name] == nil {
		return fmt.Errorf("disturb %s: it is not there", name)
	}
	h.ports[name].faults = f
	return nil
}

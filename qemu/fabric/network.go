package fabric

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/landfall-project/landfall/pkg/linkcheck"
)

// Conditions are what a wire does to a datagram. The zero value delivers at
// once.
type Conditions struct {
	Loss      float64       // part that is lost, 0 to 1
	Duplicate float64       // part that arrives twice
	Delay     time.Duration // at least
	Jitter    time.Duration // at most so much more, each by itself: this reorders
}

// Packet is a datagram on its way into a device's port.
type Packet struct {
	From     netip.AddrPort
	FromPort linkcheck.End
	To       linkcheck.End
	Datagram []byte
}

// Network is the world in virtual time.
type Network struct {
	Conditions Conditions
	// Tap, if set, sees every packet before it is delivered, and returns what
	// is delivered instead: the enemy.
	Tap func(p Packet) []Packet

	start   time.Time
	now     time.Time
	rng     *rand.Rand
	queue   events
	seq     int
	devices map[string]*Device
	order   []*Device
	wires   map[linkcheck.End]*Segment
	address map[linkcheck.End]netip.AddrPort
	Sent    int // datagrams that devices have sent
}

// New makes an empty network at an arbitrary point of time: clocks mean
// nothing to the protocol.
func New(seed uint64) *Network {
	start := time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	return &Network{
		start: start, now: start,
		rng:     rand.New(rand.NewPCG(seed, 7447)),
		devices: map[string]*Device{},
		wires:   map[linkcheck.End]*Segment{},
		address: map[linkcheck.End]netip.AddrPort{},
	}
}

// Now is the time since the beginning.
func (n *Network) Now() time.Duration { return n.now.Sub(n.start) }

// Rand is the network's own source, so that faults follow the seed, too.
func (n *Network) Rand() *rand.Rand { return n.rng }

// Segment is a cable of two ends, or a switch with any number of ports.
type Segment struct {
	Switch bool
	// Silent cuts it without any port losing its carrier, as a switch or a
	// media converter does.
	Silent bool
	ends   []linkcheck.End
}

// Cable plugs a cable into two ports that must be free.
func (n *Network) Cable(a, b linkcheck.End) *Segment {
	s := &Segment{ends: []linkcheck.End{a, b}}
	n.plug(s)
	return s
}

// Connect plugs ports into a switch.
func (n *Network) Connect(ends ...linkcheck.End) *Segment {
	s := &Segment{Switch: true, ends: ends}
	n.plug(s)
	return s
}

func (n *Network) plug(s *Segment) {
	for _, e := range s.ends {
		n.wires[e] = s
	}
	n.carriers(s.ends...)
}

// Unplug takes the plug out of a port. The other end of a cable stays.
func (n *Network) Unplug(e linkcheck.End) {
	s := n.wires[e]
	if s == nil {
		return
	}
	touched := slices.Clone(s.ends)
	s.ends = slices.DeleteFunc(s.ends, func(x linkcheck.End) bool { return x == e })
	delete(n.wires, e)
	n.carriers(touched...)
}

// Swap exchanges the plugs in two ports.
func (n *Network) Swap(a, b linkcheck.End) {
	sa, sb := n.wires[a], n.wires[b]
	n.Unplug(a)
	n.Unplug(b)
	for _, p := range []struct {
		s *Segment
		e linkcheck.End
	}{{sa, b}, {sb, a}} {
		if p.s != nil {
			p.s.ends = append(p.s.ends, p.e)
			n.wires[p.e] = p.s
			n.carriers(p.s.ends...)
		}
	}
}

// Other returns the port at the other end of a port's cable.
func (n *Network) Other(e linkcheck.End) (linkcheck.End, bool) {
	if s := n.wires[e]; s != nil && !s.Switch {
		for _, x := range s.ends {
			if x != e {
				return x, true
			}
		}
	}
	return linkcheck.End{}, false
}

// Segment returns what a port is plugged into, or nil.
func (n *Network) Segment(e linkcheck.End) *Segment { return n.wires[e] }

// Peers returns the ports that hear what this one sends.
func (n *Network) Peers(e linkcheck.End) []linkcheck.End {
	s := n.wires[e]
	if s == nil || s.Silent {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.ends), func(x linkcheck.End) bool { return x == e })
}

// carrier says whether a port has one: a switch gives it, and a cable whose
// other end is in a machine with power.
func (n *Network) carrier(e linkcheck.End) bool {
	s := n.wires[e]
	if s == nil || s.Switch {
		return s != nil
	}
	other, ok := n.Other(e)
	d := n.devices[other.Device]
	return ok && d != nil && d.On
}

// carriers tells the devices of these ports what has become of their carriers.
func (n *Network) carriers(ends ...linkcheck.End) {
	for _, e := range ends {
		if d := n.devices[e.Device]; d != nil {
			d.carrier(e.Interface)
		}
	}
}

// send puts a datagram on the wire.
func (n *Network) send(from linkcheck.End, s linkcheck.Send) {
	n.Sent++
	source := n.address[from]
	for _, to := range n.Peers(from) {
		if s.To.IsValid() && s.To != n.address[to] {
			continue
		}
		p := Packet{From: source, FromPort: from, To: to, Datagram: s.Datagram}
		n.transmit(p)
	}
}

// transmit delivers a packet as the conditions are, if the cable is still in
// place by then.
func (n *Network) transmit(p Packet) {
	c := n.Conditions
	copies := 1
	if n.rng.Float64() < c.Loss {
		copies = 0
	} else if n.rng.Float64() < c.Duplicate {
		copies = 2
	}
	for range copies {
		delay := c.Delay
		if c.Jitter > 0 {
			delay += time.Duration(n.rng.Int64N(int64(c.Jitter)))
		}
		n.After(delay, func() {
			if !slices.Contains(n.Peers(p.FromPort), p.To) {
				return
			}
			deliver := []Packet{p}
			if n.Tap != nil {
				deliver = n.Tap(p)
			}
			for _, x := range deliver {
				n.Inject(x)
			}
		})
	}
}

// Inject hands a packet to a port at once, wherever it came from.
func (n *Network) Inject(p Packet) {
	if d := n.devices[p.To.Device]; d != nil && d.On {
		d.receive(p.To.Interface, p.From, p.Datagram)
	}
}

// Address is the link-local address of a port.
func (n *Network) Address(e linkcheck.End) netip.AddrPort { return n.address[e] }

// After plans something.
func (n *Network) After(d time.Duration, what func()) {
	n.seq++
	heap.Push(&n.queue, event{at: n.now.Add(d), seq: n.seq, what: what})
}

// Run lets time pass until done says so or until that long has passed since
// the beginning, and returns what done said last. A nil done never does.
func (n *Network) Run(until time.Duration, done func() bool) bool {
	end := n.start.Add(until)
	for {
		if done != nil && done() {
			return true
		}
		if len(n.queue) == 0 || n.queue[0].at.After(end) {
			n.now = end
			return false
		}
		e := heap.Pop(&n.queue).(event)
		n.now = e.at
		e.what()
	}
}

// event is something planned; of two at one time the one planned first comes
// first.
type event struct {
	at   time.Time
	seq  int
	what func()
}

type events []event

func (e events) Len() int      { return len(e) }
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].seq < e[j].seq
}
func (e *events) Push(x any) { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

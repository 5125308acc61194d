package linknet

import (
	"context"
	"crypto/rand"
	"net"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/netconf"
)

// Config says what to check and where.
type Config struct {
	// Config is the machine's: linkcheck.FromSlice and a Session, which stays
	// the caller's to wipe, after Close. Rand is crypto/rand's if nil.
	linkcheck.Config
	// MACs finds the slice's ports, by their names there.
	MACs map[string]net.HardwareAddr
	// Raise sets ports up as they appear, for link-local use at once
	// (netconf.Up). Without it they are taken as they are: production's network
	// is production's.
	Raise bool
	// LLDP receives what switches say, and sends our own LLDPDUs.
	LLDP bool
	// Text follows "landfall " in our LLDPDU, such as "pending LF-LINK-03":
	// printable ASCII. It is asked each second, and must not wait. Nil: only
	// the state.
	Text func() string
	// Logf takes a line about a port that cannot be used, if set.
	Logf func(format string, args ...any)
	// Recover is deferred in each goroutine, if set: a handler of panics.
	Recover func()
}

// Port is one of the slice's ports and what this machine has of it.
type Port struct {
	Name    string // in the slice
	Kernel  string // in the kernel; "" if no port has the MAC address
	Carrier bool
	// Usable says that its links can be asked: it has a carrier and, for those
	// that are not routed, a link-local address.
	Usable bool
}

// Counters counts datagrams and LLDPDUs.
type Counters struct {
	linkcheck.Counters
	Distant     uint64 // dropped: through a router (hop limit below 255), or from a stranger's routed address
	Unsent      uint64 // not taken by the kernel: no route, no buffer, no address
	LLDPHeard   uint64
	LLDPRefused uint64 // frames that were no sane LLDPDU
	LLDPSent    uint64
}

// Net is a running check. All its methods are safe for concurrent use, and
// after Close tell what was known at the end.
type Net struct {
	cfg     Config
	changed chan struct{}
	cancel  context.CancelFunc
	tasks   sync.WaitGroup

	// One at a time has the machine: whoever holds mu.
	mu      sync.Mutex
	machine *linkcheck.Machine
	state   linkcheck.State
	ports   []*port
	wake    *time.Timer // calls tick
	count   Counters    // without the machine's
	closed  bool
}

// Start begins to answer and to ask on all ports, until ctx ends or Close.
// Errors are those of linkcheck.New, or that the kernel tells nothing about ports.
func Start(ctx context.Context, cfg Config) (*Net, error) {
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.State == 0 {
		cfg.State = linkcheck.Pending
	}
	if cfg.Recover == nil {
		cfg.Recover = func() {}
	}
	m, err := linkcheck.New(time.Now(), cfg.Config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	events, err := netconf.Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	n := &Net{cfg: cfg, machine: m, state: cfg.State, cancel: cancel, changed: make(chan struct{}, 1)}
	for _, p := range cfg.Ports {
		n.ports = append(n.ports, newPort(&cfg, p.Name))
	}
	n.wake = time.AfterFunc(time.Hour, func() { // step knows better when
		defer n.cfg.Recover() // itself, or recover would see nothing
		n.tick()
	})
	n.run(func() { n.watch(ctx, events) })
	return n, nil
}

// run starts a goroutine that Close waits for.
func (n *Net) run(f func()) {
	n.tasks.Go(func() {
		defer n.cfg.Recover() // itself, or recover would see nothing
		f()
	})
}

func (n *Net) logf(format string, args ...any) {
	if n.cfg.Logf != nil {
		n.cfg.Logf(format, args...)
	}
}

// step has the machine do something and carries out what it says. The caller
// holds mu, and the times that the machine sees never go back.
func (n *Net) step(do func(m *linkcheck.Machine, now time.Time) linkcheck.Output) {
	if n.closed {
		return
	}
	out := do(n.machine, time.Now())
	for _, s := range out.Send {
		if p := n.port(s.Interface); p == nil || p.send(s) != nil {
			n.count.Unsent++ // the machine asks again by itself
		}
	}
	if len(out.Changed) > 0 {
		n.signal()
	}
	if !out.Wake.IsZero() {
		n.wake.Reset(time.Until(out.Wake))
	}
}

func (n *Net) tick() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.step((*linkcheck.Machine).Tick)
}

func (n *Net) port(name string) *port {
	for _, p := range n.ports {
		if p.name == name {
			return p
		}
	}
	return nil
}

func (n *Net) signal() {
	if n.closed {
		return
	}
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// Links returns all links, in the order of the slice.
func (n *Net) Links() []linkcheck.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := n.machine.Links()
	for i := range all {
		if p := n.port(all[i].Interface); p != nil {
			all[i].Carrier = p.carrier
		}
	}
	return all
}

// Summary counts links.
func (n *Net) Summary() linkcheck.Summary {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.machine.Summary()
}

// Ports returns all ports, in the order of the slice.
func (n *Net) Ports() []Port {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []Port
	for _, p := range n.ports {
		all = append(all, Port{Name: p.name, Kernel: p.link.Name, Carrier: p.carrier, Usable: p.usable})
	}
	return all
}

// SetState says whether this device's own links have passed (OK), or not.
func (n *Net) SetState(s linkcheck.State) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state = s
	n.step(func(m *linkcheck.Machine, now time.Time) linkcheck.Output { return m.SetState(now, s) })
}

// State is what neighbors are told.
func (n *Net) State() linkcheck.State {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state
}

// Done says whether this device may stop answering (linkcheck.Machine.Done).
func (n *Net) Done() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.machine.Done(time.Now())
}

// Counters returns the counts so far.
func (n *Net) Counters() Counters {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.count
	c.Counters = n.machine.Counters()
	for _, p := range n.ports {
		if p.lldp != nil {
			c.LLDPRefused += p.lldp.Refused()
		}
	}
	return c
}

// Changed has a value whenever a verdict, a carrier or a switch's word has
// changed since the last one was taken. It is closed after Close, or the end of
// Start's context.
func (n *Net) Changed() <-chan struct{} { return n.changed }

// Close takes our LLDPDUs back, and stops. It returns once all sockets are
// closed; it may be repeated.
func (n *Net) Close() error {
	n.cancel()
	n.tasks.Wait()
	return nil
}

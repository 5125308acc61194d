package linknet

import (
	"context"
	"crypto/rand"
	"net"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/linkcheck"
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
	// Usable says that it has a link-local address; what keeps it from one is
	// in the log.
	Usable bool
}

// Counters counts datagrams and LLDPDUs.
type Counters struct {
	linkcheck.Counters
	Distant     uint64 // dropped: through a router (hop limit below 255), or from a stranger's routed address
	Unsent      uint64 // the kernel took them not: no route, no buffer, no address
	LLDPHeard   uint64
	LLDPRefused uint64 // frames that were no sane LLDPDU
	LLDPSent    uint64
}

// Net is a running check. All its methods are safe for concurrent use, and
// after Close give what was known at the end.
type Net struct {
	cfg     Config
	changed chan struct{}

	mu      sync.Mutex
	machine *linkcheck.Machine
	state   linkcheck.State
}

// Start begins to answer and to ask on all ports, until ctx ends or Close.
// Errors are linkcheck.ErrConfig, or that the kernel tells nothing about ports.
func Start(ctx context.Context, cfg Config) (*Net, error) {
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	m, err := linkcheck.New(time.Now(), cfg.Config)
	if err != nil {
		return nil, err
	}
	return &Net{cfg: cfg, machine: m, changed: make(chan struct{}, 1), state: linkcheck.Pending}, nil
}

// Links returns all links, in the order of the slice.
func (n *Net) Links() []linkcheck.Status { return n.machine.Links() }

// Summary counts links.
func (n *Net) Summary() linkcheck.Summary { return n.machine.Summary() }

// Ports returns all ports, in the order of the slice.
func (n *Net) Ports() []Port { return nil }

// SetState says whether this device's own links have passed.
func (n *Net) SetState(s linkcheck.State) {}

// State is what neighbors are told.
func (n *Net) State() linkcheck.State { return n.state }

// Done says whether this device may stop answering (linkcheck.Machine.Done).
func (n *Net) Done() bool { return n.machine.Done(time.Now()) }

// Counters returns the counts so far.
func (n *Net) Counters() Counters { return Counters{} }

// Changed has a value whenever a verdict, a carrier or a switch's word has
// changed since the last one was taken.
func (n *Net) Changed() <-chan struct{} { return n.changed }

// Close tells the switches that this announcement ends, and stops. It waits
// until all sockets are closed.
func (n *Net) Close() error { return nil }

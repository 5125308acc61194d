package netconf

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Callers tell these apart: another card, another cable, another switch port, another server.
var (
	ErrGone      = errors.New("the port is no longer there")
	ErrNoCarrier = errors.New("no carrier: cable out or switch port off")
	errNoLease   = errors.New("no DHCP server answered")
)

// Lease is what a DHCP server gave to a port.
type Lease struct {
	Link     Link
	Address  netip.Prefix
	Router   netip.Addr    // may be zero
	Server   netip.Addr    // who gave it
	Duration time.Duration // from Got
	Got      time.Time     // monotonic; the wall clock may be wrong by years
	// Others are further addresses of a port that has them of nobody.
	Others []netip.Prefix
	// Routes are those of a quarantine lease; other leases have none.
	Routes []Route
}

// Route leads to one host.
type Route struct {
	To netip.Addr
	By netip.Addr // zero: on the link
}

// Expired says whether the lease's time has run out.
func (l *Lease) Expired() bool { return time.Since(l.Got) >= l.Duration }

// WrongLeaseError names a server that answers, but not with the expected lease:
// it offers another one, refuses what it offered, or says what cannot be taken.
// The repair: check the cable, or find that server.
type WrongLeaseError struct {
	Link   string
	Server netip.Addr
	Does   string // "offers 10.0.0.9/24 instead of 10.0.0.8/24"
}

func (e *WrongLeaseError) Error() string {
	return fmt.Sprintf("DHCP server %s %s on %s", e.Server, e.Does, e.Link)
}

// Retransmission (RFC 2131, 4.1; RFC 8415, 15) starts at once and at a fraction
// of the RFC's four seconds, because a rack waits; it ends at the RFC's order,
// because 4,000 machines wait. A round that somebody answered and that failed
// all the same would fail again as fast as the network is: between two of them
// there is a rest.
const (
	firstRetry = 700 * time.Millisecond
	lastRetry  = 8 * time.Second
	firstRest  = 8 * time.Second
	lastRest   = 32 * time.Second
	// requestTries is how often a server is asked for what it has offered: for
	// some 10 s in all.
	requestTries = 4
	// graceWrong is how long a better offer may take after a wrong one.
	graceWrong = 1500 * time.Millisecond
)

// Config says which lease is acceptable.
type Config struct {
	Want Want
	// Warn takes a wrong lease when no right one comes (slice policy "warn").
	Warn bool
	// Wrong, if set, is told of each wrong answer, also when a right one wins.
	Wrong func(*WrongLeaseError)
}

// DHCP gets a lease for a port that is up. It sends until ctx ends; then the
// error says that no DHCP server answered, or is a *WrongLeaseError if somebody answered
// otherwise. Of several servers the one with the expected lease wins, in
// whatever order they answer.
func DHCP(ctx context.Context, link Link, cfg Config) (*Lease, error) {
	return dhcp4(ctx, &client{link: link, cfg: cfg})
}

func dhcp4(ctx context.Context, c *client) (*Lease, error) {
	socket, err := listenFrames(c.link, unix.ETH_P_IP)
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	stop := context.AfterFunc(ctx, func() { _ = socket.SetReadDeadline(time.Now()) })
	defer stop()
	c4 := &client4{client: c, socket: socket, began: time.Now(), broken: map[netip.Addr]bool{}}
	return c.rounds(ctx, c4.round)
}

// client is what the clients of both protocols know.
type client struct {
	link  Link
	cfg   Config
	wrong *WrongLeaseError // the last one
	named map[WrongLeaseError]bool
	// quarantine wants a quarantine lease, and nothing of cfg.
	quarantine bool
}

// rounds tries until there is a lease, an error, or ctx ends. A round that
// returns neither has failed.
func (c *client) rounds(ctx context.Context, round func(context.Context) (*Lease, error)) (*Lease, error) {
	for rest := firstRest; ; rest = min(2*rest, lastRest) {
		lease, err := round(ctx)
		if err != nil || lease != nil {
			return lease, err
		}
		select {
		case <-ctx.Done():
			return nil, c.failure(ctx)
		case <-time.After(jitter(rest)):
		}
	}
}

func (c *client) failure(ctx context.Context) error {
	if c.wrong != nil {
		return c.wrong
	}
	return fmt.Errorf("%s: %w: %w", c.link.Name, errNoLease, ctx.Err())
}

// differs tells how an offer is not the one wanted; "" when it is.
func (c *client) differs(a *answer) string {
	if c.quarantine {
		return notQuarantine(a)
	}
	return c.cfg.Want.Match(&a.lease)
}

// note keeps what a server does wrong, and tells of it once.
func (c *client) note(server netip.Addr, does string) {
	w := WrongLeaseError{Link: c.link.Name, Server: server, Does: does}
	c.wrong = &w
	if c.cfg.Wrong != nil && !c.named[w] && len(c.named) < 16 {
		if c.named == nil {
			c.named = make(map[WrongLeaseError]bool)
		}
		c.named[w] = true
		c.cfg.Wrong(&w)
	}
}

func (c *client) take(a *answer) *Lease {
	l := a.lease
	l.Link, l.Got = c.link, time.Now()
	if c.quarantine {
		// The routes replace the router (RFC 3442, "DHCP Client Behavior").
		l.Router, l.Routes, l.Duration = netip.Addr{}, a.routes, min(max(a.time, minQuarantine), maxQuarantine)
	}
	return &l
}

// jitter spreads a wait over 75 % to 125 %, so that machines that were switched
// on together do not stay together.
func jitter(d time.Duration) time.Duration {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(d)/2))
	if err != nil {
		return d
	}
	return d*3/4 + time.Duration(n.Int64())
}

package netconf

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// Callers tell these apart: another cable, another switch port, another server.
var (
	ErrNoCarrier = errors.New("no carrier: cable out or switch port off")
	ErrNoLease   = errors.New("no DHCP server answered")
)

// Lease is what a DHCP server gave to a port.
type Lease struct {
	Link     Link
	Address  netip.Prefix
	Router   netip.Addr    // may be zero
	Server   netip.Addr    // who gave it
	Duration time.Duration // from Got
	Got      time.Time     // monotonic; the wall clock may be wrong by years
	// Routes are those of a quarantine lease; other leases have none.
	Routes []Route
}

// Route leads to one host.
type Route struct {
	To netip.Addr
	By netip.Addr // zero: on the link
}

// Expired says whether the lease's time has run out.
func (l *Lease) Expired() bool { return time.Since(l.Got) > l.Duration }

// WrongLeaseError names the server whose offer is not the expected lease. The
// repair: check the cable, or find that server.
type WrongLeaseError struct {
	Link       string
	Server     netip.Addr
	Difference string
}

func (e *WrongLeaseError) Error() string {
	return fmt.Sprintf("DHCP server %s offers %s on %s", e.Server, e.Difference, e.Link)
}

// Retransmission (RFC 2131, 4.1) starts at once and at a fraction of the RFC's
// four seconds, because a rack waits; it ends at the RFC's order, because
// 4,000 machines wait.
const (
	firstRetry = 700 * time.Millisecond
	lastRetry  = 8 * time.Second
	// graceWrong is how long a better offer may take after a wrong one.
	graceWrong = 1500 * time.Millisecond
)

// Config says which lease is acceptable.
type Config struct {
	Want Want
	// Warn takes a wrong lease when no right one comes (slice policy "warn").
	Warn bool
	// Wrong, if set, is told of each wrong offer, also when a right one wins.
	Wrong func(*WrongLeaseError)
}

// DHCP gets a lease for a port that is up. It sends until ctx ends; then the
// error wraps ErrNoLease, or is a *WrongLeaseError if somebody made another
// offer. Of several servers the one with the expected lease wins, in whatever
// order they answer.
func DHCP(ctx context.Context, link Link, cfg Config) (*Lease, error) {
	return (&client{link: link, cfg: cfg}).run(ctx)
}

type client struct {
	conn  *packet.Conn
	link  Link
	cfg   Config
	wrong *WrongLeaseError // the last one
	named map[WrongLeaseError]bool
	buf   [maxFrame]byte
	// quarantine wants a quarantine lease, and nothing of cfg.
	quarantine bool
}

func (c *client) run(ctx context.Context) (*Lease, error) {
	conn, err := packet.Listen(&net.Interface{Index: c.link.Index, Name: c.link.Name, HardwareAddr: c.link.MAC},
		packet.Datagram, unix.ETH_P_IP, nil)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket on %s: %w", c.link.Name, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })
	defer stop()
	c.conn = conn
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		lease, err := c.attempt(ctx, jitter(wait))
		if err != nil {
			return nil, err
		}
		if lease != nil {
			return lease, nil
		}
		if ctx.Err() != nil {
			return nil, c.failure(ctx)
		}
	}
}

func (c *client) failure(ctx context.Context) error {
	if c.wrong != nil {
		return c.wrong
	}
	return fmt.Errorf("%s: %w: %w", c.link.Name, ErrNoLease, ctx.Err())
}

// attempt is one exchange; nil, nil asks for another one.
func (c *client) attempt(ctx context.Context, patience time.Duration) (*Lease, error) {
	discover, err := c.discover()
	if err != nil {
		return nil, err
	}
	if err := c.send(discover); err != nil {
		return nil, err
	}
	offer, err := c.collect(ctx, discover.TransactionID, patience)
	if err != nil || offer == nil {
		return nil, err
	}
	if offer.kind == dhcpv4.MessageTypeAck { // rapid commit, RFC 4039
		return c.take(offer), nil
	}
	request, err := c.request(discover, offer)
	if err != nil {
		return nil, err
	}
	if err := c.send(request); err != nil {
		return nil, err
	}
	return c.acknowledged(ctx, discover.TransactionID, offer, patience)
}

// collect waits for the expected offer. In "warn" mode it settles for a wrong
// one after a grace time.
func (c *client) collect(ctx context.Context, xid dhcpv4.TransactionID, patience time.Duration) (*answer, error) {
	end := time.Now().Add(patience)
	var fallback *answer
	for {
		a, err := c.receive(ctx, xid, end)
		if err != nil {
			return nil, err
		}
		if a == nil {
			return fallback, nil
		}
		if a.kind == dhcpv4.MessageTypeNak {
			continue
		}
		diff := c.differs(a)
		if diff == "" {
			return a, nil
		}
		c.note(a, diff)
		if c.cfg.Warn && fallback == nil {
			fallback = a
		}
		if grace := time.Now().Add(graceWrong); grace.Before(end) {
			end = grace
		}
	}
}

// differs tells how an offer is not the one wanted; "" when it is.
func (c *client) differs(a *answer) string {
	if c.quarantine {
		return notQuarantine(a)
	}
	return c.cfg.Want.Match(&a.lease)
}

func (c *client) note(a *answer, diff string) {
	w := WrongLeaseError{Link: c.link.Name, Server: a.server, Difference: diff}
	c.wrong = &w
	if c.cfg.Wrong != nil && !c.named[w] && len(c.named) < 16 {
		if c.named == nil {
			c.named = make(map[WrongLeaseError]bool)
		}
		c.named[w] = true
		c.cfg.Wrong(&w)
	}
}

// acknowledged waits for the server's word on the request.
func (c *client) acknowledged(ctx context.Context, xid dhcpv4.TransactionID, offer *answer, patience time.Duration) (*Lease, error) {
	end := time.Now().Add(patience)
	for {
		a, err := c.receive(ctx, xid, end)
		if err != nil || a == nil {
			return nil, err
		}
		switch {
		case a.server != offer.server:
		case a.kind == dhcpv4.MessageTypeNak:
			return nil, nil
		case a.kind == dhcpv4.MessageTypeAck:
			// A server that offers one thing and grants another is wrong too.
			if a.lease.Address != offer.lease.Address || a.lease.Router != offer.lease.Router || c.quarantine && notQuarantine(a) != "" {
				c.note(a, fmt.Sprintf("%s after it offered %s", a.lease.Address, offer.lease.Address))
				return nil, nil
			}
			return c.take(a), nil
		}
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

// receive returns the next answer to xid; nil when end or ctx came first.
func (c *client) receive(ctx context.Context, xid dhcpv4.TransactionID, end time.Time) (*answer, error) {
	if err := c.conn.SetReadDeadline(end); err != nil {
		return nil, fmt.Errorf("set a deadline on %s: %w", c.link.Name, err)
	}
	for ctx.Err() == nil {
		n, _, err := c.conn.ReadFrom(c.buf[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil
		}
		if errors.Is(err, unix.ENETDOWN) { // the port went down: as good as silence
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("receive on %s: %w", c.link.Name, err)
		}
		if a, err := parseAnswer(c.buf[:n], c.link.MAC, xid); err == nil {
			return a, nil
		}
	}
	return nil, nil
}

func (c *client) send(m *dhcpv4.DHCPv4) error {
	to := &packet.Addr{HardwareAddr: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	_, err := c.conn.WriteTo(Datagram4(nowhere(), everybody(), m.ToBytes()), to)
	if err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENOBUFS) {
		return fmt.Errorf("send on %s: %w", c.link.Name, err)
	}
	return nil
}

// discover asks for the expected address at once (option 50), by broadcast
// because no address can be answered yet.
func (c *client) discover() (*dhcpv4.DHCPv4, error) {
	mods := []dhcpv4.Modifier{
		dhcpv4.WithHwAddr(c.link.MAC),
		dhcpv4.WithBroadcast(true),
		dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover),
		c.options(),
	}
	if !c.quarantine {
		mods = append(mods, dhcpv4.WithGeneric(dhcpv4.OptionRapidCommit, nil))
	}
	if w := c.cfg.Want.Address; w.IsValid() {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(w.Addr().AsSlice())))
	}
	m, err := dhcpv4.New(mods...)
	if err != nil {
		return nil, fmt.Errorf("make a DHCP message: %w", err)
	}
	return m, nil
}

// options are those that the client looks at (RFC 2132, 9.8).
func (c *client) options() dhcpv4.Modifier {
	if c.quarantine {
		return dhcpv4.WithRequestedOptions(dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionSubnetMask)
	}
	return dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter)
}

func (c *client) request(discover *dhcpv4.DHCPv4, offer *answer) (*dhcpv4.DHCPv4, error) {
	m, err := dhcpv4.New(
		dhcpv4.WithTransactionID(discover.TransactionID),
		dhcpv4.WithHwAddr(c.link.MAC),
		dhcpv4.WithBroadcast(true),
		dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
		c.options(),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.server.AsSlice())),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.lease.Address.Addr().AsSlice())),
	)
	if err != nil {
		return nil, fmt.Errorf("make a DHCP message: %w", err)
	}
	return m, nil
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

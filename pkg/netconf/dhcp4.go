package netconf

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// client4 is the DHCPv4 client of one port.
type client4 struct {
	*client
	socket *frames
	began  time.Time // of the acquisition: what "secs" counts from
	broken map[netip.Addr]bool
	buf    [maxFrame]byte
}

// round is one transaction: one xid from the first DISCOVER to the last answer,
// so that a server that takes its time is heard whichever try it answers. nil,
// nil asks for another round.
func (c *client4) round(ctx context.Context) (*Lease, error) {
	discover, err := c.discover()
	if err != nil {
		return nil, err
	}
	offer, err := c.offered(ctx, discover)
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
	wait := firstRetry
	for range requestTries {
		if err := c.send(request); err != nil {
			return nil, err
		}
		lease, over, err := c.acknowledged(ctx, request.TransactionID, offer, jitter(wait))
		if err != nil || lease != nil {
			return lease, err
		}
		if over || ctx.Err() != nil {
			break
		}
		wait *= 2
	}
	// Whoever goes back on an offer is not the first choice again: another
	// server may be the one that keeps its word.
	c.broken[offer.server] = true
	return nil, nil
}

// offered sends a DISCOVER until somebody's offer can be taken; nil: ctx came
// first.
func (c *client4) offered(ctx context.Context, discover *dhcpv4.DHCPv4) (*answer, error) {
	for wait := firstRetry; ctx.Err() == nil; wait = min(2*wait, lastRetry) {
		discover.NumSeconds = c.seconds()
		if err := c.send(discover); err != nil {
			return nil, err
		}
		if offer, err := c.collect(ctx, discover.TransactionID, jitter(wait)); err != nil || offer != nil {
			return offer, err
		}
	}
	return nil, nil
}

// seconds is how long this client has been asking (RFC 2131, 2): some servers
// and relays leave the first seconds to others.
func (c *client4) seconds() uint16 {
	return uint16(min(time.Since(c.began)/time.Second, math.MaxUint16))
}

// collect waits for the expected offer. It settles for one of a server that
// broke its word before, and in "warn" mode for a wrong one, after a grace time.
func (c *client4) collect(ctx context.Context, xid dhcpv4.TransactionID, patience time.Duration) (*answer, error) {
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
		if diff == "" && !c.broken[a.server] {
			return a, nil
		}
		if diff != "" {
			c.note(a.server, "offers "+diff)
		}
		if (diff == "" || c.cfg.Warn) && fallback == nil {
			fallback = a
		}
		if grace := time.Now().Add(graceWrong); fallback != nil && grace.Before(end) {
			end = grace
		}
	}
}

// acknowledged waits for the server's word on the request; over says that it
// was no.
func (c *client4) acknowledged(ctx context.Context, xid dhcpv4.TransactionID, offer *answer, patience time.Duration) (lease *Lease, over bool, err error) {
	end := time.Now().Add(patience)
	for {
		a, err := c.receive(ctx, xid, end)
		if err != nil || a == nil {
			return nil, false, err
		}
		switch {
		case a.server != offer.server:
		case a.kind == dhcpv4.MessageTypeNak:
			c.note(a.server, fmt.Sprintf("offers %s and then refuses it (NAK%s)", offer.lease.Address.Addr(), said(a.text)))
			return nil, true, nil
		case a.kind == dhcpv4.MessageTypeAck:
			// A server that offers one thing and grants another is wrong too.
			if a.lease.Address != offer.lease.Address || a.lease.Router != offer.lease.Router || c.quarantine && notQuarantine(a) != "" {
				c.note(a.server, fmt.Sprintf("grants %s after it offered %s", described(&a.lease), described(&offer.lease)))
				return nil, true, nil
			}
			return c.take(a), false, nil
		}
	}
}

func described(l *Lease) string {
	if l.Router.IsValid() {
		return fmt.Sprintf("%s by %s", l.Address, l.Router)
	}
	return l.Address.String()
}

// maxSaid bounds a server's own words, which anybody may have written.
const maxSaid = 80

func said(text []byte) string {
	if len(text) == 0 {
		return ""
	}
	return fmt.Sprintf(": %+q", text[:min(len(text), maxSaid)])
}

// receive returns the next answer to xid; nil when end or ctx came first. What
// cannot be taken is noted.
func (c *client4) receive(ctx context.Context, xid dhcpv4.TransactionID, end time.Time) (*answer, error) {
	if err := c.socket.SetReadDeadline(end); err != nil {
		return nil, fmt.Errorf("set a deadline on %s: %w", c.link.Name, err)
	}
	for ctx.Err() == nil {
		n, summed, err := c.socket.receive(c.buf[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil
		}
		if errors.Is(err, unix.ENETDOWN) { // the port went down: as good as silence
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("receive on %s: %w", c.link.Name, err)
		}
		a, err := parseAnswer(c.buf[:n], summed, question{c.link.MAC, xid, c.cfg.Want.Address})
		var bad *unusable
		if errors.As(err, &bad) {
			c.note(bad.server, bad.does)
		}
		if err == nil {
			return a, nil
		}
	}
	return nil, nil
}

func (c *client4) send(m *dhcpv4.DHCPv4) error {
	to := &packet.Addr{HardwareAddr: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	_, err := c.socket.WriteTo(Datagram4(nowhere(), everybody(), m.ToBytes()), to)
	if err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENOBUFS) {
		return fmt.Errorf("send on %s: %w", c.link.Name, err)
	}
	return nil
}

// discover asks for the expected address at once (option 50), by broadcast
// because no address can be answered yet.
func (c *client4) discover() (*dhcpv4.DHCPv4, error) {
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
func (c *client4) options() dhcpv4.Modifier {
	if c.quarantine {
		return dhcpv4.WithRequestedOptions(dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionSubnetMask)
	}
	return dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter)
}

// request takes an offer. "secs" stays what the DISCOVER said (RFC 2131, 4.4.1).
func (c *client4) request(discover *dhcpv4.DHCPv4, offer *answer) (*dhcpv4.DHCPv4, error) {
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
	m.NumSeconds = discover.NumSeconds
	return m, nil
}

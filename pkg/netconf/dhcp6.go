package netconf

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lookForLinkLocal is how often a port is looked at that has no link-local
// address yet.
const lookForLinkLocal = 50 * time.Millisecond

// DHCP6 is DHCP over IPv6 (RFC 8415), for a port that is up and has an IPv6
// address only. DHCPv6 tells neither prefix length nor router: both are taken
// from cfg.Want, whose address must be valid. Errors are those of DHCP;
// Lease.Server is the server's link-local address.
func DHCP6(ctx context.Context, link Link, cfg Config) (*Lease, error) {
	if !cfg.Want.Address.Addr().Is6() {
		return nil, fmt.Errorf("%s: DHCPv6 needs the IPv6 address that the port should get", link.Name)
	}
	if err := waitLinkLocal(ctx, link); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var set error
		err := raw.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, link.Index)
		})
		return errors.Join(err, set)
	}}
	at := netip.AddrPortFrom(netip.IPv6Unspecified(), dhcpv6.DefaultClientPort)
	conn, err := lc.ListenPacket(ctx, "udp6", at.String())
	if err != nil {
		return nil, fmt.Errorf("open UDP port %d on %s: %w", dhcpv6.DefaultClientPort, link.Name, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })
	defer stop()
	c := &client6{client: &client{link: link, cfg: cfg}, udp: conn}
	return c.rounds(ctx, c.round)
}

// waitLinkLocal returns when the port has an address to send from.
func waitLinkLocal(ctx context.Context, link Link) error {
	tick := time.NewTicker(lookForLinkLocal)
	defer tick.Stop()
	for {
		if ok, err := hasLinkLocal(link); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: no link-local address to ask from: %w", link.Name, errNoLease, ctx.Err())
		case <-tick.C:
		}
	}
}

// hasLinkLocal says whether a port has a link-local address that can be used
// now.
func hasLinkLocal(l Link) (bool, error) {
	addrs, err := netlink.AddrList(handleOf(l), unix.AF_INET6)
	if err != nil {
		return false, fmt.Errorf("list addresses of %s: %w", l.Name, err)
	}
	return slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
		return a.IP.IsLinkLocalUnicast() && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0
	}), nil
}

// client6 is the DHCPv6 client of one port.
type client6 struct {
	*client
	udp net.PacketConn
	buf [maxFrame]byte
}

// answer6 is a server's message, reduced to what is used of it.
type answer6 struct {
	kind  dhcpv6.MessageType // ADVERTISE or REPLY
	duid  dhcpv6.DUID        // the server's
	lease Lease
}

// round is two exchanges (RFC 8415, 18.2), each with one transaction ID; nil,
// nil asks for another round.
func (c *client6) round(ctx context.Context) (*Lease, error) {
	solicit, err := c.message(dhcpv6.MessageTypeSolicit, &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
	if err != nil {
		return nil, err
	}
	a, err := c.exchange(ctx, solicit, math.MaxInt)
	if err != nil || a == nil {
		return nil, err
	}
	if a.kind == dhcpv6.MessageTypeReply {
		return c.take(&answer{lease: a.lease}), nil
	}
	request, err := c.message(dhcpv6.MessageTypeRequest, dhcpv6.OptServerID(a.duid))
	if err != nil {
		return nil, err
	}
	if a, err = c.exchange(ctx, request, requestTries); err != nil || a == nil {
		return nil, err
	}
	return c.take(&answer{lease: a.lease}), nil
}

// message asks for the expected address at once, as a hint.
func (c *client6) message(kind dhcpv6.MessageType, more ...dhcpv6.Option) (*dhcpv6.Message, error) {
	m, err := dhcpv6.NewMessage(
		dhcpv6.WithClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: c.link.MAC}),
		// One identity a port, of its MAC address (RFC 8415, 12).
		dhcpv6.WithIAID([4]byte(c.link.MAC[len(c.link.MAC)-4:])),
		dhcpv6.WithIANA(dhcpv6.OptIAAddress{IPv6Addr: c.cfg.Want.Address.Addr().AsSlice()}),
	)
	if err != nil {
		return nil, fmt.Errorf("make a DHCPv6 message: %w", err)
	}
	m.MessageType = kind
	for _, o := range more {
		m.AddOption(o)
	}
	return m, nil
}

// maxElapsed is all that fits into option 8 (RFC 8415, 21.9).
const maxElapsed = math.MaxUint16 * 10 * time.Millisecond

// exchange sends a message, at most so many times, until there is an answer to
// take; nil: there is none.
func (c *client6) exchange(ctx context.Context, m *dhcpv6.Message, tries int) (*answer6, error) {
	began, wait := time.Now(), firstRetry
	for try := 0; try < tries && ctx.Err() == nil; try++ {
		elapsed := min(time.Since(began), maxElapsed)
		if try == 0 {
			elapsed = 0
		}
		m.UpdateOption(dhcpv6.OptElapsedTime(elapsed))
		if err := c.send(m); err != nil {
			return nil, err
		}
		a, over, err := c.collect(ctx, m, jitter(wait))
		if err != nil || a != nil || over {
			return a, err
		}
		wait = min(2*wait, lastRetry)
	}
	return nil, nil
}

func (c *client6) send(m *dhcpv6.Message) error {
	// No zone: the socket's port is it. Package net would take the index that a
	// port of this name had up to a minute ago.
	to := &net.UDPAddr{IP: dhcpv6.AllDHCPRelayAgentsAndServers, Port: dhcpv6.DefaultServerPort}
	if _, err := c.udp.WriteTo(m.ToBytes(), to); err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENOBUFS) &&
		!errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("send on %s: %w", c.link.Name, err)
	}
	return nil
}

// collect waits for the expected answer; in "warn" mode it settles for a wrong
// one, at once if the server was asked for it, else after a grace time. over
// says that the server that was asked has no better one.
func (c *client6) collect(ctx context.Context, m *dhcpv6.Message, patience time.Duration) (a *answer6, over bool, err error) {
	end := time.Now().Add(patience)
	asked := m.Options.ServerID() != nil
	var fallback *answer6
	for {
		a, bad, err := c.receive(ctx, m, end)
		if err != nil {
			return nil, false, err
		}
		if a == nil && bad == nil {
			return fallback, false, nil
		}
		if bad == nil {
			diff := c.cfg.Want.Match(&a.lease)
			if diff == "" {
				return a, false, nil
			}
			bad = &unusable{a.lease.Server, "offers " + diff}
		}
		c.note(bad.server, bad.does)
		switch {
		case asked && a != nil && c.cfg.Warn:
			return a, false, nil
		case asked:
			return nil, true, nil
		case c.cfg.Warn && fallback == nil:
			fallback = a
		}
		if grace := time.Now().Add(graceWrong); fallback != nil && grace.Before(end) {
			end = grace
		}
	}
}

// receive returns the next answer to m, or why it cannot be taken; neither when
// end or ctx came first.
func (c *client6) receive(ctx context.Context, m *dhcpv6.Message, end time.Time) (*answer6, *unusable, error) {
	if err := c.udp.SetReadDeadline(end); err != nil {
		return nil, nil, fmt.Errorf("set a deadline on %s: %w", c.link.Name, err)
	}
	for ctx.Err() == nil {
		n, from, err := c.udp.ReadFrom(c.buf[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil, nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("receive on %s: %w", c.link.Name, err)
		}
		udp, ok := from.(*net.UDPAddr)
		if !ok || udp.Port != dhcpv6.DefaultServerPort {
			continue
		}
		a, err := parseAnswer6(c.buf[:n], toAddr(udp.IP), m, c.cfg.Want)
		var bad *unusable
		if err == nil || errors.As(err, &bad) {
			return a, bad, nil
		}
	}
	return nil, nil, nil
}

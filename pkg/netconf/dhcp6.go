package netconf

import (
	"context"
	"errors"
	"fmt"
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
	c := &client6{client: client{link: link, cfg: cfg}, udp: conn}
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		lease, err := c.attempt(ctx, jitter(wait))
		if err != nil || lease != nil {
			return lease, err
		}
		if ctx.Err() != nil {
			return nil, c.failure(ctx)
		}
	}
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
			return fmt.Errorf("%s: %w: no link-local address to ask from: %w", link.Name, ErrNoLease, ctx.Err())
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

type client6 struct {
	client
	udp net.PacketConn
}

// answer6 is a server's message, reduced to what is used of it.
type answer6 struct {
	kind   dhcpv6.MessageType // ADVERTISE or REPLY
	server dhcpv6.DUID
	answer
}

// attempt is one exchange (RFC 8415, 18.2); nil, nil asks for another one.
func (c *client6) attempt(ctx context.Context, patience time.Duration) (*Lease, error) {
	solicit, err := c.message(dhcpv6.MessageTypeSolicit, &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
	if err != nil {
		return nil, err
	}
	a, err := c.exchange(ctx, solicit, patience)
	if err != nil || a == nil {
		return nil, err
	}
	if a.kind == dhcpv6.MessageTypeReply {
		return c.take(&a.answer), nil
	}
	request, err := c.message(dhcpv6.MessageTypeRequest, dhcpv6.OptServerID(a.server))
	if err != nil {
		return nil, err
	}
	if a, err = c.exchange(ctx, request, patience); err != nil || a == nil {
		return nil, err
	}
	return c.take(&a.answer), nil
}

// message asks for the expected address at once, as a hint.
func (c *client6) message(kind dhcpv6.MessageType, more ...dhcpv6.Option) (*dhcpv6.Message, error) {
	m, err := dhcpv6.NewMessage(
		dhcpv6.WithClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: c.link.MAC}),
		// One identity a port, of its MAC address (RFC 8415, 12).
		dhcpv6.WithIAID([4]byte(c.link.MAC[len(c.link.MAC)-4:])),
		dhcpv6.WithIANA(dhcpv6.OptIAAddress{IPv6Addr: c.cfg.Want.Address.Addr().AsSlice()}),
		dhcpv6.WithOption(dhcpv6.OptElapsedTime(0)),
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

// exchange sends a message and waits for the expected answer; in "warn" mode it
// settles for a wrong one after a grace time.
func (c *client6) exchange(ctx context.Context, m *dhcpv6.Message, patience time.Duration) (*answer6, error) {
	to := &net.UDPAddr{IP: dhcpv6.AllDHCPRelayAgentsAndServers, Port: dhcpv6.DefaultServerPort, Zone: c.link.Name}
	if _, err := c.udp.WriteTo(m.ToBytes(), to); err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENOBUFS) &&
		!errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil, fmt.Errorf("send on %s: %w", c.link.Name, err)
	}
	end := time.Now().Add(patience)
	var fallback *answer6
	for {
		a, err := c.receive6(ctx, m, end)
		if err != nil {
			return nil, err
		}
		if a == nil {
			return fallback, nil
		}
		diff := c.cfg.Want.Match(&a.lease)
		if diff == "" {
			return a, nil
		}
		c.note(&a.answer, diff)
		if c.cfg.Warn && fallback == nil {
			fallback = a
		}
		if grace := time.Now().Add(graceWrong); grace.Before(end) {
			end = grace
		}
	}
}

// receive6 returns the next answer to m; nil when end or ctx came first.
func (c *client6) receive6(ctx context.Context, m *dhcpv6.Message, end time.Time) (*answer6, error) {
	if err := c.udp.SetReadDeadline(end); err != nil {
		return nil, fmt.Errorf("set a deadline on %s: %w", c.link.Name, err)
	}
	for ctx.Err() == nil {
		n, from, err := c.udp.ReadFrom(c.buf[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("receive on %s: %w", c.link.Name, err)
		}
		udp, ok := from.(*net.UDPAddr)
		if !ok || udp.Port != dhcpv6.DefaultServerPort {
			continue
		}
		if a, err := parseAnswer6(c.buf[:n], m, c.cfg.Want); err == nil {
			a.answer.server = toAddr(udp.IP)
			a.lease.Server = a.answer.server
			return a, nil
		}
	}
	return nil, nil
}

// parseAnswer6 checks that a message answers asked, and takes out the address
// (RFC 8415, 16.3, 16.10 and 21.4).
func parseAnswer6(b []byte, asked *dhcpv6.Message, want Want) (*answer6, error) {
	m, err := dhcpv6.MessageFromBytes(b)
	if err != nil {
		return nil, err
	}
	o, mine := m.Options, asked.Options.ClientID()
	if m.TransactionID != asked.TransactionID || o.ClientID() == nil || !o.ClientID().Equal(mine) || o.ServerID() == nil {
		return nil, errNotOurs
	}
	rapid := o.GetOne(dhcpv6.OptionRapidCommit) != nil
	switch {
	case m.MessageType == dhcpv6.MessageTypeAdvertise && asked.MessageType == dhcpv6.MessageTypeSolicit:
	case m.MessageType == dhcpv6.MessageTypeReply && rapid == (asked.MessageType == dhcpv6.MessageTypeSolicit):
	default:
		return nil, errNotOurs
	}
	if to := asked.Options.ServerID(); to != nil && !to.Equal(o.ServerID()) {
		return nil, errNotOurs
	}
	for _, ia := range o.IANA() {
		if ia.IaId != asked.Options.OneIANA().IaId {
			continue
		}
		for _, given := range ia.Options.Addresses() {
			ip, ok := netip.AddrFromSlice(given.IPv6Addr)
			if !ok || given.ValidLifetime == 0 || !usable6(ip) {
				continue
			}
			a := &answer6{kind: m.MessageType, server: o.ServerID()}
			a.lease = Lease{Address: netip.PrefixFrom(ip, want.Address.Bits()), Router: want.Router,
				Duration: max(given.ValidLifetime, minLease)}
			return a, nil
		}
	}
	return nil, errNotOurs
}

// usable6 says whether an IPv6 address may be leased to a host.
func usable6(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && a.IsGlobalUnicast() && !a.IsLinkLocalUnicast()
}

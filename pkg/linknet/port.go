package linknet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/netconf"
)

// errNoAddress: it waits for its lease.
var errNoAddress = errors.New("no address of that family yet")

// port is one of the slice's ports. Net.mu guards it.
type port struct {
	name      string
	mac       net.HardwareAddr
	local     bool         // it has links that are not routed
	routed    []netip.Addr // of its routed neighbors
	link      netconf.Link // zero: there is no such port now
	carrier   bool
	usable    bool
	addresses []netip.Prefix
	trouble   string // the last one, so that it is logged once
	udp       *netconf.UDP
	lldp      *netconf.LLDP
	stop      context.CancelFunc // ends the readers of both
	said      announced
	heard     *time.Timer // forgets what the switch said
	sender    string      // of it
}

func newPort(cfg *Config, name string) *port {
	p := &port{name: name, mac: cfg.MACs[name]}
	for _, l := range cfg.Links {
		switch {
		case l.Interface != name:
		case l.Routed:
			p.routed = append(p.routed, l.Address.Unmap())
		default:
			p.local = true
		}
	}
	return p
}

// Times of the watch over ports.
const (
	lookEvery = 5 * time.Second // though the kernel tells of every change
	tickEvery = time.Second     // for LLDP
	badSocket = 100 * time.Millisecond
)

// watch follows the kernel's ports until ctx ends, and then closes everything.
func (n *Net) watch(ctx context.Context, events <-chan netconf.Event) {
	defer n.shut()
	n.look()
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-events:
			if !ok {
				if events = n.watchAgain(ctx); events == nil && ctx.Err() != nil {
					return
				}
			}
			n.happened(e)
			n.look()
		case now := <-tick.C:
			n.announce()
			if now.Sub(last) >= lookEvery {
				last = now
				if events == nil {
					events = n.watchAgain(ctx)
				}
				n.look()
			}
		}
	}
}

// watchAgain returns nil if the kernel tells nothing: then looking must do.
func (n *Net) watchAgain(ctx context.Context) <-chan netconf.Event {
	events, err := netconf.Watch(ctx)
	if err != nil {
		return nil
	}
	return events
}

// happened takes an event: a port that went down may be up again, with another
// cable, when it is looked at.
func (n *Net) happened(e netconf.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.ports {
		switch {
		case p.udp == nil || p.link.Index != e.Index:
		case e.Gone:
			n.closePort(p)
		case e.Link.Index != 0 && !e.Link.Carrier:
			n.setCarrier(p, false, false)
		}
	}
}

// look compares the ports with the kernel's.
func (n *Net) look() {
	links, err := netconf.Links()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	for _, p := range n.ports {
		if err != nil {
			n.complain(p, err)
			continue
		}
		n.complain(p, n.lookAt(p, netconf.ByMAC(links, p.mac)))
	}
}

// complain logs what keeps a port from being used, when it changes.
func (n *Net) complain(p *port, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != p.trouble && text != "" {
		n.logf("links of %s: %s", p.name, text)
	}
	p.trouble = text
}

func (n *Net) lookAt(p *port, now *netconf.Link) error {
	if now == nil || now.Index != p.link.Index {
		n.closePort(p)
	}
	if now == nil {
		return fmt.Errorf("no port has the MAC address %s", p.mac)
	}
	if p.udp == nil {
		if err := n.openPort(p, *now); err != nil {
			return err
		}
	}
	p.link = *now // its name may be another
	addresses, err := netconf.Addresses(*now)
	if err != nil {
		return err
	}
	more := !slices.Equal(addresses, p.addresses)
	p.addresses = addresses
	n.setCarrier(p, now.Carrier, now.Carrier && (!p.local || p.has(netip.Addr.IsLinkLocalUnicast)))
	if more && p.usable && len(p.routed) > 0 {
		n.step(func(m *linkcheck.Machine, now time.Time) linkcheck.Output { return m.LinkUp(now, p.name) })
	}
	return nil
}

// has says whether the port has an address of a kind.
func (p *port) has(kind func(netip.Addr) bool) bool {
	return slices.ContainsFunc(p.addresses, func(a netip.Prefix) bool { return kind(a.Addr()) })
}

// openPort begins to answer on a port that has appeared.
func (n *Net) openPort(p *port, link netconf.Link) error {
	if n.cfg.Raise {
		if err := netconf.Up(link, 0); err != nil {
			return err
		}
	}
	u, err := netconf.ListenUDP(link, linkcheck.Port)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.link, p.udp, p.stop, p.said = link, u, cancel, announced{}
	n.run(func() { n.receive(ctx, p, u) })
	if !n.cfg.LLDP {
		return nil
	}
	l, err := netconf.ListenLLDP(link)
	if err != nil {
		n.logf("links of %s: %v", p.name, err) // a hint less
		return nil
	}
	p.lldp = l
	n.run(func() { n.listen(ctx, p, l) })
	return nil
}

// closePort forgets a port that is not there. It returns at once; the readers
// end by themselves.
func (n *Net) closePort(p *port) {
	n.setCarrier(p, false, false)
	if p.udp == nil {
		return
	}
	p.stop()
	_ = p.udp.Close()
	if p.lldp != nil {
		n.count.LLDPRefused += p.lldp.Refused()
		_ = p.lldp.Close()
	}
	p.udp, p.lldp, p.link, p.addresses = nil, nil, netconf.Link{}, nil
}

// setCarrier tells the machine.
func (n *Net) setCarrier(p *port, carrier, usable bool) {
	if carrier != p.carrier || usable != p.usable {
		n.signal()
	}
	if carrier && !p.carrier {
		p.said = announced{} // somebody new may listen
	}
	was := p.usable
	p.carrier, p.usable = carrier, usable
	switch {
	case usable && !was:
		n.step(func(m *linkcheck.Machine, now time.Time) linkcheck.Output { return m.LinkUp(now, p.name) })
	case was && !usable:
		n.step(func(m *linkcheck.Machine, now time.Time) linkcheck.Output { return m.LinkDown(now, p.name) })
	}
}

// receive passes datagrams to the machine until the socket is closed.
func (n *Net) receive(ctx context.Context, p *port, u *netconf.UDP) {
	var b [linkcheck.MaxDatagram + 1]byte // one more: what is cut off here is refused
	for ctx.Err() == nil {
		size, from, hops, err := u.Receive(b[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // whatever it is, it must not fill a processor
			select {
			case <-ctx.Done():
			case <-time.After(badSocket):
			}
			continue
		}
		n.mu.Lock()
		switch {
		case p.udp != u:
		case !p.admits(from.Addr(), hops):
			n.count.Distant++
		default:
			n.step(func(m *linkcheck.Machine, now time.Time) linkcheck.Output {
				return m.Receive(now, p.name, from, b[:size])
			})
		}
		n.mu.Unlock()
	}
}

// admits says whether a datagram may be looked at: from the link itself (RFC
// 5082), or from a routed neighbor of this port.
func (p *port) admits(from netip.Addr, hops int) bool {
	if from.IsLinkLocalUnicast() && from.Is6() {
		return hops == netconf.HopLimit
	}
	return slices.Contains(p.routed, from)
}

// send sends what the machine wants sent; the zero address is everybody on the
// link.
func (p *port) send(s linkcheck.Send) error {
	if p.udp == nil {
		return net.ErrClosed
	}
	to := s.To
	if !to.IsValid() {
		to = netip.AddrPortFrom(netconf.AllNodes(), linkcheck.Port)
	}
	// Without an address of our own the kernel would take a routed neighbor for
	// one on the cable, and may remember it by the broadcast address.
	if a := to.Addr(); a.IsGlobalUnicast() && !p.has(func(own netip.Addr) bool { return own.IsGlobalUnicast() && own.Is4() == a.Is4() }) {
		return errNoAddress
	}
	return p.udp.Send(s.Datagram, to)
}

// shut takes back what was announced, and closes all sockets.
func (n *Net) shut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.ports {
		n.withdraw(p)
	}
	n.wake.Stop()
	n.closed = true // first, so that what was proved stays known
	close(n.changed)
	for _, p := range n.ports {
		carrier, usable := p.carrier, p.usable
		link := p.link
		n.closePort(p)
		p.carrier, p.usable, p.link = carrier, usable, link
		if p.heard != nil {
			p.heard.Stop()
		}
	}
}

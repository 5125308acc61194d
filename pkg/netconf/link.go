// Package netconf brings up a booting machine's network: links by MAC address,
// carrier, a DHCPv4 lease that is compared with the one expected, and the LLDP
// of each port.
//
// Nothing that comes from the network is trusted: of a lease only address,
// mask, router and time are looked at, and they are checked against what the
// caller expects. What is not protected: whoever answers first with the
// expected lease is believed to be the network; the key servers prove
// themselves later.
package netconf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is a network port of this machine.
type Link struct {
	Index   int
	Name    string
	MAC     net.HardwareAddr
	Carrier bool // the port is up and has a partner
	// Permanent is the MAC address that the NIC was made with, where its driver
	// tells; else MAC. A bond gives all of its members the address of one.
	Permanent net.HardwareAddr
}

// Links lists the Ethernet ports that cables are plugged into. Bridges, bonds,
// VLANs and tunnels are none, though they often have the MAC address of one.
func Links() ([]Link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network ports: %w", err)
	}
	var links []Link
	for _, l := range all {
		if isPort(l) {
			links = append(links, fromAttrs(l.Attrs()))
		}
	}
	return links, nil
}

// isPort: what has hardware has no kind of its own; a veth is a port of a
// container.
func isPort(l netlink.Link) bool {
	switch l.(type) {
	case *netlink.Device, *netlink.Veth:
		a := l.Attrs()
		return a.EncapType == "ether" && a.Flags&net.FlagLoopback == 0
	}
	return false
}

func fromAttrs(a *netlink.LinkAttrs) Link {
	return Link{Index: a.Index, Name: a.Name, MAC: a.HardwareAddr, Permanent: permanent(a), Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0}
}

// permanent is the address that the NIC was made with, where its driver tells.
func permanent(a *netlink.LinkAttrs) net.HardwareAddr {
	if len(a.PermHWAddr) == 6 && !slices.Equal(a.PermHWAddr, make(net.HardwareAddr, 6)) {
		return a.PermHWAddr
	}
	return a.HardwareAddr
}

// ByMAC picks the port with a MAC address; nil when there is none. One that was
// made with it is rather meant than one that has got it since.
func ByMAC(links []Link, mac net.HardwareAddr) *Link {
	for _, of := range []func(Link) net.HardwareAddr{
		func(l Link) net.HardwareAddr { return l.Permanent },
		func(l Link) net.HardwareAddr { return l.MAC },
	} {
		if i := slices.IndexFunc(links, func(l Link) bool { return bytes.Equal(of(l), mac) }); i >= 0 {
			return &links[i]
		}
	}
	return nil
}

// TakenBy names the bridge or bond that takes all that comes in at a port, so
// that nobody hears it there; "" if none does.
func TakenBy(l Link) (string, error) {
	now, err := netlink.LinkByIndex(l.Index)
	if err != nil {
		return "", fmt.Errorf("look at %s: %w", l.Name, err)
	}
	if now.Attrs().MasterIndex == 0 {
		return "", nil
	}
	master, err := netlink.LinkByIndex(now.Attrs().MasterIndex)
	if err != nil {
		return "", fmt.Errorf("look at what %s belongs to: %w", l.Name, err)
	}
	if master.Type() == "vrf" { // it only chooses the routes
		return "", nil
	}
	return fmt.Sprintf("%s %s", master.Type(), master.Attrs().Name), nil
}

// Up sets a port up, after giving it an MTU (0 keeps the driver's) and the
// IPv6 settings of LinkLocal.
func Up(l Link, mtu int) error {
	if err := LinkLocal(l); err != nil {
		return err
	}
	nl := handleOf(l)
	if mtu != 0 {
		if err := netlink.LinkSetMTU(nl, mtu); err != nil {
			return fmt.Errorf("set MTU %d on %s: %w", mtu, l.Name, err)
		}
	}
	if err := netlink.LinkSetUp(nl); err != nil {
		return fmt.Errorf("set %s up: %w", l.Name, err)
	}
	return nil
}

// handleOf makes what the netlink package wants; it uses the index only.
func handleOf(l Link) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.Index, Name: l.Name}}
}

// WaitCarrier returns once the port has a partner, however late the cable or
// the switch comes. When the port goes away meanwhile, the error is ErrGone: what
// comes back with its MAC address is another port.
func WaitCarrier(ctx context.Context, l Link) error {
	updates := make(chan netlink.LinkUpdate, 16)
	done := make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribe(updates, done); err != nil {
		return fmt.Errorf("watch network ports: %w", err)
	}
	// Subscribed first, looked at second: no change falls between.
	now, err := look(l)
	if err != nil {
		return err
	}
	if now.Carrier {
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", l.Name, ErrNoCarrier, ctx.Err())
		case u, ok := <-updates:
			if !ok {
				return fmt.Errorf("%s: the kernel stopped telling about network ports", l.Name)
			}
			switch a := u.Attrs(); {
			case a.Index != l.Index:
			case u.Header.Type == unix.RTM_DELLINK:
				return fmt.Errorf("%s: %w", l.Name, ErrGone)
			case fromAttrs(a).Carrier:
				return nil
			}
		}
	}
}

// look is what a port is now.
func look(l Link) (Link, error) {
	now, err := netlink.LinkByIndex(l.Index)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return Link{}, fmt.Errorf("%s: %w", l.Name, ErrGone)
	}
	if err != nil {
		return Link{}, fmt.Errorf("look at %s: %w", l.Name, err)
	}
	return fromAttrs(now.Attrs()), nil
}

// WithPort returns a context that ends with ctx, and when the port goes away or,
// with carrier, has no partner any more. Then the caller looks for it by its MAC
// address: its index is never used again.
func WithPort(ctx context.Context, l Link, carrier bool) (context.Context, context.CancelFunc, error) {
	ctx, cancel := context.WithCancel(ctx)
	events, err := Watch(ctx)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	now, err := look(l)
	if err != nil || carrier && !now.Carrier {
		cancel()
	}
	go func() {
		defer cancel() // also when the kernel stopped telling: then looking must do
		for e := range events {
			if e.Index == l.Index && (e.Gone || carrier && e.Link.Index != 0 && !e.Link.Carrier) {
				return
			}
		}
	}()
	return ctx, cancel, nil
}

// Loopback sets lo up; some programs of the factory image want it.
func Loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// Want is the lease that a port must get.
type Want struct {
	Address netip.Prefix // zero: any
	Router  netip.Addr   // zero: any
}

// Match tells how a lease differs; "" when it does not.
func (w Want) Match(l *Lease) string {
	if w.Address.IsValid() && l.Address != w.Address {
		return fmt.Sprintf("%s instead of %s", l.Address, w.Address)
	}
	if w.Router.IsValid() && !l.Router.IsValid() {
		return fmt.Sprintf("%s without a router instead of %s", l.Address, w.Router)
	}
	if w.Router.IsValid() && l.Router != w.Router {
		return fmt.Sprintf("router %s instead of %s", l.Router, w.Router)
	}
	return ""
}

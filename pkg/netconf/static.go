package netconf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Static gives a port its addresses, and a default route if gateway is valid.
// It may be repeated; what else the port has stays.
func Static(link Link, addresses []netip.Prefix, gateway netip.Addr) error {
	for _, a := range addresses {
		if err := setAddress(link, a); err != nil {
			return err
		}
	}
	return defaultRoute(link, gateway, addresses...)
}

// Apply gives a port the lease's address and routes. It may be repeated.
func Apply(lease *Lease) error {
	if err := setAddress(lease.Link, lease.Address); err != nil {
		return err
	}
	for _, r := range lease.Routes {
		if err := netlink.RouteReplace(hostRoute(lease, r)); err != nil {
			return fmt.Errorf("route to %s on %s: %w", r.To, lease.Link.Name, err)
		}
	}
	return defaultRoute(lease.Link, lease.Router, lease.Address)
}

// Withdraw takes a lease's address and routes from its port. A lease that is not
// there is no error.
func Withdraw(lease *Lease) error {
	for _, r := range lease.Routes {
		if err := netlink.RouteDel(hostRoute(lease, r)); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove the route to %s from %s: %w", r.To, lease.Link.Name, err)
		}
	}
	if lease.Router.IsValid() {
		if err := netlink.RouteDel(defaultBy(lease.Link, lease.Router)); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove the route by %s from %s: %w", lease.Router, lease.Link.Name, err)
		}
	}
	for _, p := range append([]netip.Prefix{lease.Address}, lease.Others...) {
		err := netlink.AddrDel(handleOf(lease.Link), address(p))
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove %s from %s: %w", p, lease.Link.Name, err)
		}
	}
	return nil
}

func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: network(p)}
	if p.Addr().Is6() {
		// Detection would make the address wait for a second (RFC 4862, 5.4);
		// the snapshot has each address once.
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// network keeps the host's bits: netlink wants an address that way.
func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func setAddress(link Link, p netip.Prefix) error {
	if err := netlink.AddrReplace(handleOf(link), address(p)); err != nil {
		return fmt.Errorf("set %s on %s: %w", p, link.Name, err)
	}
	return nil
}

func defaultRoute(link Link, gateway netip.Addr, from ...netip.Prefix) error {
	if !gateway.IsValid() {
		return nil
	}
	route := defaultBy(link, gateway)
	if onLink(gateway, from) {
		route.SetFlag(netlink.FLAG_ONLINK)
	}
	if err := netlink.RouteReplace(route); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("route by %s on %s: %w", gateway, link.Name, err)
	}
	return nil
}

// onLink says whether the kernel must be told that an IPv4 gateway is on the
// link: its address is link-local (RFC 3927), or the port has an address without
// a network, as where each machine has a router of its own. IPv6's always are
// known to be.
func onLink(gateway netip.Addr, from []netip.Prefix) bool {
	return gateway.Is4() && (gateway.IsLinkLocalUnicast() || slices.ContainsFunc(from, netip.Prefix.IsSingleIP))
}

// defaultBy is a port's default route. Several ports may each have one; the
// metric keeps them apart.
func defaultBy(link Link, gateway netip.Addr) *netlink.Route {
	route := &netlink.Route{LinkIndex: link.Index, Gw: gateway.AsSlice(), Priority: 100 + link.Index}
	if gateway.Is6() {
		// Without a destination the family is not known to be IPv6.
		route.Dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return route
}

func hostRoute(lease *Lease, r Route) *netlink.Route {
	route := &netlink.Route{LinkIndex: lease.Link.Index, Dst: network(netip.PrefixFrom(r.To, r.To.BitLen())),
		Src: lease.Address.Addr().AsSlice(), Priority: 100 + lease.Link.Index}
	if r.By.IsValid() {
		route.Gw = r.By.AsSlice()
	} else {
		route.Scope = netlink.SCOPE_LINK
	}
	return route
}

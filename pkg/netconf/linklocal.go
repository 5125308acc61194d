package netconf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkLocal makes a port that is still down get its IPv6 link-local address at
// the moment of its carrier (Linux Documentation/networking/ip-sysctl.rst):
// without duplicate address detection, which would take a second or two, with
// an address made from the MAC address (RFC 4291, appendix A), and deaf to
// router advertisements. A kernel without IPv6 is left alone: DHCPv4 does not
// need it.
//
// Not protected: two ports with one MAC address on one segment, which detection
// would have found.
func LinkLocal(l Link) error {
	const conf = "/proc/sys/net/ipv6/conf"
	if _, err := os.Stat(conf); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, s := range []struct{ name, value string }{
		{"disable_ipv6", "0"}, {"accept_ra", "0"}, {"autoconf", "0"}, {"forwarding", "0"},
		{"accept_dad", "0"}, {"dad_transmits", "0"}, {"addr_gen_mode", "0"},
	} {
		// A name holds no slash (dev_valid_name in net/core/dev.c).
		if err := os.WriteFile(filepath.Join(conf, l.Name, s.name), []byte(s.value), 0); err != nil {
			return fmt.Errorf("prepare %s for IPv6: %w", l.Name, err)
		}
	}
	return nil
}

// Addresses lists the addresses of a port that can be used now, in the kernel's
// order.
func Addresses(l Link) ([]netip.Prefix, error) {
	addrs, err := netlink.AddrList(handleOf(l), unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", l.Name, err)
	}
	var all []netip.Prefix
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue
		}
		ones, _ := a.Mask.Size()
		if ip = ip.Unmap(); ip.Is4() {
			ones = min(ones, 32)
		}
		all = append(all, netip.PrefixFrom(ip, ones))
	}
	return all, nil
}

// Event is a change of this machine's network.
type Event struct {
	Link  Link // the port as it was then; the zero value when an address has changed
	Index int  // of the port
	Gone  bool // the port is no longer there
}

// Watch tells of every change of a port or an address, in order, until ctx
// ends; then, or when the kernel had more to tell than it could keep, the
// channel is closed, and the caller has to look and Watch again.
func Watch(ctx context.Context) (<-chan Event, error) {
	links, addrs := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64)
	done := make(chan struct{})
	ignore := func(error) {} // the channel is closed, which says enough
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: ignore}); err != nil {
		close(done)
		return nil, fmt.Errorf("watch network ports: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: ignore}); err != nil {
		close(done)
		drain(links, nil)
		return nil, fmt.Errorf("watch addresses: %w", err)
	}
	out := make(chan Event)
	go func() {
		defer close(out)
		defer drain(links, addrs)
		defer close(done)
		for {
			var e Event
			select {
			case <-ctx.Done():
				return
			case u, ok := <-links:
				if !ok {
					return
				}
				a := u.Attrs()
				e = Event{Link: fromAttrs(a), Index: a.Index, Gone: u.Header.Type == unix.RTM_DELLINK}
			case u, ok := <-addrs:
				if !ok {
					return
				}
				e = Event{Index: u.LinkIndex}
			}
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// drain lets subscriptions end whose receivers have.
func drain(links <-chan netlink.LinkUpdate, addrs <-chan netlink.AddrUpdate) {
	go func() {
		for range links {
		}
	}()
	if addrs == nil {
		return
	}
	go func() {
		for range addrs {
		}
	}()
}

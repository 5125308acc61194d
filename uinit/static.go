package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Times of ports that ask nobody in the region's name.
const (
	strangerLook = 3 * time.Second  // a slow driver is no missing port
	strangerWait = 10 * time.Second // for a quarantine lease on one port
)

// static keeps the slice's addresses on a port.
func (n *network) static(ctx context.Context, p snapshot.Interface, mac net.HardwareAddr) {
	for ctx.Err() == nil {
		lease, err := setStatic(p, mac)
		if err != nil {
			n.trouble(p.Name, netProblem(err))
			n.lose(p.Name, fmt.Sprintf("is lost: %v", err))
			pause(ctx, linkLook)
			continue
		}
		n.mu.Lock()
		_, had := n.leases[p.Name]
		n.leases[p.Name] = lease
		delete(n.problems, p.Name)
		n.mu.Unlock()
		if !had {
			n.m.logf("%s on %s (%s)", strings.Join(p.Addresses, " "), lease.Link.Name, p.Name)
			n.signal()
			n.m.changed()
		}
		pauseAt(ctx, lease.Link, portLook) // a port that was gone has lost its addresses
	}
}

// setStatic gives a port its addresses. The result stands for a lease that
// nobody gave, and that never ends.
func setStatic(p snapshot.Interface, mac net.HardwareAddr) (*netconf.Lease, error) {
	prefixes, err := parsePrefixes(p.Addresses)
	if err != nil {
		return nil, report.Errorf(report.SliceInvalid, "interface %s: %w", p.Name, err)
	}
	var gateway netip.Addr
	if p.Gateway != "" {
		if gateway, err = netip.ParseAddr(p.Gateway); err != nil {
			return nil, report.Errorf(report.SliceInvalid, "interface %s: %w", p.Name, err)
		}
	}
	link, err := raise(p, mac)
	if err != nil {
		return nil, err
	}
	if err := netconf.Static(*link, prefixes, gateway); err != nil {
		return nil, report.Errorf(report.NetApply, "%w", err)
	}
	return &netconf.Lease{Link: *link, Address: prefixes[0], Others: prefixes[1:], Router: gateway, Got: time.Now(), Duration: math.MaxInt64}, nil
}

// leaseOf is what a port has, by its name in the slice; nil: nothing.
func (n *network) leaseOf(port string) *netconf.Lease {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leases[port]
}

// reaches says whether the fleet may be reached, be it from quarantine.
func (n *network) reaches() bool {
	q := n.strange()
	return q != nil && !q.Expired() || len(n.current()) > 0
}

// stranger gets a quarantine lease on a port that the slice does not name, while
// one is missing that it names and no other has a lease: somebody has replaced
// a card. Over it the fleet is asked for an amendment, and for nothing else.
func (n *network) stranger(ctx context.Context) {
	// Of several such ports each has its turn: on the first one that answers
	// there may be somebody else's server.
	for turn := 0; ; turn++ {
		pause(ctx, strangerLook)
		if ctx.Err() != nil {
			return
		}
		missing, strangers := n.misfits()
		if len(n.current()) > 0 || len(missing) == 0 {
			n.returned()
			continue
		}
		lease := n.borrowAny(ctx, strangers, turn)
		if lease == nil {
			if q := n.strange(); q != nil && q.Expired() {
				n.returned()
			}
			continue
		}
		n.borrowed(lease, missing)
		pauseAt(ctx, lease.Link, lease.Duration/2)
	}
}

// borrowAny gets a quarantine lease on the first port that gives one, beginning
// with another one each turn; nil: none does.
func (n *network) borrowAny(ctx context.Context, strangers []netconf.Link, turn int) *netconf.Lease {
	for i := range strangers {
		link := strangers[(turn+i)%len(strangers)]
		lease, err := n.borrow(ctx, link)
		if err == nil {
			return lease
		}
		n.m.note("quarantine lease on %s: %v", link.Name, err)
	}
	return nil
}

// strange is the quarantine lease, or nil.
func (n *network) strange() *netconf.Lease {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.quarantine
}

// misfits are the slice's ports that are not there, and ports that it does not
// name.
func (n *network) misfits() (missing []snapshot.Interface, strangers []netconf.Link) {
	links, err := netconf.Links()
	if err != nil {
		return nil, nil
	}
	named := map[int]bool{}
	for _, p := range n.ports {
		mac, err := net.ParseMAC(p.MAC)
		if err != nil {
			continue
		}
		if l := netconf.ByMAC(links, mac); l != nil {
			named[l.Index] = true
		} else {
			missing = append(missing, p)
		}
	}
	for _, l := range links {
		if !named[l.Index] {
			strangers = append(strangers, l)
		}
	}
	return missing, strangers
}

// borrow puts a new quarantine lease in the place of the one before.
func (n *network) borrow(ctx context.Context, link netconf.Link) (*netconf.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, strangerWait)
	defer cancel()
	if err := netconf.Up(link, 0); err != nil {
		return nil, err
	}
	if err := netconf.WaitCarrier(ctx, link); err != nil {
		return nil, err
	}
	lease, err := netconf.Quarantine(ctx, link)
	if err != nil {
		return nil, err
	}
	if had := n.strange(); had != nil && (had.Address != lease.Address || had.Link.Index != lease.Link.Index || !slices.Equal(had.Routes, lease.Routes)) {
		n.returned()
	}
	if err := netconf.Apply(lease); err != nil {
		return nil, errors.Join(err, netconf.Withdraw(lease)) // some of its routes may be in place
	}
	return lease, nil
}

// returned gives a quarantine lease up, with its routes, which would lead the
// fleet's traffic to whoever lent it.
func (n *network) returned() {
	n.mu.Lock()
	had := n.quarantine
	n.quarantine = nil
	delete(n.problems, strangerPort)
	n.mu.Unlock()
	if had == nil {
		return
	}
	if err := netconf.Withdraw(had); err != nil {
		n.m.logf("%v", err)
	}
}

// strangerPort stands for the quarantine lease's port among the slice's, which
// have no such name.
const strangerPort = "a stranger"

func (n *network) borrowed(lease *netconf.Lease, missing []snapshot.Interface) {
	n.mu.Lock()
	n.quarantine = lease
	n.mu.Unlock()
	var gone []string
	for _, p := range missing {
		gone = append(gone, fmt.Sprintf("%s %s", p.Name, p.MAC))
	}
	n.trouble(strangerPort, report.Errorf(report.NetQuarantine, "no port of the slice's has a lease; %s is missing, and %s %s is no port of the slice's: it has quarantine lease %s",
		strings.Join(gone, ", "), lease.Link.Name, lease.Link.Permanent, lease.Address.Addr()))
	n.m.changed()
}

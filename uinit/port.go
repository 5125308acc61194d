package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// port keeps one port up: it waits for the hardware, the cable and the lease,
// and fetches the lease anew at half its time.
func (n *network) port(ctx context.Context, p snapshot.Interface) {
	cfg, mac, err := portConfig(p)
	if err != nil {
		n.trouble(p.Name, report.Errorf(report.SliceInvalid, "interface %s: %w", p.Name, err))
		return
	}
	switch {
	case n.mode != leaseAny && len(p.Addresses) == 0:
		n.portWithoutLease(ctx, p, mac)
		return
	case n.mode == leaseStatic:
		n.static(ctx, p, mac)
		return
	}
	cfg.Warn = n.mode == leaseWarn
	cfg.Wrong = func(w *netconf.WrongLeaseError) { n.trouble(p.Name, report.Errorf(report.NetWrongLease, "%w", w)) }
	for ctx.Err() == nil {
		lease, err := n.lease(ctx, p, mac, cfg)
		if had := n.leaseOf(p.Name); had != nil && had.Expired() {
			n.lose(p.Name, "has expired")
		}
		if err == nil {
			if err = n.take(p.Name, lease); err == nil {
				n.success(p.Name, lease, cfg.Want.Match(lease))
				n.keep(ctx, p, mac, lease)
				continue
			}
			err = report.Errorf(report.NetApply, "%w", err)
		}
		problem := netProblem(err)
		n.trouble(p.Name, problem)
		if problem.Code == report.NetApply {
			pause(ctx, jitter(applyAgain))
		}
		pause(ctx, linkLook)
	}
}

// portWithoutLease keeps a port up whose slice names no address: it is a link to
// a neighbor, and no DHCP server there has anything to say.
func (n *network) portWithoutLease(ctx context.Context, p snapshot.Interface, mac net.HardwareAddr) {
	said := ""
	for ctx.Err() == nil {
		link, err := raise(p, mac)
		if err != nil {
			if text := err.Error(); text != said && problem(err).Code != report.NetNoInterface {
				said = text
				n.m.logf("port %s: %v", p.Name, err)
			}
			pause(ctx, linkLook)
			continue
		}
		said = ""
		pauseAt(ctx, *link, portLook)
	}
}

// lease is one round, up to an unapplied lease. It ends when the port goes away
// or loses its carrier, and when what the port has expires.
func (n *network) lease(ctx context.Context, p snapshot.Interface, mac net.HardwareAddr, cfg netconf.Config) (*netconf.Lease, error) {
	if had := n.leaseOf(p.Name); had != nil {
		until, cancel := context.WithDeadline(ctx, had.Got.Add(had.Duration))
		defer cancel()
		ctx = until
	}
	link, err := raise(p, mac)
	if err != nil {
		return nil, err
	}
	if !link.Carrier {
		n.trouble(p.Name, report.Errorf(report.NetNoCarrier, "%s (%s) has no carrier", link.Name, p.Name))
	}
	if err := netconf.WaitCarrier(ctx, *link); err != nil {
		return nil, err
	}
	n.trouble(p.Name, report.Errorf(report.NetNoLease, "no DHCP server has answered on %s (%s)", link.Name, p.Name))
	round, cancel, err := netconf.WithPort(ctx, *link, true)
	if err != nil {
		return nil, err
	}
	defer cancel()
	if cfg.Want.Address.Addr().Is6() {
		return netconf.DHCP6(round, *link, cfg)
	}
	return netconf.DHCP(round, *link, cfg)
}

// take puts a lease in the place of what the port has: of two addresses the
// kernel would go on speaking from the first.
func (n *network) take(port string, lease *netconf.Lease) error {
	if had := n.leaseOf(port); had != nil && (had.Address != lease.Address || had.Router != lease.Router || had.Link.Index != lease.Link.Index) {
		n.lose(port, fmt.Sprintf("gives way to %s", lease.Address))
	}
	if err := netconf.Apply(lease); err != nil {
		return errors.Join(err, netconf.Withdraw(lease)) // some of it may be in place
	}
	return nil
}

// lose takes a lease from its port, of which it is no longer true.
func (n *network) lose(port, why string) {
	n.mu.Lock()
	had := n.leases[port]
	delete(n.leases, port)
	n.mu.Unlock()
	if had == nil {
		return
	}
	n.m.logf("lease %s on %s (%s) %s", had.Address, had.Link.Name, port, why)
	if err := netconf.Withdraw(had); err != nil {
		n.m.logf("%v", err)
	}
	n.signal()
	n.m.changed()
}

// keep sees to it that a port has its lease, until half its time is over or the
// port is another one, which has nothing.
func (n *network) keep(ctx context.Context, p snapshot.Interface, mac net.HardwareAddr, lease *netconf.Lease) {
	ctx, cancel := context.WithTimeout(ctx, lease.Duration/2)
	defer cancel()
	for {
		pauseAt(ctx, lease.Link, portLook)
		if ctx.Err() != nil {
			return
		}
		_, err := raise(p, mac)
		if err == nil { // to a port that came back it cannot be given: its index is another
			if err = netconf.Apply(lease); err != nil {
				err = report.Errorf(report.NetApply, "%w", err)
			}
		}
		if err != nil {
			n.trouble(p.Name, netProblem(err))
			n.lose(p.Name, fmt.Sprintf("is lost: %v", err))
			return
		}
	}
}

// raise finds a port and sets it up.
func raise(p snapshot.Interface, mac net.HardwareAddr) (*netconf.Link, error) {
	links, err := netconf.Links()
	if err != nil {
		return nil, err
	}
	link := netconf.ByMAC(links, mac)
	if link == nil {
		return nil, report.Errorf(report.NetNoInterface, "no port has %s (%s); there are %s", p.MAC, p.Name, describe(links))
	}
	if err := netconf.Up(*link, p.MTU); err != nil {
		return nil, report.Errorf(report.NetApply, "%w", err)
	}
	return link, nil
}

// pauseAt waits a while, or until a port goes away.
func pauseAt(ctx context.Context, link netconf.Link, d time.Duration) {
	there, cancel, err := netconf.WithPort(ctx, link, false)
	if err != nil { // it can only be looked at
		pause(ctx, d)
		return
	}
	defer cancel()
	pause(there, d)
	pause(ctx, linkLook) // a driver that takes a port away may bring it back
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// network brings up all ports at once and keeps them up. One good lease is
// enough to go on; a dead NIC or a dead cable holds up nothing.
type network struct {
	m      *machine
	mode   leaseMode
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	ports  []snapshot.Interface
	got    chan struct{} // a value for each new lease or problem

	mu       sync.Mutex
	leases   map[string]*netconf.Lease // by port, as the slice names it
	problems map[string]*report.Problem
	// quarantine is the lease of a port that the slice does not name, while one
	// is missing that it names.
	quarantine *netconf.Lease
}

// Times of a port's life.
const (
	linkLook   = 50 * time.Millisecond // until the port exists
	portLook   = 5 * time.Second       // who was told of no change may have missed one
	applyAgain = 8 * time.Second       // what the kernel refused it will refuse again
	leaseWait  = 3 * time.Second       // before a missing lease is worth a word
)

// leaseMode says what a port does about a lease.
type leaseMode int

const (
	leaseStrict leaseMode = iota // the slice's or none
	leaseWarn                    // a wrong one with a warning, if no right one comes
	leaseAny                     // factory, before a slice: any
	leaseStatic                  // none: who serves others has the slice's addresses at once
)

// leaseMode is what a booting server or a factory image does by this slice.
func (c *carried) leaseMode() leaseMode {
	if c.Policy.Lease == "warn" {
		return leaseWarn
	}
	return leaseStrict
}

// mode is what the device does that the slice is for.
func (c *carried) mode() leaseMode {
	if slices.Contains(c.Device.Roles, snapshot.RoleServer) {
		return c.leaseMode()
	}
	return leaseStatic
}

// startNetwork works on each port in the background until stop.
func startNetwork(m *machine, ports []snapshot.Interface, mode leaseMode) *network {
	ctx, cancel := context.WithCancel(context.Background())
	n := &network{m: m, mode: mode, cancel: cancel, ports: ports, got: make(chan struct{}, 1),
		leases: map[string]*netconf.Lease{}, problems: map[string]*report.Problem{}}
	for _, p := range ports {
		n.tasks.Go(func() {
			defer m.recoverPanic()
			n.port(ctx, p)
		})
	}
	if mode != leaseAny {
		n.tasks.Go(func() {
			defer m.recoverPanic()
			n.stranger(ctx)
		})
	}
	return n
}

// stop ends the work; the ports keep what they have.
func (n *network) stop() { n.cancel() }

// close ends the work and takes the addresses from the ports.
func (n *network) close() {
	n.cancel()
	n.tasks.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	leases := slices.Collect(maps.Values(n.leases))
	if n.quarantine != nil {
		leases = append(leases, n.quarantine)
	}
	for _, l := range leases {
		if err := netconf.Withdraw(l); err != nil {
			n.m.logf("%v", err)
		}
	}
}

// portConfig takes from the slice what the lease must be: its first IPv4
// address, or the first of IPv6 if it has no other; and the gateway if it is of
// the same family.
func portConfig(p snapshot.Interface) (netconf.Config, net.HardwareAddr, error) {
	mac, err := net.ParseMAC(p.MAC)
	if err != nil {
		return netconf.Config{}, nil, err
	}
	var cfg netconf.Config
	prefixes, err := parsePrefixes(p.Addresses)
	if err != nil {
		return netconf.Config{}, nil, err
	}
	if len(prefixes) > 0 {
		i := max(0, slices.IndexFunc(prefixes, func(p netip.Prefix) bool { return p.Addr().Is4() }))
		cfg.Want.Address = prefixes[i]
	}
	if p.Gateway != "" {
		gw, err := netip.ParseAddr(p.Gateway)
		if err != nil {
			return netconf.Config{}, nil, err
		}
		if gw.Is4() == cfg.Want.Address.Addr().Is4() {
			cfg.Want.Router = gw
		}
	}
	return cfg, mac, nil
}

func parsePrefixes(addresses []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, a := range addresses {
		prefix, err := netip.ParsePrefix(a)
		if err != nil {
			return nil, err
		}
		all = append(all, prefix)
	}
	return all, nil
}

// describe lists ports by the addresses that a slice would have.
func describe(links []netconf.Link) string {
	if len(links) == 0 {
		return "none"
	}
	var all []string
	for _, l := range links {
		all = append(all, fmt.Sprintf("%s %s", l.Name, l.Permanent))
	}
	return strings.Join(all, ", ")
}

func (n *network) success(port string, lease *netconf.Lease, differs string) {
	n.mu.Lock()
	renewed := n.leases[port] != nil && n.leases[port].Address == lease.Address
	n.leases[port] = lease
	before := n.problems[port]
	delete(n.problems, port)
	n.mu.Unlock()
	if !renewed {
		n.m.logf("lease %s on %s (%s) from %s", lease.Address, lease.Link.Name, port, lease.Server)
		switch {
		case differs != "":
			n.m.warn(report.Errorf(report.NetWrongLease, "DHCP server %s gave %s on %s, taken since the slice's policy is \"warn\"", lease.Server, differs, port))
		case before != nil && before.Code == report.NetWrongLease:
			n.m.warn(before) // somebody else's DHCP server: the next boot may meet it alone
		}
	}
	n.signal()
	n.m.changed()
}

func (n *network) trouble(port string, p *report.Problem) {
	n.mu.Lock()
	old := n.problems[port]
	// "No answer" does not replace the name of a server that answers wrongly.
	if old == nil || old.Code != report.NetWrongLease || p.Code != report.NetNoLease {
		n.problems[port] = p
	}
	n.mu.Unlock()
	n.signal()
}

func (n *network) signal() {
	select {
	case n.got <- struct{}{}:
	default:
	}
}

// ready waits a moment for the first lease that has not expired.
func (n *network) ready() ([]*netconf.Lease, error) {
	end := time.After(leaseWait)
	for {
		if leases := n.current(); len(leases) > 0 {
			return leases, nil
		}
		select {
		case <-n.got:
		case <-end:
			return nil, n.worst()
		}
	}
}

func (n *network) current() []*netconf.Lease {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []*netconf.Lease
	for _, l := range n.leases {
		if !l.Expired() {
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b *netconf.Lease) int { return strings.Compare(a.Link.Name, b.Link.Name) })
	return all
}

// worst is the problem that tells a technician most: the one that got furthest.
func (n *network) worst() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, code := range []report.Code{report.NetQuarantine, report.NetApply, report.NetWrongLease, report.NetNoLease, report.NetNoCarrier, report.NetNoInterface} {
		var same []string
		for _, p := range n.problems {
			if p.Code == code {
				same = append(same, p.What)
			}
		}
		if len(same) > 0 {
			slices.Sort(same)
			return &report.Problem{Code: code, What: strings.Join(same, "\n")}
		}
	}
	if ports := slices.Sorted(maps.Keys(n.problems)); len(ports) > 0 {
		return n.problems[ports[0]]
	}
	return report.Errorf(report.NetNoInterface, "the slice names no port")
}

// settled warns of the ports that have trouble when the boot goes on.
func (n *network) settled() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, port := range slices.Sorted(maps.Keys(n.problems)) {
		p := n.problems[port]
		if p.Code == report.NetWrongLease || n.leases[port] == nil && p.Code != report.NetNoLease {
			n.m.warn(p)
		}
	}
}

func netProblem(err error) *report.Problem {
	var p *report.Problem
	var wrong *netconf.WrongLeaseError
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &wrong):
		return report.Errorf(report.NetWrongLease, "%w", err)
	case errors.Is(err, netconf.ErrGone):
		return report.Errorf(report.NetNoInterface, "%w", err)
	case errors.Is(err, netconf.ErrNoCarrier):
		return report.Errorf(report.NetNoCarrier, "%w", err)
	}
	return report.Errorf(report.NetNoLease, "%w", err)
}

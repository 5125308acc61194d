package main

import (
	"context"
	"net/netip"
	"net/url"
	"reflect"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/dhcpserve"
)

// dhcp is the DHCP server of this device, on those of its ports that are there.
type dhcp struct {
	m       *machine
	c       *carried
	net     *network
	cancel  context.CancelFunc
	stopped chan struct{}

	mu      sync.Mutex
	server  *dhcpserve.Server
	allowed bool // for good
}

// portsLook is how often the ports are looked at; dhcpPause comes before another
// attempt.
const (
	portsLook = 2 * time.Second
	dhcpPause = time.Second
)

// serve starts the DHCP server, if the slice has anything to serve.
func (s *site) serve() { s.dhcp = startDHCP(s.m, s.c, s.net, false) }

// again serves by another slice, in the place of d, which is closed.
func (d *dhcp) again(c *carried, net *network) *dhcp { return startDHCP(d.m, c, net, d.allowed) }

// startDHCP serves by a slice, as soon as there are ports.
func startDHCP(m *machine, c *carried, net *network, allowed bool) *dhcp {
	ctx, cancel := context.WithCancel(context.Background())
	d := &dhcp{m: m, c: c, net: net, cancel: cancel, stopped: make(chan struct{}), allowed: allowed}
	go func() {
		defer m.recoverPanic()
		defer close(d.stopped)
		for c.DHCP != nil && ctx.Err() == nil {
			if err := d.round(ctx); err != nil {
				m.note("DHCP server: %v", err)
			}
			pause(ctx, dhcpPause)
		}
	}()
	return d
}

// close ends serving.
func (d *dhcp) close() {
	d.cancel()
	<-d.stopped
}

// allow lends the snapshot's addresses from now on.
func (d *dhcp) allow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.c.DHCP != nil && !d.allowed {
		d.m.logf("DHCP: %d leases of the snapshot are served from now on", len(d.c.DHCP.Leases))
	}
	d.allowed = true
	if d.server != nil {
		d.server.Allow()
	}
}

// round serves until the ports are others.
func (d *dhcp) round(ctx context.Context) error {
	ports := d.ports()
	if len(ports) == 0 {
		pause(ctx, portsLook)
		return nil
	}
	server, err := dhcpserve.New(dhcpserve.Config{DHCP: d.c.DHCP, Ports: ports, Fleet: fleetAddresses(d.c), Logf: d.m.note})
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.server = server
	if d.allowed {
		server.Allow()
	}
	d.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer d.m.recoverPanic()
		for ctx.Err() == nil && reflect.DeepEqual(ports, d.ports()) {
			pause(ctx, portsLook)
		}
		cancel()
	}()
	return server.Serve(ctx)
}

// ports are those that have their addresses.
func (d *dhcp) ports() []dhcpserve.Port {
	var all []dhcpserve.Port
	for _, p := range d.c.Interfaces {
		lease := d.net.leaseOf(p.Name)
		if lease == nil {
			continue
		}
		prefixes, err := parsePrefixes(p.Addresses)
		if err != nil {
			continue // the slice was validated
		}
		link := lease.Link
		link.Carrier = false // whether there is a cable now decides nothing
		all = append(all, dhcpserve.Port{Name: p.Name, Link: link, Addresses: prefixes, Gateway: lease.Router})
	}
	return all
}

// fleetAddresses are where the members are that a slice names.
func fleetAddresses(c *carried) []netip.AddrPort {
	var all []netip.AddrPort
	for _, m := range c.Fleet.Members {
		if u, err := url.Parse(m.URL); err == nil {
			if a, err := netip.ParseAddrPort(u.Host); err == nil {
				all = append(all, a)
			}
		}
	}
	return all
}

package dhcpserve

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// How long leases last. That of a device outlives a repair of the DHCP device;
// firmware needs its own for a download.
const (
	leaseTime      = 24 * time.Hour
	bootTime       = 2 * time.Minute
	quarantineTime = time.Minute
)

// maxRoutes bounds the routes of a quarantine lease.
const maxRoutes = 16

type mac [6]byte

func (m mac) String() string { return net.HardwareAddr(m[:]).String() }

// lease is what the snapshot says of one MAC address.
type lease struct {
	device, port string
	v4, v6       netip.Prefix // may be zero
	gateway      netip.Addr   // IPv4; may be zero
	mtu          int
	hostname     string
}

// port is a Port, made ready.
type port struct {
	name   string
	v4     netip.Prefix // zero: no IPv4 here
	routes []route      // of quarantine leases; empty: none on this port
}

// route leads to a single host (RFC 3442); by is 0.0.0.0 on the link.
type route struct{ to, by netip.Addr }

// Core is the server without sockets. Its methods may be called at the same
// time.
type Core struct {
	leases   map[mac]*lease
	owners   map[netip.Addr]mac // of the addresses in leases
	networks map[netip.Prefix]bool
	boot     *snapshot.NetBoot
	ports    []port
	duid     dhcpv6.DUID
	logf     func(string, ...any)

	mu      sync.Mutex
	allowed bool
	pool    *pool // nil: no quarantine
	count   Counters
	said    time.Time
	unread  time.Time           // when a malformed message was last in the log
	others  map[netip.Addr]bool // servers that were named in the log
	relays  map[netip.Addr]bool // relay agents that were
}

// NewCore reads the tables.
func NewCore(cfg Config) (*Core, error) {
	if cfg.DHCP == nil {
		return nil, errors.New("the slice has nothing to serve by DHCP")
	}
	if len(cfg.Ports) == 0 {
		return nil, errors.New("no port to serve DHCP on: the slice's interfaces have no addresses")
	}
	c := &Core{
		leases: make(map[mac]*lease, len(cfg.DHCP.Leases)), owners: make(map[netip.Addr]mac, len(cfg.DHCP.Leases)),
		networks: map[netip.Prefix]bool{}, boot: cfg.DHCP.Boot, logf: cfg.Logf, others: map[netip.Addr]bool{}, relays: map[netip.Addr]bool{},
		duid: &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: cfg.Ports[0].Link.MAC},
	}
	for _, l := range cfg.DHCP.Leases {
		if err := c.addLease(l); err != nil {
			return nil, fmt.Errorf("lease of %s %s: %w", l.Device, l.Interface, err)
		}
	}
	if q := cfg.DHCP.Quarantine; q != nil {
		var err error
		if c.pool, err = newPool(q.First, q.Last); err != nil {
			return nil, err
		}
	}
	for _, p := range cfg.Ports {
		c.addPort(p, cfg.Fleet)
	}
	return c, nil
}

func (c *Core) addLease(l snapshot.Lease) error {
	hw, err := net.ParseMAC(l.MAC)
	if err != nil || len(hw) != len(mac{}) {
		return fmt.Errorf("%q is no MAC address", l.MAC)
	}
	key := mac(hw)
	if old := c.leases[key]; old != nil {
		return fmt.Errorf("%s belongs to %s %s too", key, old.device, old.port)
	}
	entry := &lease{device: l.Device, port: l.Interface, mtu: l.MTU, hostname: l.Hostname}
	for _, text := range l.Addresses {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("address %q: %w", text, err)
		}
		if owner, ok := c.owners[p.Addr()]; ok {
			return fmt.Errorf("%s belongs to %s too", p.Addr(), owner)
		}
		c.owners[p.Addr()] = key
		c.networks[p.Masked()] = true
		switch {
		case p.Addr().Is4() && !entry.v4.IsValid():
			entry.v4 = p
		case p.Addr().Is6() && !entry.v6.IsValid():
			entry.v6 = p
		}
	}
	if l.Gateway != "" {
		g, err := netip.ParseAddr(l.Gateway)
		if err != nil {
			return fmt.Errorf("gateway %q: %w", l.Gateway, err)
		}
		if g.Is4() { // IPv6 has router advertisements
			entry.gateway = g
		}
	}
	c.leases[key] = entry
	return nil
}

func (c *Core) addPort(p Port, fleet []netip.AddrPort) {
	out := port{name: p.Name}
	for _, a := range p.Addresses {
		if a.Addr().Is4() && !out.v4.IsValid() {
			out.v4 = a
			c.networks[a.Masked()] = true
		}
	}
	if out.v4.IsValid() {
		out.routes = quarantineRoutes(out.v4, p.Gateway, fleet)
	}
	c.ports = append(c.ports, out)
}

// quarantineRoutes leads to the key servers and nowhere else.
func quarantineRoutes(own netip.Prefix, gateway netip.Addr, fleet []netip.AddrPort) []route {
	onLink := netip.IPv4Unspecified()
	var direct, far []route
	for _, f := range fleet {
		a := f.Addr().Unmap()
		switch {
		case !a.Is4() || len(direct)+len(far) >= maxRoutes-1:
		case slices.ContainsFunc(append(direct, far...), func(r route) bool { return r.to == a }):
		case own.Contains(a):
			direct = append(direct, route{a, onLink})
		case gateway.Is4():
			far = append(far, route{a, gateway})
		}
	}
	if len(far) > 0 && !slices.Contains(direct, route{gateway, onLink}) {
		direct = append(direct, route{gateway, onLink})
	}
	return append(direct, far...)
}

// Allow lets the leases of the snapshot be served from now on. It may be called
// again.
func (c *Core) Allow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.allowed = true
}

// Counters says what has been answered and refused so far.
func (c *Core) Counters() Counters {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

func (c *Core) unsent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count.Unsent++
}

// serves6 says whether any lease has an IPv6 address.
func (c *Core) serves6() bool {
	for _, l := range c.leases {
		if l.v6.IsValid() {
			return true
		}
	}
	return false
}

// say logs, once a second: a flood must not make the console the bottleneck.
// False: it was too early.
func (c *Core) say(now time.Time, format string, args ...any) bool {
	if c.logf == nil || now.Sub(c.said) < time.Second {
		return false
	}
	c.said = now
	c.logf(format, args...)
	return true
}

// malformed counts a message that cannot be read and says so, once a minute: a
// flood of them must not take the log from what an operator can mend.
func (c *Core) malformed(now time.Time, i int, err error) {
	c.count.Malformed++
	if i < len(c.ports) && now.Sub(c.unread) >= time.Minute &&
		c.say(now, "a DHCP message on %s cannot be read (%d so far): %v", c.ports[i].name, c.count.Malformed, err) {
		c.unread = now
	}
}

// Answer is a message to send.
type Answer struct {
	Payload []byte         // of UDP
	From    netip.Addr     // IPv4: the source, this machine's own; IPv6: zero
	To      netip.AddrPort // IPv6: link-local without zone, or a relay agent's
	// MAC, if set, is where the frame goes: the address of To is not the
	// client's yet, so that nobody answers for it.
	MAC net.HardwareAddr
}

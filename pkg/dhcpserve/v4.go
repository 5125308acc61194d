package dhcpserve

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// maxMessage bounds what is read, in octets: an Ethernet frame's.
const maxMessage = 1500

// query is a client's message, reduced to what is used of it.
type query struct {
	*dhcpv4.DHCPv4
	mac      mac
	kind     dhcpv4.MessageType
	server   netip.Addr // option 54; may be zero
	wanted   netip.Addr // option 50, or ciaddr; may be zero
	relay    netip.Addr // giaddr; may be zero
	firmware bool       // wants a boot program
	http     bool       // by HTTP: UEFI
	ipxe     bool
}

// grant is what a client may have.
type grant struct {
	address  netip.Prefix
	gateway  netip.Addr
	mtu      int
	hostname string
	time     time.Duration
	file     string
	routes   []route
	boot     bool // boot-only
	strange  bool // quarantine
}

// Answer4 answers the UDP payload of a message to port 67 that came in on port
// number i of Config.Ports; nil is silence.
func (c *Core) Answer4(now time.Time, i int, msg []byte) *Answer {
	q, err := parse4(msg)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count.Received++
	switch {
	case err != nil:
		c.malformed(now, i, err)
		return nil
	case q == nil || i >= len(c.ports) || !c.ports[i].v4.IsValid():
		c.count.Ignored++
		return nil
	case !c.relayIsOurs(q.relay):
		c.count.Ignored++
		c.strangeRelay(now, q)
		return nil
	}
	p := &c.ports[i]
	switch q.kind {
	case dhcpv4.MessageTypeDiscover:
		return c.discover(now, p, q)
	case dhcpv4.MessageTypeRequest:
		return c.request(now, p, q)
	case dhcpv4.MessageTypeDecline, dhcpv4.MessageTypeRelease:
		c.giveBack(now, p, q)
	default:
		c.count.Ignored++
	}
	return nil
}

// parse4 reads a message (RFC 2131, 2). No error and no query: it is not for a
// server like this one.
func parse4(msg []byte) (*query, error) {
	m, err := read4(msg)
	if err != nil {
		return nil, err
	}
	if m.OpCode != dhcpv4.OpcodeBootRequest || m.HWType != iana.HWTypeEthernet || len(m.ClientHWAddr) != len(mac{}) ||
		m.ClientHWAddr[0]&1 != 0 || kind4(m) == dhcpv4.MessageTypeNone {
		return nil, nil
	}
	q := &query{DHCPv4: m, mac: mac(m.ClientHWAddr), kind: kind4(m), server: option4(m, dhcpv4.OptionServerIdentifier),
		wanted: option4(m, dhcpv4.OptionRequestedIPAddress), relay: valid4(m.GatewayIPAddr)}
	if a := valid4(m.ClientIPAddr); a.IsValid() && !q.wanted.IsValid() {
		q.wanted = a
	}
	// RFC 2132, 9.13; PXE 2.1, 2.2; UEFI 2.10, 24.7; RFC 3004, which iPXE does
	// not follow: it sends its name without a length.
	class := m.ClassIdentifier()
	q.ipxe = strings.Contains(string(m.Options.Get(dhcpv4.OptionUserClassInformation)), "iPXE")
	q.http = strings.HasPrefix(class, "HTTPClient")
	q.firmware = q.ipxe || q.http || strings.HasPrefix(class, "PXEClient")
	return q, nil
}

// kind4 is the message's type; the first of those that were sent twice.
func kind4(m *dhcpv4.DHCPv4) dhcpv4.MessageType {
	if b := m.Options.Get(dhcpv4.OptionDHCPMessageType); len(b) > 0 {
		return dhcpv4.MessageType(b[0])
	}
	return dhcpv4.MessageTypeNone
}

// option4 is an option's address; the first of those that were sent twice.
func option4(m *dhcpv4.DHCPv4, code dhcpv4.OptionCode) netip.Addr {
	if b := m.Options.Get(code); len(b) >= 4 {
		return valid4(b[:4])
	}
	return netip.Addr{}
}

// valid4 is the zero Addr for 0.0.0.0.
func valid4(b []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(b)
	if a = a.Unmap(); !ok || !a.Is4() || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// relayIsOurs keeps this server from sending to whatever address somebody
// writes into a message.
func (c *Core) relayIsOurs(relay netip.Addr) bool {
	if !relay.IsValid() {
		return true
	}
	for p := range c.networks {
		if p.Contains(relay) {
			return true
		}
	}
	return false
}

// strangeRelay names a relay agent that is not answered: in fabrics they like to
// write an address of their own, such as that of a loopback.
func (c *Core) strangeRelay(now time.Time, q *query) {
	if c.relays[q.relay] || len(c.relays) >= 64 {
		return
	}
	if c.say(now, "the relay agent %s, which %s asks by, is in no network of the snapshot's leases or of a port: it is not answered", q.relay, q.mac) {
		c.relays[q.relay] = true
	}
}

// granted is what a client may have now; nil: nothing.
func (c *Core) granted(now time.Time, p *port, q *query) *grant {
	l := c.leases[q.mac]
	switch {
	case l == nil:
		return c.quarantine(now, p, q)
	case !l.v4.IsValid():
		c.count.Unknown++
		return nil
	case c.allowed:
		return &grant{address: l.v4, gateway: l.gateway, mtu: l.mtu, hostname: l.hostname, time: leaseTime, file: c.bootFile(q)}
	}
	if file := c.bootFile(q); file != "" {
		return &grant{address: l.v4, time: bootTime, file: file, boot: true}
	}
	c.count.Waiting++
	return nil
}

// quarantine is what a stranger may have: for firmware, the network of the port
// too, because it has no use for routes and must reach the boot server.
func (c *Core) quarantine(now time.Time, p *port, q *query) *grant {
	if c.pool == nil || len(p.routes) == 0 || q.relay.IsValid() {
		c.count.Unknown++
		return nil
	}
	if c.pool.held(q.mac, now) < 0 && !c.pool.answer.take(now) {
		c.count.PoolLimited++
		return nil
	}
	i := c.pool.candidate(q.mac, now)
	if i < 0 {
		c.count.PoolFull++
		c.say(now, "all %d quarantine addresses are taken; %s has to wait", len(c.pool.slots), q.mac)
		return nil
	}
	a := c.pool.address(i)
	g := &grant{address: netip.PrefixFrom(a, 32), time: quarantineTime, routes: p.routes, file: c.bootFile(q), strange: true}
	if g.file != "" && p.v4.Contains(a) {
		g.address = netip.PrefixFrom(a, p.v4.Bits())
	}
	return g
}

// bootFile is what firmware is to load; "" for other clients and for firmware
// that cannot load what there is.
func (c *Core) bootFile(q *query) string {
	if !q.firmware || c.boot == nil {
		return ""
	}
	if q.ipxe {
		if c.boot.Script != "" {
			return c.boot.Script
		}
		return c.boot.File
	}
	if isURL := strings.Contains(c.boot.File, "://"); isURL != q.http {
		return ""
	}
	return c.boot.File
}

func (c *Core) discover(now time.Time, p *port, q *query) *Answer {
	g := c.granted(now, p, q)
	if g == nil {
		return nil
	}
	// RFC 4039, 3.1. Not for strangers: an offer takes no address, an ACK does.
	if q.Options.Has(dhcpv4.OptionRapidCommit) && !g.strange {
		return c.reply(p, q, g, dhcpv4.MessageTypeAck, true)
	}
	return c.reply(p, q, g, dhcpv4.MessageTypeOffer, false)
}

// request follows RFC 2131, 4.3.2.
func (c *Core) request(now time.Time, p *port, q *query) *Answer {
	if q.server.IsValid() && q.server != p.v4.Addr() {
		c.otherServer(now, q)
		return nil
	}
	if c.leases[q.mac] == nil && !q.server.IsValid() && !c.knows(now, q) {
		// A server that has no record of a client must be silent; one whose
		// addresses are used by a stranger must not.
		if _, taken := c.owners[q.wanted]; taken {
			return c.refuse(p, q)
		}
		c.count.Unknown++
		return nil
	}
	g := c.granted(now, p, q)
	if g == nil {
		return nil
	}
	if q.wanted != g.address.Addr() {
		return c.refuse(p, q)
	}
	if g.strange && !c.pool.take(c.pool.index(q.wanted), q.mac, now) {
		c.count.PoolLimited++
		return nil
	}
	return c.reply(p, q, g, dhcpv4.MessageTypeAck, false)
}

// knows says whether a stranger has a quarantine lease, or asks for a
// quarantine address.
func (c *Core) knows(now time.Time, q *query) bool {
	return c.pool != nil && (c.pool.held(q.mac, now) >= 0 || c.pool.index(q.wanted) >= 0)
}

// otherServer names a server that a device of ours believes: a second DHCP
// device, or somebody who should not be there.
func (c *Core) otherServer(now time.Time, q *query) {
	c.count.Ignored++
	l := c.leases[q.mac]
	own := func(p port) bool { return p.v4.Addr() == q.server } // another port on this segment
	if l == nil || slices.ContainsFunc(c.ports, own) {
		return
	}
	c.count.OtherServer++
	if c.others[q.server] || len(c.others) >= 64 {
		return
	}
	if c.say(now, "%s %s asks the DHCP server %s for its lease", l.device, l.port, q.server) {
		c.others[q.server] = true
	}
}

func (c *Core) giveBack(now time.Time, p *port, q *query) {
	if q.server.IsValid() && q.server != p.v4.Addr() {
		c.count.Ignored++
		return
	}
	decline := q.kind == dhcpv4.MessageTypeDecline
	if decline {
		c.count.Declined++
	}
	l := c.leases[q.mac]
	switch {
	case l != nil && decline:
		c.say(now, "%s %s says that somebody else uses its address %s", l.device, l.port, l.v4.Addr())
	case l == nil && c.pool != nil && decline:
		c.pool.ban(q.mac, now)
	case l == nil && c.pool != nil:
		c.pool.free(q.mac)
	}
}

package dhcpserve

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

const (
	// maxRelays bounds the relay agents a message has come through (RFC 8415,
	// 7.6, HOP_COUNT_LIMIT).
	maxRelays = 8
	// firmwareVendor is Intel's enterprise number, which UEFI's vendor class
	// carries (UEFI 2.10, 24.3.1).
	firmwareVendor = 343
	// maxIdentities bounds the IA_NA options of a message: more are not answered.
	maxIdentities = 4
)

// query6 is a client's message, reduced to what is used of it.
type query6 struct {
	*dhcpv6.Message
	relay  *dhcpv6.RelayMessage // the outer one; nil: none
	lease  *lease               // nil: unknown
	ianas  []*dhcpv6.OptIANA
	server dhcpv6.DUID // may be nil
	http   bool
	file   string // what its firmware is to load; "": no firmware, or nothing
}

// grant6 is what a client may have.
type grant6 struct {
	address netip.Addr
	time    time.Duration
	file    string
	boot    bool // boot-only
}

// Answer6 answers the UDP payload of a message to port 547 that came in on port
// number i of Config.Ports, from a client's link-local address or a relay
// agent's; nil is silence.
func (c *Core) Answer6(now time.Time, i int, from netip.Addr, msg []byte) *Answer {
	q, err := c.parse6(from, msg)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count.Received++
	switch {
	case err != nil:
		c.count.Malformed++
		return nil
	case q == nil || i >= len(c.ports):
		c.count.Ignored++
		return nil
	}
	reply := c.decide6(now, q)
	if reply == nil {
		return nil
	}
	a := &Answer{To: netip.AddrPortFrom(from.WithZone(""), dhcpv6.DefaultClientPort)}
	if q.relay == nil {
		a.Payload = reply.ToBytes()
		return a
	}
	out, err := dhcpv6.NewRelayReplFromRelayForw(q.relay, reply)
	if err != nil {
		c.count.Malformed++
		return nil
	}
	a.Payload, a.To = out.ToBytes(), netip.AddrPortFrom(from.WithZone(""), dhcpv6.DefaultServerPort)
	return a
}

// parse6 reads a message and finds out whose it is. No error and no query: it
// is not for a server like this one.
func (c *Core) parse6(from netip.Addr, msg []byte) (*query6, error) {
	if len(msg) > maxMessage {
		msg = msg[:maxMessage]
	}
	m, err := dhcpv6.FromBytes(msg)
	if err != nil {
		return nil, err
	}
	q := &query6{}
	var told mac // by the relay agent next to the client
	peer := from
	for depth := 0; ; depth++ {
		r, ok := m.(*dhcpv6.RelayMessage)
		if !ok {
			break
		}
		if q.relay == nil {
			q.relay = r
		}
		if depth >= maxRelays || r.MessageType != dhcpv6.MessageTypeRelayForward {
			return nil, nil
		}
		told, _ = ethernet(r.Options.ClientLinkLayerAddress())
		if peer, ok = netip.AddrFromSlice(r.PeerAddr); !ok {
			return nil, nil
		}
		m = r.Options.RelayMessage()
	}
	inner, ok := m.(*dhcpv6.Message)
	if !ok || inner.Options.ClientID() == nil {
		return nil, nil
	}
	q.Message, q.server, q.ianas = inner, inner.Options.ServerID(), inner.Options.IANA()
	q.ianas = q.ianas[:min(len(q.ianas), maxIdentities)]
	q.lease = c.whose(told, peer, inner.Options.ClientID())
	c.firmware6(q)
	return q, nil
}

// whose finds a client by its MAC address: the one that a relay agent saw (RFC
// 6939), that of its link-local address (RFC 4291, appendix A), or that of its
// DUID, which may be of another port of the same machine and so comes last.
func (c *Core) whose(told mac, peer netip.Addr, duid dhcpv6.DUID) *lease {
	if l := c.leases[told]; l != nil {
		return l
	}
	if l := c.leases[fromEUI64(peer)]; l != nil {
		return l
	}
	var named mac
	switch d := duid.(type) {
	case *dhcpv6.DUIDLL:
		named, _ = ethernet(d.HWType, d.LinkLayerAddr)
	case *dhcpv6.DUIDLLT:
		named, _ = ethernet(d.HWType, d.LinkLayerAddr)
	}
	return c.leases[named]
}

func ethernet(kind iana.HWType, hw net.HardwareAddr) (mac, bool) {
	if kind != iana.HWTypeEthernet || len(hw) != len(mac{}) {
		return mac{}, false
	}
	return mac(hw), true
}

// fromEUI64 is the MAC address in a link-local address; zero if there is none.
func fromEUI64(a netip.Addr) mac {
	b := a.As16()
	if !a.Is6() || !a.IsLinkLocalUnicast() || b[11] != 0xff || b[12] != 0xfe {
		return mac{}
	}
	return mac{b[8] ^ 2, b[9], b[10], b[13], b[14], b[15]}
}

// firmware6 finds out whether firmware asks, and what it is to load (RFC 5970;
// UEFI 2.10, 24.3 and 24.7).
func (c *Core) firmware6(q *query6) {
	if c.boot == nil {
		return
	}
	ipxe, pxe := false, false
	for _, u := range q.Options.UserClasses() {
		ipxe = ipxe || bytes.Contains(u, []byte("iPXE"))
	}
	for _, v := range q.Options.VendorClass(firmwareVendor) {
		q.http = q.http || bytes.HasPrefix(v, []byte("HTTPClient"))
		pxe = pxe || bytes.HasPrefix(v, []byte("PXEClient"))
	}
	file := c.boot.File
	if ipxe && c.boot.Script != "" {
		file = c.boot.Script
	}
	isURL := strings.Contains(file, "://")
	switch {
	case !ipxe && !pxe && !q.http, !ipxe && isURL != q.http:
	case isURL:
		q.file = file
	default:
		if s, err := netip.ParseAddr(c.boot.Server); err == nil && s.Is6() {
			q.file = "tftp://[" + s.String() + "]/" + strings.TrimPrefix(file, "/")
		}
	}
}

// granted6 is what a client may have now; nil: nothing.
func (c *Core) granted6(q *query6) *grant6 {
	switch {
	case q.lease == nil || !q.lease.v6.IsValid():
		c.count.Unknown++
		return nil
	case c.allowed:
		return &grant6{address: q.lease.v6.Addr(), time: leaseTime, file: q.file}
	case q.file != "":
		return &grant6{address: q.lease.v6.Addr(), time: bootTime, file: q.file, boot: true}
	}
	c.count.Waiting++
	return nil
}

// decide6 follows RFC 8415, 18.3 (and 16 for which identifiers must be there).
func (c *Core) decide6(now time.Time, q *query6) *dhcpv6.Message {
	mine := q.server != nil && q.server.Equal(c.duid)
	switch q.MessageType {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeRebind, dhcpv6.MessageTypeConfirm:
		if q.server != nil {
			c.count.Ignored++
			return nil
		}
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		if !mine {
			c.count.Ignored++
			return nil
		}
	default:
		c.count.Ignored++
		return nil
	}
	if q.MessageType == dhcpv6.MessageTypeRelease || q.MessageType == dhcpv6.MessageTypeDecline {
		if q.MessageType == dhcpv6.MessageTypeDecline {
			c.count.Declined++
			if q.lease != nil {
				c.say(now, "%s %s says that somebody else uses its address %s", q.lease.device, q.lease.port, q.lease.v6.Addr())
			}
		}
		return c.message6(q, dhcpv6.MessageTypeReply, &dhcpv6.OptStatusCode{StatusCode: iana.StatusSuccess})
	}
	g := c.granted6(q)
	if g == nil || len(q.ianas) == 0 {
		return nil
	}
	if q.MessageType == dhcpv6.MessageTypeConfirm {
		return c.confirm(q, g)
	}
	return c.give(q, g)
}

// confirm says whether a client that has moved still has the right addresses.
func (c *Core) confirm(q *query6, g *grant6) *dhcpv6.Message {
	status := &dhcpv6.OptStatusCode{StatusCode: iana.StatusSuccess}
	for _, ia := range q.ianas {
		for _, a := range ia.Options.Addresses() {
			if !a.IPv6Addr.Equal(g.address.AsSlice()) {
				status.StatusCode = iana.StatusNotOnLink
				c.count.Naks++
				return c.message6(q, dhcpv6.MessageTypeReply, status)
			}
		}
	}
	c.count.Acks++
	return c.message6(q, dhcpv6.MessageTypeReply, status)
}

// give makes an ADVERTISE or a REPLY with the address.
func (c *Core) give(q *query6, g *grant6) *dhcpv6.Message {
	kind := dhcpv6.MessageTypeReply
	var options []dhcpv6.Option
	rapid := q.Options.GetOne(dhcpv6.OptionRapidCommit) != nil
	switch {
	case q.MessageType == dhcpv6.MessageTypeSolicit && rapid:
		options = append(options, &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
	case q.MessageType == dhcpv6.MessageTypeSolicit:
		kind = dhcpv6.MessageTypeAdvertise
		// The client need not wait for others (RFC 8415, 18.2.1).
		options = append(options, dhcpv6.OptPreference(255))
	}
	for i, ia := range q.ianas {
		options = append(options, identity(ia, g, i == 0))
	}
	if g.file != "" {
		options = append(options, dhcpv6.OptBootFileURL(g.file))
		if q.http {
			options = append(options, &dhcpv6.OptVendorClass{EnterpriseNumber: firmwareVendor, Data: [][]byte{[]byte("HTTPClient")}})
		}
	}
	if kind == dhcpv6.MessageTypeAdvertise {
		c.count.Offers++
	} else {
		c.count.Acks++
	}
	if g.boot {
		c.count.Boot++
	}
	return c.message6(q, kind, options...)
}

// identity answers one IA_NA: the first gets the address, and what else the
// client believes to have ends (RFC 8415, 18.3.4).
func identity(ia *dhcpv6.OptIANA, g *grant6, first bool) *dhcpv6.OptIANA {
	out := &dhcpv6.OptIANA{IaId: ia.IaId}
	if !first {
		out.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail, StatusMessage: "a port has one address"})
		return out
	}
	out.T1, out.T2 = g.time/2, g.time*4/5
	out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: g.address.AsSlice(), PreferredLifetime: g.time, ValidLifetime: g.time})
	for _, a := range ia.Options.Addresses() {
		if !a.IPv6Addr.Equal(g.address.AsSlice()) {
			out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.IPv6Addr})
		}
	}
	return out
}

func (c *Core) message6(q *query6, kind dhcpv6.MessageType, options ...dhcpv6.Option) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: kind, TransactionID: q.TransactionID}
	m.AddOption(dhcpv6.OptClientID(q.Options.ClientID()))
	m.AddOption(dhcpv6.OptServerID(c.duid))
	for _, o := range options {
		m.AddOption(o)
	}
	return m
}

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
	// maxIdentities bounds the identity associations of each kind in a message:
	// more are not answered.
	maxIdentities = 4
)

// query6 is a client's message, reduced to what is used of it.
type query6 struct {
	*dhcpv6.Message
	relay  *dhcpv6.RelayMessage // the outer one; nil: none
	lease  *lease               // nil: unknown
	ianas  []*dhcpv6.OptIANA
	iatas  []*dhcpv6.OptIATA
	iapds  []*dhcpv6.OptIAPD
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
// agent's, to an address of this server's or a group's; nil is silence.
func (c *Core) Answer6(now time.Time, i int, from, to netip.Addr, msg []byte) *Answer {
	q, err := c.parse6(from, msg)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count.Received++
	switch {
	case err != nil:
		c.malformed(now, i, err)
		return nil
	case q == nil || i >= len(c.ports):
		c.count.Ignored++
		return nil
	}
	var reply *dhcpv6.Message
	if q.relay == nil && !to.IsMulticast() { // a relay agent may know this server's address
		reply = c.unicast6(q)
	} else {
		reply = c.decide6(now, q)
	}
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
	m, err := read6(msg)
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
	q.Message, q.server = inner, inner.Options.ServerID()
	q.ianas, q.iatas, q.iapds = few(inner.Options.IANA()), few(inner.Options.IATA()), few(inner.Options.IAPD())
	q.lease = c.whose(told, peer, inner.Options.ClientID())
	c.firmware6(q)
	return q, nil
}

func few[T any](list []T) []T { return list[:min(len(list), maxIdentities)] }

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

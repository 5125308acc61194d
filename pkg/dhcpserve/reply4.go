package dhcpserve

import (
	"net"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Ports of RFC 2131, 4.1.
const (
	serverPort = 67
	clientPort = 68
)

// reply makes an OFFER or ACK (RFC 2131, 4.3.1, table 3).
func (c *Core) reply(p *port, q *query, g *grant, kind dhcpv4.MessageType, rapid bool) *Answer {
	switch kind {
	case dhcpv4.MessageTypeOffer:
		c.count.Offers++
	default:
		c.count.Acks++
	}
	if g.boot {
		c.count.Boot++
	}
	if g.strange {
		c.count.Strange++
	}
	m := answerTo(p, q, kind)
	m.YourIPAddr = g.address.Addr().AsSlice()
	if kind == dhcpv4.MessageTypeAck && !rapid {
		m.ClientIPAddr = q.ClientIPAddr
	}
	m.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(g.address.Bits(), 32)))
	m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(g.time))
	if rapid {
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionRapidCommit, nil))
	}
	if g.gateway.IsValid() {
		m.UpdateOption(dhcpv4.OptRouter(g.gateway.AsSlice()))
	}
	if g.mtu != 0 && q.IsOptionRequested(dhcpv4.OptionInterfaceMTU) {
		m.UpdateOption(dhcpv4.Option{Code: dhcpv4.OptionInterfaceMTU, Value: dhcpv4.Uint16(g.mtu)})
	}
	if g.hostname != "" && q.IsOptionRequested(dhcpv4.OptionHostName) {
		m.UpdateOption(dhcpv4.OptHostName(g.hostname))
	}
	if len(g.routes) > 0 {
		m.UpdateOption(dhcpv4.OptClasslessStaticRoute(routes4(g.routes)...))
	}
	if g.file != "" {
		c.bootOptions(m, q, g.file)
	}
	return c.send(p, q, m)
}

func routes4(list []route) []*dhcpv4.Route {
	out := make([]*dhcpv4.Route, len(list))
	for i, r := range list {
		out[i] = &dhcpv4.Route{Dest: &net.IPNet{IP: r.to.AsSlice(), Mask: net.CIDRMask(32, 32)}, Router: r.by.AsSlice()}
	}
	return out
}

// bootOptions tells firmware what to load: in the header's fields, and in the
// options of RFC 2132, 9.4 and 9.5 where they are asked for.
func (c *Core) bootOptions(m *dhcpv4.DHCPv4, q *query, file string) {
	m.BootFileName = file
	if q.IsOptionRequested(dhcpv4.OptionBootfileName) {
		m.UpdateOption(dhcpv4.OptBootFileName(file))
	}
	if q.http {
		// Without it UEFI takes the offer for one without a boot program.
		m.UpdateOption(dhcpv4.OptClassIdentifier("HTTPClient"))
	}
	if strings.Contains(file, "://") {
		return
	}
	server, err := netip.ParseAddr(c.boot.Server)
	if err != nil || !server.Is4() {
		return
	}
	m.ServerIPAddr = server.AsSlice()
	if q.IsOptionRequested(dhcpv4.OptionTFTPServerName) {
		m.UpdateOption(dhcpv4.OptTFTPServerName(server.String()))
	}
}

// refuse makes a NAK.
func (c *Core) refuse(p *port, q *query) *Answer {
	c.count.Naks++
	m := answerTo(p, q, dhcpv4.MessageTypeNak)
	m.SetBroadcast() // RFC 2131, 4.1: the client's address may be wrong
	return c.send(p, q, m)
}

func answerTo(p *port, q *query, kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: q.HWType, ClientHWAddr: q.ClientHWAddr, TransactionID: q.TransactionID,
		Flags: q.Flags, GatewayIPAddr: q.GatewayIPAddr, Options: dhcpv4.Options{},
	}
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	m.UpdateOption(dhcpv4.OptServerIdentifier(p.v4.Addr().AsSlice()))
	// RFC 6842, 3 and RFC 3046, 2.2: to be sent back as they came.
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionClientIdentifier, dhcpv4.OptionRelayAgentInformation} {
		if v := q.Options.Get(code); len(v) > 0 {
			m.UpdateOption(dhcpv4.OptGeneric(code, v))
		}
	}
	return m
}

// send addresses an answer (RFC 2131, 4.1).
func (c *Core) send(p *port, q *query, m *dhcpv4.DHCPv4) *Answer {
	a := &Answer{Payload: m.ToBytes(), From: p.v4.Addr()}
	given := valid4(m.YourIPAddr)
	switch {
	case q.relay.IsValid():
		a.To = netip.AddrPortFrom(q.relay, serverPort)
	case given.IsValid() && given == valid4(q.ClientIPAddr):
		a.To = netip.AddrPortFrom(given, clientPort)
		// Whether it answers ARP already is its own affair; behind a router
		// (a renewal) that one finds it.
		if p.v4.Contains(given) {
			a.MAC = q.ClientHWAddr
		}
	case m.IsBroadcast():
		a.To = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), clientPort)
		a.MAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	default:
		a.To, a.MAC = netip.AddrPortFrom(given, clientPort), q.ClientHWAddr
	}
	return a
}

package netconf

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Sizes and ports of RFC 791, RFC 768 and RFC 2131.
const (
	ipv4Header = 20
	udpHeader  = 8
	serverPort = 67
	clientPort = 68
	protoUDP   = 17
	maxFrame   = 1500
)

// minLease is the shortest time between two leases of a port.
const minLease = 2 * time.Minute

// Where a client without an address sends from and to (RFC 2131, 4.1).
func nowhere() netip.AddrPort { return netip.AddrPortFrom(netip.IPv4Unspecified(), clientPort) }
func everybody() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), serverPort)
}

var errNotOurs = errors.New("not a DHCP answer")

// Datagram4 wraps a payload into UDP and IPv4 (RFC 768, RFC 791), for packet
// sockets: DHCP talks from and to addresses that the kernel does not know yet.
func Datagram4(from, to netip.AddrPort, payload []byte) []byte {
	b := make([]byte, ipv4Header+udpHeader+len(payload))
	b[0] = 4<<4 | ipv4Header/4
	b[1] = 0x10 // low delay, as DHCP clients do
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[8] = 64 // time to live
	b[9] = protoUDP
	src, dst := from.Addr().As4(), to.Addr().As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], checksum(b[:ipv4Header]))
	u := b[ipv4Header:]
	binary.BigEndian.PutUint16(u[0:], from.Port())
	binary.BigEndian.PutUint16(u[2:], to.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	copy(u[udpHeader:], payload)
	// The pseudo header of RFC 768: addresses, protocol, length.
	pseudo := append(append(append([]byte{}, b[12:20]...), 0, protoUDP), u[4:6]...)
	sum := checksum(append(pseudo, u...))
	if sum == 0 {
		sum = 0xffff // 0 would say: no checksum
	}
	binary.BigEndian.PutUint16(u[6:], sum)
	return b
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	if len(b)%2 == 1 {
		sum = uint32(b[len(b)-1]) << 8
	}
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// unframe returns the DHCP message in an IPv4 packet. Neither checksum is
// verified: offloading NICs leave them unfinished on a local wire.
func unframe(b []byte) ([]byte, error) {
	if len(b) < ipv4Header || b[0]>>4 != 4 {
		return nil, errNotOurs
	}
	ihl := int(b[0]&15) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	if ihl < ipv4Header || total > len(b) || total < ihl+udpHeader || b[9] != protoUDP {
		return nil, errNotOurs
	}
	if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 { // a fragment
		return nil, errNotOurs
	}
	u := b[ihl:total]
	size := int(binary.BigEndian.Uint16(u[4:]))
	if binary.BigEndian.Uint16(u[0:]) != serverPort || binary.BigEndian.Uint16(u[2:]) != clientPort ||
		size < udpHeader || size > len(u) {
		return nil, errNotOurs
	}
	return u[udpHeader:size], nil
}

// answer is a server's message, reduced to what is used of it.
type answer struct {
	kind   dhcpv4.MessageType // offer, ack or nak
	lease  Lease
	server netip.Addr // option 54
	// Of quarantine leases only:
	routes []Route       // option 121
	time   time.Duration // option 51, as it is
}

// parseAnswer checks that a packet answers the transaction of this port, and
// takes out the few options that are used (RFC 2131, 4.3.1; RFC 2132).
func parseAnswer(b []byte, mac net.HardwareAddr, xid dhcpv4.TransactionID) (*answer, error) {
	payload, err := unframe(b)
	if err != nil {
		return nil, err
	}
	m, err := dhcpv4.FromBytes(payload)
	if err != nil {
		return nil, err
	}
	if m.OpCode != dhcpv4.OpcodeBootReply || m.TransactionID != xid || m.ClientHWAddr.String() != mac.String() {
		return nil, errNotOurs
	}
	a := &answer{kind: m.MessageType(), server: toAddr(m.ServerIdentifier())}
	switch a.kind {
	case dhcpv4.MessageTypeNak:
		return a, nil
	case dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck:
	default:
		return nil, errNotOurs
	}
	ip := toAddr(m.YourIPAddr)
	mask := net.IPMask(m.Options.Get(dhcpv4.OptionSubnetMask))
	ones, bits := mask.Size()
	if !usable(ip) || bits != 32 || !a.server.IsValid() {
		return nil, errNotOurs
	}
	a.routes, a.time = parseRoutes(m.Options.Get(dhcpv4.OptionClasslessStaticRoute)), m.IPAddressLeaseTime(minQuarantine)
	a.lease = Lease{Address: netip.PrefixFrom(ip, ones), Server: a.server,
		// A server that lends for a moment must not make a machine ask for ever.
		Duration: max(m.IPAddressLeaseTime(time.Hour), minLease)}
	if routers := m.Router(); len(routers) > 0 {
		if r := toAddr(routers[0]); usable(r) {
			a.lease.Router = r
		}
	}
	return a, nil
}

func toAddr(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.Addr{}
	}
	return a.Unmap()
}

// usable says whether an address may belong to a host.
func usable(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

package netconf

import (
	"encoding/binary"
	"net/netip"
	"slices"
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

// Where a client without an address sends from and to (RFC 2131, 4.1).
func nowhere() netip.AddrPort { return netip.AddrPortFrom(netip.IPv4Unspecified(), clientPort) }
func everybody() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), serverPort)
}

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
	sum := checksum(slices.Concat(pseudo(b[12:20], len(u)), u))
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

// unframe returns the DHCP message in an IPv4 packet, and who sent it. Unless
// the datagram is summed already, its checksum is verified, if it has one (RFC
// 768); that of the IP header always is.
func unframe(b []byte, summed bool) (from netip.Addr, payload []byte, err error) {
	if len(b) < ipv4Header || b[0]>>4 != 4 {
		return from, nil, errNotOurs
	}
	ihl := int(b[0]&15) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	if ihl < ipv4Header || total > len(b) || total < ihl+udpHeader || b[9] != protoUDP || checksum(b[:ihl]) != 0 {
		return from, nil, errNotOurs
	}
	if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 { // a fragment
		return from, nil, errNotOurs
	}
	u := b[ihl:total]
	size := int(binary.BigEndian.Uint16(u[4:]))
	if binary.BigEndian.Uint16(u[0:]) != serverPort || binary.BigEndian.Uint16(u[2:]) != clientPort ||
		size < udpHeader || size > len(u) {
		return from, nil, errNotOurs
	}
	u = u[:size]
	if sent := binary.BigEndian.Uint16(u[6:]); !summed && sent != 0 && checksum(slices.Concat(pseudo(b[12:20], size), u)) != 0 {
		return from, nil, errNotOurs
	}
	return netip.AddrFrom4([4]byte(b[12:16])), u[udpHeader:], nil
}

// pseudo is the header before a datagram of so many octets that its checksum
// covers (RFC 768): addresses, protocol, length.
func pseudo(addresses []byte, size int) []byte {
	return binary.BigEndian.AppendUint16(append(slices.Clone(addresses), 0, protoUDP), uint16(size))
}

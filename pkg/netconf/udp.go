package netconf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// HopLimit is what a datagram has that no router has passed on (RFC 5082, 3).
const HopLimit = 255

// udpBuffer is how much a socket holds that nobody has taken yet, in bytes of
// the kernel's counting: some 400 datagrams of 1,200 octets.
const udpBuffer = 1 << 20

// AllNodes is every IPv6 node on a link (RFC 4291, 2.7.1).
func AllNodes() netip.Addr { return netip.MustParseAddr("ff02::1") }

// UDP is a socket for the datagrams of one UDP port on one network port, over
// IPv6 and IPv4. It is bound to the network port by its index: renaming that
// one changes nothing. One Receive and any number of Sends may go on at the
// same time.
type UDP struct {
	conn *net.UDPConn
	link Link
}

// ListenUDP opens the socket. What it sends has HopLimit, and what it sends to
// a group does not come back.
//
// Package net tries once, by addresses of lo, whether a socket can take both
// families: where lo is down, its own listener may take IPv4 only, for ever.
func ListenUDP(link Link, port uint16) (*UDP, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		return nil, fmt.Errorf("open UDP port %d on %s: %w", port, link.Name, err)
	}
	f := os.NewFile(uintptr(fd), "udp")
	defer f.Close() // the connection has a descriptor of its own
	if err := prepareUDP(fd, link.Index); err != nil {
		return nil, fmt.Errorf("open UDP port %d on %s: %w", port, link.Name, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet6{Port: int(port)}); err != nil {
		return nil, fmt.Errorf("bind UDP port %d on %s: %w", port, link.Name, err)
	}
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("open UDP port %d on %s: %w", port, link.Name, err)
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("open UDP port %d on %s: got %T", port, link.Name, conn), conn.Close())
	}
	return &UDP{conn: udp, link: link}, nil
}

// prepareUDP sets what must be set before bind(2): sockets on one port of
// several interfaces do not collide if each is bound to its own.
func prepareUDP(fd, index int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, index); err != nil {
		return fmt.Errorf("bind to the port: %w", err)
	}
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_IPV6, unix.IPV6_V6ONLY, 0},
		{unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, HopLimit},
		{unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS, HopLimit},
		{unix.SOL_IPV6, unix.IPV6_MULTICAST_LOOP, 0},
		{unix.SOL_IPV6, unix.IPV6_RECVHOPLIMIT, 1},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set IPv6 option %d: %w", o.name, err)
		}
	}
	// A burst is many neighbors that were switched on at one moment. Who may
	// not have more than the system's limit takes that.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer)
	}
	return nil
}

// Receive waits for a datagram and puts it into b; what is longer is cut. hops
// is its hop limit, or -1 for IPv4. The address has no zone: it is on this
// port. After Close the error is net.ErrClosed.
func (u *UDP) Receive(b []byte) (n int, from netip.AddrPort, hops int, err error) {
	var oob [128]byte
	n, oobn, _, from, err := u.conn.ReadMsgUDPAddrPort(b, oob[:])
	if err != nil {
		return 0, netip.AddrPort{}, -1, fmt.Errorf("receive on %s: %w", u.link.Name, err)
	}
	return n, netip.AddrPortFrom(from.Addr().WithZone("").Unmap(), from.Port()), hopLimit(oob[:oobn]), nil
}

// hopLimit reads the control message of RFC 3542, 6.3: an int in host order.
func hopLimit(oob []byte) int {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return -1
		}
		if h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_HOPLIMIT && len(data) >= 4 {
			return int(int32(binary.NativeEndian.Uint32(data)))
		}
		oob = rest
	}
	return -1
}

// Send sends a datagram; a zone in the address is not looked at.
func (u *UDP) Send(b []byte, to netip.AddrPort) error {
	// No scope: the socket's port is it (ipv6(7), sin6_scope_id).
	_, err := u.conn.WriteToUDPAddrPort(b, netip.AddrPortFrom(to.Addr().WithZone(""), to.Port()))
	if err != nil {
		return fmt.Errorf("send on %s: %w", u.link.Name, err)
	}
	return nil
}

// Close ends a Receive that is waiting.
func (u *UDP) Close() error { return u.conn.Close() }

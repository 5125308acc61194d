package dhcpserve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/netconf"
)

// receiveBuffer is what waits in the kernel when a region is switched on: 4,000
// messages and more, in bytes of the kernel's counting.
const receiveBuffer = 16 << 20

// socket receives by UDP on one port, so that the kernel checks what comes; it
// sends by UDP to whoever can be found by ARP or routes, else by frames.
type socket struct {
	udp  *net.UDPConn
	raw  *packet.Conn // nil: IPv6
	mac  net.HardwareAddr
	link netconf.Link
	port int
}

func listen4(link netconf.Link, port int) (*socket, error) {
	udp, err := listenUDP("udp4", netip.AddrPortFrom(netip.IPv4Unspecified(), serverPort), link, nil)
	if err != nil {
		return nil, err
	}
	// Protocol 0: it receives nothing, and so wastes nothing.
	raw, err := packet.Listen(&net.Interface{Index: link.Index, Name: link.Name, HardwareAddr: link.MAC}, packet.Raw, 0, nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a packet socket on %s: %w", link.Name, err), udp.Close())
	}
	return &socket{udp: udp, raw: raw, mac: link.MAC, link: link, port: port}, nil
}

func listen6(link netconf.Link, port int) (*socket, error) {
	udp, err := listenUDP("udp6", netip.AddrPortFrom(netip.IPv6Unspecified(), dhcpv6.DefaultServerPort), link, func(fd int) error {
		group := &unix.IPv6Mreq{Multiaddr: [16]byte(dhcpv6.AllDHCPRelayAgentsAndServers.To16()), Interface: uint32(link.Index)}
		if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, group); err != nil {
			return fmt.Errorf("join ff02::1:2: %w", err)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	})
	if err != nil {
		return nil, err
	}
	return &socket{udp: udp, link: link, port: port}, nil
}

// controlSize has room for where a message was sent to (RFC 3542, 6.2).
var controlSize = unix.CmsgSpace(unix.SizeofInet6Pktinfo)

// sentTo is the address that a DHCPv6 message was sent to; the zero Addr, which
// is no group, if the kernel does not say.
func sentTo(control []byte) netip.Addr {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range messages {
		if m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo {
			return netip.AddrFrom16([16]byte(m.Data[:16]))
		}
	}
	return netip.Addr{}
}

// listenUDP opens a socket that is bound to a port by its index, so that those
// of several ports do not collide.
func listenUDP(network string, at netip.AddrPort, link netconf.Link, more func(fd int) error) (*net.UDPConn, error) {
	cfg := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var set error
		err := raw.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, link.Index)
			// Who may not have more than the system's limit takes that.
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
			}
			if set == nil && more != nil {
				set = more(int(fd))
			}
		})
		return errors.Join(err, set)
	}}
	conn, err := cfg.ListenPacket(context.Background(), network, at.String())
	if err != nil {
		return nil, fmt.Errorf("serve DHCP on %s: %w", link.Name, err)
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("serve DHCP on %s: got a %T", link.Name, conn), conn.Close())
	}
	return udp, nil
}

func (k *socket) send(a *Answer) error {
	if a.MAC == nil || k.raw == nil {
		// No zone: the socket is bound to the port.
		if _, err := k.udp.WriteToUDPAddrPort(a.Payload, a.To); err != nil {
			return fmt.Errorf("answer %s: %w", a.To, err)
		}
		return nil
	}
	frame := make([]byte, 0, 14+28+len(a.Payload))
	frame = append(append(frame, a.MAC...), k.mac...)
	frame = append(frame, byte(unix.ETH_P_IP>>8), byte(unix.ETH_P_IP&0xff))
	frame = append(frame, netconf.Datagram4(netip.AddrPortFrom(a.From, serverPort), a.To, a.Payload)...)
	if _, err := k.raw.WriteTo(frame, &packet.Addr{HardwareAddr: a.MAC}); err != nil {
		return fmt.Errorf("answer %s: %w", a.To, err)
	}
	return nil
}

// close ends what is waiting; an error of it has no taker.
func (k *socket) close() {
	_ = k.udp.Close()
	if k.raw != nil {
		_ = k.raw.Close()
	}
}

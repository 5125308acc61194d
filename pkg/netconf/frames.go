package netconf

import (
	"encoding/binary"
	"fmt"
	"net"
	"syscall"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// frames is a packet socket (packet(7)) on one port. Unlike a socket of UDP it
// is handed what the kernel would have dropped, so it drops that itself: what
// is for another station, which a NIC in promiscuous mode or a switch that
// floods brings. What is tagged for a VLAN that this port does not have is
// handed over as for another station too (__netif_receive_skb_core in
// net/core/dev.c), and a tag that gives a priority only is taken off (802.1Q,
// 9.6).
type frames struct {
	*packet.Conn
	raw syscall.RawConn
}

func listenFrames(link Link, protocol int) (*frames, error) {
	conn, err := packet.Listen(&net.Interface{Index: link.Index, Name: link.Name, HardwareAddr: link.MAC}, packet.Datagram, protocol, nil)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket on %s: %w", link.Name, err)
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		err = control(raw, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1) })
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("prepare a packet socket on %s: %w", link.Name, err)
	}
	return &frames{Conn: conn, raw: raw}, nil
}

// control calls set, whose error it returns, with the socket's descriptor.
func control(raw syscall.RawConn, set func(fd int) error) error {
	var err error
	if broken := raw.Control(func(fd uintptr) { err = set(int(fd)) }); broken != nil {
		return broken
	}
	return err
}

// receive puts the next frame for this station, without its Ethernet header,
// into b. summed says that nobody need verify a checksum behind the IP header:
// the NIC has, or it will be made only when the frame leaves this machine.
func (f *frames) receive(b []byte) (n int, summed bool, err error) {
	oob := make([]byte, unix.CmsgSpace(int(auxSize)))
	for {
		var oobn int
		var from unix.Sockaddr
		var failed error
		broken := f.raw.Read(func(fd uintptr) bool {
			n, oobn, _, from, failed = unix.Recvmsg(int(fd), b, oob, 0)
			return failed != unix.EAGAIN && failed != unix.EINTR
		})
		if broken != nil {
			return 0, false, broken
		}
		if failed != nil {
			return 0, false, failed
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OTHERHOST {
			continue
		}
		return n, status(oob[:oobn])&(unix.TP_STATUS_CSUMNOTREADY|unix.TP_STATUS_CSUM_VALID) != 0, nil
	}
}

// auxSize is the size of struct tpacket_auxdata (linux/if_packet.h).
const auxSize = 20

// status reads tp_status of PACKET_AUXDATA.
func status(oob []byte) uint32 {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		if h.Level == unix.SOL_PACKET && h.Type == unix.PACKET_AUXDATA && len(data) >= auxSize {
			return binary.NativeEndian.Uint32(data)
		}
		oob = rest
	}
	return 0
}

package netconf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/lldp"
)

// LLDP is a socket for the LLDPDUs of one port. One Receive and any number of
// Sends may go on at the same time. It outlives a port that goes down and comes
// up again.
type LLDP struct {
	conn    *frames
	link    Link
	refused atomic.Uint64
}

// ListenLLDP opens the socket and makes the port take frames to LLDP's group
// address, which most ports would drop unseen.
func ListenLLDP(link Link) (*LLDP, error) {
	conn, err := listenFrames(link, lldp.EtherType)
	if err != nil {
		return nil, err
	}
	if err := join(conn, link.Index, lldp.Group()); err != nil {
		return nil, errors.Join(fmt.Errorf("receive LLDP's group address on %s: %w", link.Name, err), conn.Close())
	}
	// Some NICs with a LLDP agent in their firmware (Intel's E810) drop what is not
	// sent as control traffic. Who may not ask for that is heard by all others.
	_ = control(conn.raw, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, controlTraffic) })
	return &LLDP{conn: conn, link: link}, nil
}

// controlTraffic is TC_PRIO_CONTROL (linux/pkt_sched.h).
const controlTraffic = 7

// join lasts as long as the socket (packet(7), PACKET_ADD_MEMBERSHIP).
func join(f *frames, index int, group [6]byte) error {
	mreq := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_MULTICAST, Alen: uint16(len(group))}
	copy(mreq.Address[:], group[:])
	return control(f.raw, func(fd int) error {
		return unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq)
	})
}

// Receive waits for the next sane LLDPDU; what is none is counted. It never
// returns what this port sent, nor what is tagged for a VLAN or for another
// station. When ctx ends, the error wraps its error; the socket can be used again.
func (l *LLDP) Receive(ctx context.Context) (*lldp.DU, error) {
	if err := l.conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("set a deadline on %s: %w", l.link.Name, err)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = l.conn.SetReadDeadline(time.Now())
		close(interrupted)
	})
	defer func() {
		if !stop() { // it must not interrupt the next call
			<-interrupted
		}
	}()
	var buf [lldp.MaxSize + 1]byte // one more: what is cut off here is refused
	for ctx.Err() == nil {
		n, _, err := l.conn.receive(buf[:])
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.ENETDOWN) { // a port that is down is silent
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("receive LLDP on %s: %w", l.link.Name, err)
		}
		du, err := lldp.Parse(buf[:n])
		if err != nil {
			l.refused.Add(1)
			continue
		}
		return du, nil
	}
	return nil, fmt.Errorf("receive LLDP on %s: %w", l.link.Name, ctx.Err())
}

// Refused counts the frames that were no sane LLDPDU.
func (l *LLDP) Refused() uint64 { return l.refused.Load() }

// Send sends an LLDPDU to the next bridge or device. That the port is down, or
// its queue full, is no error: LLDPDUs are repeated.
func (l *LLDP) Send(du []byte) error {
	group := lldp.Group()
	_, err := l.conn.WriteTo(du, &packet.Addr{HardwareAddr: group[:]})
	if err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENOBUFS) {
		return fmt.Errorf("send LLDP on %s: %w", l.link.Name, err)
	}
	return nil
}

// Close leaves the group address; a Receive that is waiting ends with an error.
func (l *LLDP) Close() error { return l.conn.Close() }

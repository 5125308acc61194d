// Package flood switches on many DHCP clients at once, for tests and
// measurements: each sends one DISCOVER and is not patient.
package flood

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/netconf"
)

// Offsets in a frame without VLAN tag and IP options (IEEE 802.3, RFC 791, RFC
// 768), and behind them in a DHCP message (RFC 2131, 2).
const (
	atIP      = 14
	atUDP     = atIP + 20
	atDHCP    = atUDP + 8
	atXID     = atDHCP + 4
	atYiaddr  = atDHCP + 16
	minFrame  = atDHCP + 240
	buffer    = 32 << 20
	firstXID  = 0x4c460000 // so that other clients' answers are not counted
	maxClient = 1 << 16
)

// Config says who asks.
type Config struct {
	Link netconf.Link // a port that is up, on the server's segment
	// MACs are the clients, at most 65,536. Their DISCOVERs are sent evenly
	// over the time Over.
	MACs []net.HardwareAddr
	Over time.Duration
	// Want, if set, is the address that client i must get.
	Want func(i int) netip.Addr
	// Patience is how long the last one waits.
	Patience time.Duration
}

// Result is what came of it. A client is served when it has the answer (OFFER,
// or ACK: the DISCOVERs allow a rapid commit) with its address.
type Result struct {
	Sent, Served, Wrong int
	Last                time.Duration // from the first DISCOVER to the last answer
	Median, P99, Worst  time.Duration // from a client's DISCOVER to its answer
}

func (r Result) String() string {
	return fmt.Sprintf("%d DISCOVERs, %d served, %d wrong, the last answer after %s; waited %s (median), %s (p99), %s (longest)",
		r.Sent, r.Served, r.Wrong, r.Last.Round(time.Millisecond), r.Median.Round(time.Microsecond),
		r.P99.Round(time.Microsecond), r.Worst.Round(time.Microsecond))
}

type flood struct {
	cfg     Config
	conn    *packet.Conn
	frames  [][]byte
	sent    []time.Time
	waits   []time.Duration
	wrong   int
	last    time.Time
	answers chan answer
}

type answer struct {
	client  int
	address netip.Addr
	at      time.Time
}

// Run sends and counts; it returns when all are served or patience ends.
func Run(ctx context.Context, cfg Config) (Result, error) {
	if len(cfg.MACs) == 0 || len(cfg.MACs) > maxClient {
		return Result{}, fmt.Errorf("a flood of %d clients: between 1 and %d", len(cfg.MACs), maxClient)
	}
	f := &flood{cfg: cfg, sent: make([]time.Time, len(cfg.MACs)), answers: make(chan answer, len(cfg.MACs))}
	for i, hw := range cfg.MACs {
		frame, err := discover(i, hw)
		if err != nil {
			return Result{}, err
		}
		f.frames = append(f.frames, frame)
	}
	var err error
	f.conn, err = packet.Listen(&net.Interface{Index: cfg.Link.Index, Name: cfg.Link.Name, HardwareAddr: cfg.Link.MAC}, packet.Raw, unix.ETH_P_IP, nil)
	if err != nil {
		return Result{}, fmt.Errorf("open a packet socket on %s: %w", cfg.Link.Name, err)
	}
	defer f.conn.Close()
	if err := f.prepare(); err != nil {
		return Result{}, err
	}
	done := make(chan error, 1)
	go func() { done <- f.receive() }()
	if err := f.send(ctx); err != nil {
		return Result{}, errors.Join(err, f.conn.Close(), <-done)
	}
	f.collect(ctx)
	if err := errors.Join(f.conn.SetReadDeadline(time.Now()), <-done); err != nil {
		return Result{}, err
	}
	return f.result(), nil
}

func discover(i int, hw net.HardwareAddr) ([]byte, error) {
	var xid dhcpv4.TransactionID
	binary.BigEndian.PutUint32(xid[:], firstXID+uint32(i))
	m, err := dhcpv4.New(dhcpv4.WithTransactionID(xid), dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter), dhcpv4.WithGeneric(dhcpv4.OptionRapidCommit, nil))
	if err != nil {
		return nil, fmt.Errorf("make a DISCOVER: %w", err)
	}
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, hw...)
	frame = append(frame, byte(unix.ETH_P_IP>>8), byte(unix.ETH_P_IP&0xff))
	return append(frame, netconf.Datagram4(netip.AddrPortFrom(netip.IPv4Unspecified(), 68),
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 67), m.ToBytes())...), nil
}

// prepare lets the socket hear what goes to invented MAC addresses, and keep
// it until it is read.
func (f *flood) prepare() error {
	if err := f.conn.SetPromiscuous(true); err != nil {
		return fmt.Errorf("listen to all of %s: %w", f.cfg.Link.Name, err)
	}
	raw, err := f.conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("packet socket of %s: %w", f.cfg.Link.Name, err)
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) })
	if err = errors.Join(err, set); err != nil {
		return fmt.Errorf("receive buffer on %s: %w", f.cfg.Link.Name, err)
	}
	return nil
}

func (f *flood) send(ctx context.Context) error {
	begin := time.Now()
	to := &packet.Addr{HardwareAddr: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	for i, frame := range f.frames {
		due := begin.Add(f.cfg.Over * time.Duration(i) / time.Duration(len(f.frames)))
		if d := time.Until(due); d > 0 {
			time.Sleep(d)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("flood on %s: %w", f.cfg.Link.Name, ctx.Err())
		}
		f.sent[i] = time.Now()
		if _, err := f.conn.WriteTo(frame, to); err != nil {
			return fmt.Errorf("send on %s: %w", f.cfg.Link.Name, err)
		}
	}
	return nil
}

// receive passes on answers until the socket's deadline.
func (f *flood) receive() error {
	defer close(f.answers)
	buf := make([]byte, 1600)
	seen := make([]bool, len(f.frames))
	for {
		n, _, err := f.conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive on %s: %w", f.cfg.Link.Name, err)
		}
		b := buf[:n]
		if n < minFrame || b[atIP] != 0x45 || binary.BigEndian.Uint16(b[atUDP:]) != 67 || b[atDHCP] != byte(dhcpv4.OpcodeBootReply) {
			continue
		}
		i := int(binary.BigEndian.Uint32(b[atXID:])) - firstXID
		if i < 0 || i >= len(seen) || seen[i] {
			continue
		}
		seen[i] = true
		f.answers <- answer{client: i, address: netip.AddrFrom4([4]byte(b[atYiaddr : atYiaddr+4])), at: time.Now()}
	}
}

func (f *flood) collect(ctx context.Context) {
	end := time.NewTimer(f.cfg.Patience)
	defer end.Stop()
	for n := 0; n < len(f.frames); n++ {
		select {
		case a, ok := <-f.answers:
			if !ok {
				return
			}
			if f.cfg.Want != nil && f.cfg.Want(a.client) != a.address {
				f.wrong++
				continue
			}
			f.waits = append(f.waits, a.at.Sub(f.sent[a.client]))
			f.last = a.at
		case <-end.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (f *flood) result() Result {
	r := Result{Sent: len(f.frames), Served: len(f.waits), Wrong: f.wrong}
	if len(f.waits) == 0 {
		return r
	}
	slices.Sort(f.waits)
	r.Last = f.last.Sub(f.sent[0])
	r.Median, r.P99, r.Worst = f.waits[len(f.waits)/2], f.waits[len(f.waits)*99/100], f.waits[len(f.waits)-1]
	return r
}

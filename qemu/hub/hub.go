// Package hub is the cabling of a rack for virtual machines: their network
// cards are plugged into cables and switches that a test can cut, swap and
// disturb, in real time and without privileges.
//
// A card is QEMU's "-netdev stream" on a unix socket: each frame is preceded by
// its length, 4 octets, big endian. A tap of a network namespace can be plugged
// in as well, so that host processes sit in the same segment.
package hub

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// maxFrame bounds a frame, in octets: QEMU's own limit.
const maxFrame = 64<<10 + 512

// queue is how many frames wait for a card that does not read; more are
// dropped, as a switch does.
const queue = 512

// maxPath is the longest path of a unix socket (Linux, unix(7)).
const maxPath = 107

// Faults are what a cable does to frames. Delayed frames that were sent at
// nearly the same time may overtake each other even without jitter.
type Faults struct {
	Drop      float64       // part that is lost, 0 to 1; 1 is a cut that no carrier shows
	Duplicate float64       // part that arrives twice
	Delay     time.Duration // at least
	Jitter    time.Duration // at most so much more, each frame by itself: this reorders
}

// Hub holds all cards, cables and switches.
type Hub struct {
	dir string

	mu      sync.Mutex
	ports   map[string]*port
	carrier func(port string, up bool)
	closed  bool
	wg      sync.WaitGroup
	done    chan struct{}
}

// port is a network card, or a tap.
type port struct {
	name   string
	socket string
	lis    net.Listener
	wire   *wire
	conn   io.WriteCloser // nil until the machine is on
	out    chan []byte
	faults Faults
}

// wire joins ports: a cable has two, a switch any number.
type wire struct {
	ports []*port
	sw    *Switch
}

// New makes an empty rack; its sockets are in dir.
func New(dir string) *Hub {
	return &Hub{dir: dir, ports: map[string]*port{}, done: make(chan struct{})}
}

// OnCarrier has fn told of each port that gets or loses its carrier. It is
// called without locks held.
func (h *Hub) OnCarrier(fn func(port string, up bool)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.carrier = fn
}

// Port makes a card and returns the socket that QEMU connects to. It may
// connect again after it was powered off.
func (h *Hub) Port(name string) (socket string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ports[name] != nil {
		return "", fmt.Errorf("port %s exists", name)
	}
	if h.closed {
		return "", fmt.Errorf("port %s: the hub is closed", name)
	}
	socket = filepath.Join(h.dir, fmt.Sprintf("p%d", len(h.ports))) // names are long
	if len(socket) > maxPath {
		return "", fmt.Errorf("port %s: the path %s has more than the %d octets of a unix socket: use a folder with a shorter path", name, socket, maxPath)
	}
	lis, err := net.Listen("unix", socket)
	if err != nil {
		return "", err
	}
	p := &port{name: name, socket: socket, lis: lis}
	h.ports[name] = p
	h.wg.Go(func() { h.accept(p) })
	return socket, nil
}

func (h *Hub) accept(p *port) {
	for {
		c, err := p.lis.Accept()
		if err != nil {
			return // closed
		}
		h.serve(p, c, streamReader(c), streamWriter)
	}
}

// serve carries the frames of one connection, until it ends.
func (h *Hub) serve(p *port, c io.ReadWriteCloser, read func() ([]byte, error), write func(io.Writer, []byte) error) {
	out := make(chan []byte, queue)
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		_ = c.Close() // nobody is there any more
		return
	}
	p.conn, p.out = c, out
	h.mu.Unlock()
	h.wg.Go(func() {
		for frame := range out {
			if write(c, frame) != nil {
				break
			}
		}
		for range out { // the machine is off: nothing reads
		}
	})
	for {
		frame, err := read()
		if err != nil {
			break
		}
		h.send(p, frame)
	}
	h.mu.Lock()
	p.conn, p.out = nil, nil
	close(out)
	h.mu.Unlock()
	_ = c.Close() // the other side has ended it
}

func streamReader(r io.Reader) func() ([]byte, error) {
	br := bufio.NewReader(r)
	return func() ([]byte, error) {
		var head [4]byte
		if _, err := io.ReadFull(br, head[:]); err != nil {
			return nil, err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n == 0 || n > maxFrame {
			return nil, fmt.Errorf("a frame of %d octets", n)
		}
		frame := make([]byte, n)
		_, err := io.ReadFull(br, frame)
		return frame, err
	}
}

func streamWriter(w io.Writer, frame []byte) error {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(frame)), uint32(len(frame)))
	_, err := w.Write(append(b, frame...))
	return err
}

// send passes a frame on to whatever a port is plugged into.
func (h *Hub) send(p *port, frame []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := p.wire
	if w == nil || w.sw != nil && forBridge(frame) {
		return
	}
	for _, to := range w.ports {
		if to != p && (w.sw == nil || w.sw.joins(p, to)) {
			h.transmit(p, to, frame)
		}
	}
}

// forBridge: frames to 01-80-C2-00-00-0X are for the next bridge itself, which
// does not pass them on (IEEE 802.1Q, 8.6.3).
func forBridge(frame []byte) bool {
	return len(frame) > 6 && frame[0] == 0x01 && frame[1] == 0x80 && frame[2] == 0xc2 && frame[3] == 0 && frame[4] == 0 && frame[5] < 0x10
}

// transmit delivers a frame as both ports' faults will have it.
func (h *Hub) transmit(from, to *port, frame []byte) {
	copies := 1
	delay := time.Duration(0)
	for _, f := range []Faults{from.faults, to.faults} {
		if rand.Float64() < f.Drop {
			return
		}
		if rand.Float64() < f.Duplicate {
			copies = 2
		}
		delay += f.Delay
		if f.Jitter > 0 {
			delay += rand.N(f.Jitter)
		}
	}
	for range copies {
		if delay == 0 {
			to.deliver(frame)
			continue
		}
		h.wg.Go(func() {
			select {
			case <-h.done:
			case <-time.After(delay):
				h.mu.Lock()
				defer h.mu.Unlock()
				if from.wire != nil && from.wire == to.wire { // the cable is still in place
					to.deliver(frame)
				}
			}
		})
	}
}

// deliver hands a frame to a port; the hub's lock is held.
func (p *port) deliver(frame []byte) {
	if p.out == nil {
		return
	}
	select {
	case p.out <- frame:
	default:
	}
}

// Ports lists all ports, sorted.
func (h *Hub) Ports() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []string
	for name := range h.ports {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// Close ends everything and waits for it.
func (h *Hub) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	close(h.done)
	var errs []error
	for _, p := range h.ports {
		if p.lis != nil {
			errs = append(errs, p.lis.Close())
		}
		if p.conn != nil {
			errs = append(errs, p.conn.Close())
		}
	}
	h.mu.Unlock()
	h.wg.Wait()
	for _, p := range h.ports {
		if err := os.Remove(p.socket); p.socket != "" && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

package kekserver

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// bounds is what strangers can hold of a plane. A connection is a stranger's
// until it has proved somebody: by a quote or a token, or as an agent.
type bounds struct {
	strangers  int           // connections of strangers
	perAddress int           // of them, from one address
	fair       int           // of them, from one address that does not flood
	quick      time.Duration // from acceptance to proof, where it is wanted
	life       time.Duration // the same at most
	perName    int           // connections of one that is proved
}

// Each plane has bounds of its own, so that no flood of devices keeps an
// operator out. A device's quote takes its TPM up to two seconds.
func deviceBounds() *bounds {
	return &bounds{strangers: 2048, perAddress: 64, fair: 4, quick: 3 * time.Second, life: 20 * time.Second, perName: 8}
}

func operatorBounds() *bounds {
	return &bounds{strangers: 256, perAddress: 32, fair: 4, quick: time.Second, life: 10 * time.Second, perName: 64}
}

func healthBounds() *bounds {
	return &bounds{strangers: 64, perAddress: 64, fair: 64, quick: time.Second, life: 10 * time.Second}
}

// gate bounds the connections of one plane. Where there is no room the address
// that holds the most strangers loses its oldest: who floods shuts out itself.
// If all hold few, as when a region powers on at once, the oldest of all goes
// once it had its time, which newcomers wait for.
type gate struct {
	*bounds
	mu       sync.Mutex
	less     sync.Cond // there may be room
	closed   bool
	count    int
	stranger map[netip.Addr][]*guest // oldest first
	proved   map[string][]*guest     // oldest first
	cut      int                     // connections that were taken away
}

func newGate(b *bounds) *gate {
	g := &gate{bounds: b, stranger: map[netip.Addr][]*guest{}, proved: map[string][]*guest{}}
	g.less.L = &g.mu
	return g
}

// guest is an accepted connection.
type guest struct {
	net.Conn
	gate  *gate
	from  netip.Addr
	since time.Time
	name  string // once it is proved
	gone  bool
	end   *time.Timer
}

// gated is a listener behind a gate.
type gated struct {
	net.Listener
	gate *gate
}

// Accept implements net.Listener.
func (l *gated) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.gate.admit(c), nil
}

// Close implements net.Listener.
func (l *gated) Close() error {
	l.gate.mu.Lock()
	l.gate.closed = true
	l.gate.mu.Unlock()
	l.gate.less.Broadcast()
	return l.Listener.Close()
}

// admit makes room for a connection, or waits for it.
func (g *gate) admit(c net.Conn) net.Conn {
	n := &guest{Conn: c, gate: g, from: address(c.RemoteAddr())}
	g.mu.Lock()
	defer g.mu.Unlock()
	if own := g.stranger[n.from]; len(own) >= g.perAddress {
		g.evict(own[0])
	}
	for g.count >= g.strangers && !g.closed {
		heavy, oldest := g.crowd()
		left := g.quick - time.Since(oldest.since)
		switch {
		case len(heavy) > g.fair:
			g.evict(heavy[0])
		case left <= 0:
			g.evict(oldest)
		default:
			wake := time.AfterFunc(left, g.less.Broadcast)
			g.less.Wait()
			wake.Stop()
		}
	}
	n.since = time.Now()
	n.end = time.AfterFunc(g.life, n.expire)
	g.stranger[n.from] = append(g.stranger[n.from], n)
	g.count++
	return n
}

// crowd returns the strangers of the address that holds the most, and the oldest
// stranger of all.
func (g *gate) crowd() (heavy []*guest, oldest *guest) {
	for _, all := range g.stranger {
		if len(all) > len(heavy) {
			heavy = all
		}
		if oldest == nil || all[0].since.Before(oldest.since) {
			oldest = all[0]
		}
	}
	return heavy, oldest
}

// evict cuts a connection off. Its server sees that, and closes it. The caller
// holds the lock.
func (g *gate) evict(n *guest) {
	g.forget(n)
	g.cut++
	_ = n.Conn.Close() // it may be closed already
}

// forget gives a connection's place away. The caller holds the lock.
func (g *gate) forget(n *guest) {
	if n.gone {
		return
	}
	n.gone = true
	n.end.Stop()
	if n.name != "" {
		remove(g.proved, n.name, n)
		return
	}
	remove(g.stranger, n.from, n)
	g.count--
	g.less.Broadcast()
}

func remove[K comparable](of map[K][]*guest, key K, n *guest) {
	if of[key] = slices.DeleteFunc(of[key], func(m *guest) bool { return m == n }); len(of[key]) == 0 {
		delete(of, key)
	}
}

func (n *guest) expire() {
	n.gate.mu.Lock()
	defer n.gate.mu.Unlock()
	if !n.gone && n.name == "" {
		n.gate.evict(n)
	}
}

// prove takes a connection out of the strangers: who is at its other end showed
// to be name, now.
func (n *guest) prove(name string) {
	g := n.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if n.gone || n.name == name {
		return
	}
	g.forget(n)
	n.gone, n.name = false, name
	if own := g.proved[name]; len(own) >= g.perName {
		g.evict(own[0])
	}
	g.proved[name] = append(g.proved[name], n)
}

// Close implements net.Conn.
func (n *guest) Close() error {
	n.gate.mu.Lock()
	n.gate.forget(n)
	n.gate.mu.Unlock()
	return n.Conn.Close()
}

// taken says how many connections were taken away so far.
func (g *gate) taken() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cut
}

// address is whom a connection is counted with.
func address(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{} // all such are one
}

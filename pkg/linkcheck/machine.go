package linkcheck

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/landfall-project/landfall/pkg/lldp"
)

// Times of the protocol (docs/spec/linkcheck.md, "Asking").
const (
	firstAsk    = 200 * time.Millisecond // at most so long after the carrier is there
	shortestAsk = time.Second            // doubled until longestAsk
	longestAsk  = 8 * time.Second
	pollEvery   = 2 * time.Second // while the link is proved and the neighbor pending
	flapGap     = time.Second     // between two requests, however often the carrier comes and goes
	nonceLife   = 10 * time.Second

	maxOutstanding = 4
	// silentAfter is how many requests in a row may stay without a valid
	// answer, before a link counts as silent; a proof is then forgotten, too.
	silentAfter = 3
	// maxChecks bounds the signatures that are checked for one request.
	maxChecks = 32
	// claimLife is how long what an unproven answer said is shown: two of the
	// longest intervals.
	claimLife = 2 * longestAsk * 5 / 4

	lingerLimit = 30 * time.Second
	// lingerQuiet is how long a neighbor must not have asked again: its answer
	// may have been lost, and it asks every pollEvery and a quarter.
	lingerQuiet = pollEvery * 5 / 4
)

// Send is a datagram to be sent.
type Send struct {
	Interface string
	// To is the zero value for a multicast to ff02::1, Port.
	To       netip.AddrPort
	Datagram []byte
}

// Output is what an input leads to.
type Output struct {
	Send    []Send
	Changed []Status  // links whose verdict, what led to it or LLDP is another now
	Wake    time.Time // call Tick then, or zero: nothing to wait for
}

// Machine checks the links of one device. It is not safe for concurrent use.
type Machine struct {
	cfg     Config
	state   State
	okSince time.Time
	ports   map[string]*port
	links   []*link
	count   Counters
}

type port struct {
	PortConfig
	up        bool
	links     []*link
	answers   bucket // all signed answers on this port
	others    bucket // to neighbors that ask for another port, or for others
	strangers bucket // to devices that the slice does not know
	lldp      LLDPVerdict
	lldpSeen  string
	lldpWant  string
}

// outstanding is a request that may still be answered.
type outstanding struct {
	nonce  Nonce
	digest [sha256.Size]byte
	sent   time.Time
	checks int
}

type link struct {
	Link
	out      []outstanding
	next     time.Time // when to ask; zero: not at all
	lastSent time.Time
	tries    int // requests since the last proof, or since the carrier came
	addr     netip.AddrPort
	certHash [sha256.Size]byte // of the certificate that peer is from
	peer     *Peer
	proof    *finding
	claim    *finding
	shown    Verdict
	seen     End // who led to it
	since    time.Time
	answers  bucket
	asked    time.Time // last request that was answered, since this device became ok
}

// New makes a machine whose interfaces are all down. It refuses
// links that contradict each other or themselves.
func New(now time.Time, cfg Config) (*Machine, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.State == 0 {
		cfg.State = Pending
	}
	if cfg.Verify == nil {
		cfg.Verify = VerifyCertificate
	}
	m := &Machine{cfg: cfg, state: cfg.State, okSince: now, ports: map[string]*port{}}
	for _, p := range cfg.Ports {
		m.ports[p.Name] = &port{
			PortConfig: p, answers: newBucket(portRate), others: newBucket(strangerRate), strangers: newBucket(strangerRate),
		}
	}
	for _, l := range cfg.Links {
		k := &link{Link: l, shown: Unknown, since: now, answers: newBucket(neighborRate)}
		m.links = append(m.links, k)
		p := m.ports[l.Interface]
		p.links = append(p.links, k)
	}
	return m, nil
}

// LinkUp says that an interface has a carrier; or, once more, that it has got
// an address: then routed neighbors that did not answer so far are asked soon.
func (m *Machine) LinkUp(now time.Time, name string) Output {
	p := m.ports[name]
	if p == nil || m.state == Production {
		if p != nil {
			p.up = true
		}
		return m.output(now, nil)
	}
	for _, l := range p.links {
		if p.up && (!l.Routed || l.proof != nil) {
			continue
		}
		next := now.Add(m.fraction(firstAsk))
		if earliest := l.lastSent.Add(flapGap); !l.lastSent.IsZero() && next.Before(earliest) {
			next = earliest
		}
		if !p.up || next.Before(l.next) {
			l.next = next
		}
	}
	p.up = true
	return m.output(now, nil)
}

// LinkDown says that an interface has lost its carrier: whatever was proved of
// its cable is no longer.
func (m *Machine) LinkDown(now time.Time, name string) Output {
	p := m.ports[name]
	if p == nil || !p.up {
		return m.output(now, nil)
	}
	p.up = false
	changed := p.lldp != ""
	p.lldp, p.lldpSeen, p.lldpWant = "", "", ""
	for _, l := range p.links {
		l.out, l.proof, l.claim, l.tries = nil, nil, nil, 0
		l.next, l.addr, l.asked = time.Time{}, netip.AddrPort{}, time.Time{}
	}
	if changed {
		return m.output(now, p)
	}
	return m.output(now, nil)
}

// SetState says whether this device's own links have passed (OK) or not
// (Pending), as its policy will have it. Answering does not wait for it.
func (m *Machine) SetState(now time.Time, s State) Output {
	if s == OK && m.state != OK {
		m.okSince = now
		for _, l := range m.links {
			l.asked = time.Time{}
		}
	}
	if s == Production {
		for _, l := range m.links {
			l.out, l.next = nil, time.Time{}
		}
	}
	m.state = s
	return m.output(now, nil)
}

// Tick says that the time has come which Wake has named.
func (m *Machine) Tick(now time.Time) Output {
	var sends []Send
	for _, l := range m.links {
		if l.next.IsZero() || now.Before(l.next) {
			continue
		}
		s, err := m.ask(now, l)
		if err != nil {
			// Rand failed. A nonce must never be a guess: try again later.
			m.count.Failed++
			l.next = now.Add(shortestAsk)
			continue
		}
		sends = append(sends, s)
	}
	o := m.output(now, nil)
	o.Send = sends
	return o
}

// ask makes the next request on a link and plans the one after.
func (m *Machine) ask(now time.Time, l *link) (Send, error) {
	q := Request{
		Region: m.cfg.Region, From: End{m.cfg.Device, l.Interface}, To: l.Peer,
		Anyone: l.tries > 0,
	}
	if _, err := m.cfg.Rand.Read(q.Nonce[:]); err != nil {
		return Send{}, fmt.Errorf("make a nonce: %w", err)
	}
	b, err := q.Marshal()
	if err != nil {
		return Send{}, err
	}
	if l.tries >= silentAfter {
		l.proof = nil
	}
	l.out = slices.DeleteFunc(l.out, func(o outstanding) bool { return now.Sub(o.sent) > nonceLife })
	if len(l.out) >= maxOutstanding {
		l.out = slices.Delete(l.out, 0, 1)
	}
	l.out = append(l.out, outstanding{nonce: q.Nonce, digest: sha256.Sum256(b), sent: now})
	// The address that the last proof came from, unless it has not answered
	// since: then everybody is asked again.
	to := l.addr
	if l.Routed {
		to = netip.AddrPortFrom(l.Address, Port)
	} else if l.tries > 0 {
		to = netip.AddrPort{}
	}
	interval := pollEvery
	if l.proof == nil {
		interval = min(shortestAsk<<min(l.tries, 3), longestAsk)
	}
	l.tries++
	l.lastSent = now
	l.next = now.Add(m.jitter(interval))
	m.count.Asked++
	return Send{Interface: l.Interface, To: to, Datagram: b}, nil
}

// Receive takes a datagram that arrived on an interface.
func (m *Machine) Receive(now time.Time, name string, from netip.AddrPort, datagram []byte) Output {
	p := m.ports[name]
	if p == nil || len(datagram) < headSize {
		m.count.Malformed++
		return m.output(now, nil)
	}
	var sends []Send
	if datagram[5] == typeRequest {
		sends = m.request(now, p, from, datagram)
	} else {
		m.response(now, p, from, datagram)
	}
	o := m.output(now, nil)
	o.Send = sends
	return o
}

// LLDP tells what a switch said on an interface. It changes no verdict of a
// link: it is the technician's map.
func (m *Machine) LLDP(now time.Time, name string, du *lldp.DU) Output {
	p := m.ports[name]
	if p == nil {
		return m.output(now, nil)
	}
	was, seen := p.lldp, p.lldpSeen
	p.heard(du)
	if p.lldp == was && p.lldpSeen == seen {
		return m.output(now, nil)
	}
	return m.output(now, p)
}

// output collects what has changed, and on a port whose LLDP verdict has, all
// links.
func (m *Machine) output(now time.Time, changed *port) Output {
	var o Output
	for _, l := range m.links {
		v, seen := l.verdict(now)
		news := v != l.shown || seen != l.seen
		if v != l.shown {
			l.since = now
		}
		l.shown, l.seen = v, seen
		if news || changed != nil && l.Interface == changed.Name {
			o.Changed = append(o.Changed, m.status(l))
		}
		if !l.next.IsZero() && (o.Wake.IsZero() || l.next.Before(o.Wake)) {
			o.Wake = l.next
		}
	}
	return o
}

// fraction returns a random part of d. A failing Rand gives all of it: jitter
// is no secret.
func (m *Machine) fraction(d time.Duration) time.Duration {
	var b [4]byte
	if _, err := m.cfg.Rand.Read(b[:]); err != nil {
		return d
	}
	return time.Duration(float64(d) * float64(binary.BigEndian.Uint32(b[:])) / (1 << 32))
}

// jitter returns d, more or less up to a quarter.
func (m *Machine) jitter(d time.Duration) time.Duration { return d*3/4 + m.fraction(d/2) }

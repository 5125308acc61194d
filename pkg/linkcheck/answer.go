package linkcheck

import (
	"net/netip"
	"time"
)

// request answers a request, if its sender gets an answer. It looks at nothing
// that depends on this device's own progress.
func (m *Machine) request(now time.Time, p *port, from netip.AddrPort, datagram []byte) []Send {
	q, err := ParseRequest(datagram)
	if err != nil {
		m.count.Malformed++
		return nil
	}
	here := End{m.cfg.Device, p.Name}
	home := q.Region == m.cfg.Region
	if home && q.From.Device == m.cfg.Device {
		m.loop(now, p, q)
		return nil
	}
	exact := home && q.To == here
	if !exact && (!q.Anyone || home && p.shares(q.To)) {
		m.count.NotForUs++
		return nil
	}
	l := p.linkTo(q.From)
	if !home {
		l = nil
	}
	var neighbor *link
	if exact {
		neighbor = l
	}
	if !m.allow(now, p, neighbor, home && m.knows(q.From.Device)) {
		m.count.Limited++
		return nil
	}
	r := Response{Nonce: q.Nonce, Arrived: p.Name, State: m.state, Generation: m.cfg.Generation}
	if l != nil {
		r.Expected = l.Peer
	} else if len(p.links) > 0 {
		r.Expected = p.links[0].Peer
	}
	err = m.cfg.Session.Sign(&r, datagram)
	if err != nil {
		m.count.Failed++
		return nil
	}
	b, err := r.Marshal()
	if err != nil || len(b) > len(datagram) {
		m.count.Failed++
		return nil
	}
	if l != nil && exact && q.From == l.Peer {
		l.asked = now
	}
	m.count.Answered++
	return []Send{{Interface: p.Name, To: from, Datagram: b}}
}

// allow spends a token for an answer: to the neighbor of that link that asks
// for this very port, else to a neighbor that does not, else to a stranger. So
// neither a flood of strangers nor the questions on a busy switch keep a
// neighbor from its answer.
func (m *Machine) allow(now time.Time, p *port, exact *link, known bool) bool {
	b := &p.strangers
	switch {
	case exact != nil:
		b = &exact.answers
	case known:
		b = &p.others
	}
	return b.take(now) && p.answers.take(now)
}

// linkTo returns the link on this port to that end, or else to that device.
func (p *port) linkTo(e End) *link {
	var found *link
	for _, l := range p.links {
		if l.Peer == e {
			return l
		}
		if l.Peer.Device == e.Device && found == nil {
			found = l
		}
	}
	return found
}

// shares says whether an end belongs on this port, too: then a switch is between
// all of them, and no cable is wrong because both are heard there.
func (p *port) shares(e End) bool {
	for _, l := range p.links {
		if l.Peer == e {
			return true
		}
	}
	return false
}

// knows says whether the slice has a link to that device, on whatever port.
func (m *Machine) knows(device string) bool {
	for _, l := range m.links {
		if l.Peer.Device == device {
			return true
		}
	}
	return false
}

// loop notes that our own request came back on another of our ports: the cable
// leads from one to the other, or the two are on one segment. It is a claim
// like any other, since whoever hears a request can send it again.
func (m *Machine) loop(now time.Time, p *port, q *Request) {
	m.count.Reflected++
	if q.From.Interface == p.Name {
		return
	}
	for _, l := range m.links {
		for _, o := range l.out {
			if o.nonce == q.Nonce && l.Interface == q.From.Interface && q.Anyone {
				l.assume(&finding{verdict: WrongDevice, seen: End{m.cfg.Device, p.Name}, at: now, nonce: q.Nonce}, now)
			}
		}
	}
}

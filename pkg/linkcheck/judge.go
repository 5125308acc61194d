package linkcheck

import (
	"crypto/sha256"
	"errors"
	"net/netip"
	"time"
)

// finding is what an answer showed, or claimed.
type finding struct {
	verdict    Verdict
	proven     bool // signed by the TPM that the slice names
	seen       End  // who answered, from which interface
	region     string
	expected   End // whom the answering device's slice expects there
	generation uint64
	at         time.Time // when it was received
	nonce      Nonce
	err        error
}

// response judges an answer. Only the neighbor's own answer about the right
// port uses its request up: short of maxChecks answers in its name that come
// first, nobody else can keep that one from counting.
func (m *Machine) response(now time.Time, p *port, from netip.AddrPort, datagram []byte) {
	r, err := ParseResponse(datagram)
	if err != nil {
		m.count.Malformed++
		return
	}
	l, o := m.match(now, p, r.Nonce)
	if l == nil {
		return
	}
	c, err := parseCertificate(r.Certificate)
	if err != nil {
		m.count.Malformed++
		return
	}
	f := &finding{
		seen: End{c.Device, r.Arrived}, region: c.Region, expected: r.Expected, generation: r.Generation,
		at: now, nonce: r.Nonce,
	}
	if k := p.linkTo(f.seen); k != nil && k != l && k.Peer == f.seen {
		// Several neighbors are on this port, and this one belongs there: that
		// is for its own link to prove.
		m.count.NotForUs++
		return
	}
	known := m.nearest(l, c.Device)
	switch {
	case c.Region != m.cfg.Region:
		f.verdict = Foreign
	case known == nil:
		f.verdict = WrongDevice
	default:
		if o.checks >= maxChecks {
			m.count.Limited++
			return
		}
		o.checks++
		f.err = m.authenticate(known, r, o)
		f.verdict, f.proven = m.compare(l, f), f.err == nil
	}
	if f.verdict != Proved {
		l.assume(f, now)
		return
	}
	l.prove(f, r.State, from)
	if f.verdict == Proved && !l.ProofOnly {
		l.next = now.Add(m.jitter(pollEvery))
	}
}

// match finds the link on this port that waits for a nonce.
func (m *Machine) match(now time.Time, p *port, n Nonce) (*link, *outstanding) {
	for _, l := range m.links {
		for i := range l.out {
			o := &l.out[i]
			if o.nonce != n {
				continue
			}
			switch {
			case l.Interface != p.Name:
				m.count.CrossInterface++
			case now.Sub(o.sent) > nonceLife:
				m.count.Late++
			default:
				return l, o
			}
			return nil, nil
		}
	}
	m.count.Unmatched++
	return nil, nil
}

// nearest returns the link to a device: l itself if it is to that one.
func (m *Machine) nearest(l *link, device string) *link {
	if l.Peer.Device == device {
		return l
	}
	for _, k := range m.links {
		if k.Peer.Device == device {
			return k
		}
	}
	return nil
}

// authenticate checks certificate and signature. A certificate is checked once;
// then each answer costs one Ed25519 verification.
func (m *Machine) authenticate(known *link, r *Response, o *outstanding) error {
	hash := sha256.Sum256(r.Certificate)
	peer := known.peer
	if peer == nil || known.certHash != hash {
		var err error
		if peer, err = m.cfg.Verify(r.Certificate, known.AKName); err != nil {
			m.count.BadCertificate++
			return err
		}
		known.peer, known.certHash = peer, hash
	}
	if err := r.verify(peer, o.digest); err != nil {
		m.count.BadSignature++
		return err
	}
	if peer.Device != known.Peer.Device || peer.Region != m.cfg.Region {
		m.count.BadCertificate++
		return errors.New("session certificate is of another device")
	}
	return nil
}

// compare holds an answer against the slice.
func (m *Machine) compare(l *link, f *finding) Verdict {
	switch {
	case f.err != nil:
		return BadSignature
	case f.seen != l.Peer:
		return WrongPort
	case f.expected != End{m.cfg.Device, l.Interface}:
		return Disagrees
	}
	return Proved
}

// prove notes a proof: all requests so far are answered by it.
func (l *link) prove(f *finding, s State, from netip.AddrPort) {
	switch s {
	case OK:
		f.verdict = ProvedOK
	case Production:
		f.verdict = InProduction
	}
	l.proof, l.claim = f, nil
	l.out, l.tries = nil, 0
	l.next, l.addr = time.Time{}, from
}

// assume notes what is no proof of this link. What was signed by a neighbor is
// not displaced by what anybody can say, and one request changes an unproven
// claim once at most.
func (l *link) assume(f *finding, now time.Time) {
	if c := l.claim; c != nil && now.Sub(c.at) <= claimLife {
		if c.proven && !f.proven || c.proven == f.proven && c.nonce == f.nonce {
			return
		}
	}
	l.claim = f
}

// verdict is the best that is known: a proof, then what an answer showed, then
// silence.
func (l *link) verdict(now time.Time) (Verdict, End) {
	switch {
	case l.proof != nil:
		return l.proof.verdict, l.proof.seen
	case l.claim != nil && now.Sub(l.claim.at) <= claimLife:
		return l.claim.verdict, l.claim.seen
	case l.tries >= silentAfter:
		return Silent, End{}
	}
	return Unknown, End{}
}

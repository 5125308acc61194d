package linkcheck

import (
	"fmt"
	"time"

	"github.com/landfall-project/landfall/pkg/lldp"
)

// Verdict is what is known of a link.
type Verdict uint8

// The verdicts. Proved, ProvedOK and InProduction are proofs; all others keep a
// required link from passing.
const (
	Unknown      Verdict = iota + 1 // no carrier, or just asked
	Proved                          // the neighbor answered, and is pending
	ProvedOK                        // the neighbor answered, and its own links are proved
	InProduction                    // the neighbor answered from production
	WrongPort                       // a neighbor answers, but from another interface, or it belongs on another of ours
	WrongDevice                     // something says that it is another device of the region
	Disagrees                       // the right neighbor and port, but its slice expects another there
	BadSignature                    // something poses as the neighbor and cannot prove it
	Foreign                         // something says that it is of another region
	Silent                          // nothing answers
)

// String is the word in reports.
func (v Verdict) String() string {
	words := []string{
		"", "unknown", "proved", "proved-ok", "production", "wrong-port", "wrong-device", "disagrees", "bad-signature", "foreign", "silent",
	}
	if int(v) < len(words) {
		return words[v]
	}
	return fmt.Sprintf("verdict %d", uint8(v))
}

// ParseVerdict reads the word of a report.
func ParseVerdict(word string) (Verdict, bool) {
	for v := Unknown; v <= Silent; v++ {
		if v.String() == word {
			return v, true
		}
	}
	return 0, false
}

// Proof says whether the link is proved.
func (v Verdict) Proof() bool { return v == Proved || v == ProvedOK || v == InProduction }

// LLDPVerdict compares the switch's LLDPDU with the slice; empty: nothing was
// heard, or nothing is expected.
type LLDPVerdict string

// LLDP verdicts.
const (
	LLDPMatch    LLDPVerdict = "match"
	LLDPMismatch LLDPVerdict = "mismatch"
)

// Status is a link with what is known of it.
type Status struct {
	Link
	Device  string // this one
	Verdict Verdict
	Since   time.Time
	// Seen answered; Proven says whether its TPM vouches for that. Names that
	// are not proven are claims, made of harmless characters.
	Seen   End
	Proven bool
	Region string // of Seen, if it is Foreign
	// Belongs is whom Seen's slice, of that generation, expects at Seen.
	Belongs    End
	Generation uint64
	// Ours is the interface of this device where Seen belongs, if it does.
	Ours string
	Err  error // why a signature is bad
	// Own is the generation of this device's slice.
	Own uint64

	LLDP     LLDPVerdict
	LLDPSeen string // what the switch said, such as "tor-7 port 14"
	LLDPWant string // what it should say, when it differs: "port 12", or "tor-8 port 12"
	Carrier  bool
}

func (m *Machine) status(l *link) Status {
	p := m.ports[l.Interface]
	s := Status{
		Link: l.Link, Device: m.cfg.Device, Verdict: l.shown, Since: l.since, Own: m.cfg.Generation,
		Carrier: p.up, LLDP: p.lldp, LLDPSeen: p.lldpSeen, LLDPWant: p.lldpWant,
	}
	f := l.claim
	if l.proof != nil {
		f = l.proof
	}
	if f == nil || f.verdict != l.shown {
		return s
	}
	s.Seen, s.Proven, s.Belongs, s.Generation, s.Err = f.seen, f.proven, f.expected, f.generation, f.err
	if f.verdict == Foreign {
		s.Region = f.region
	}
	for _, k := range m.links {
		if k.Peer == f.seen && k != l {
			s.Ours = k.Interface
		}
	}
	return s
}

// String says what is wrong and where things belong, on one line.
func (s Status) String() string {
	text := fmt.Sprintf("%s: %s", s.Interface, s.Verdict)
	switch s.Verdict {
	case Proved, ProvedOK, InProduction:
		return fmt.Sprintf("%s: %s is %s", s.Interface, s.Peer, s.Verdict)
	case WrongPort:
		text += fmt.Sprintf(": %s is here, %s belongs here", s.Seen, s.Peer)
	case WrongDevice:
		text += fmt.Sprintf(": something that says it is %s is here, %s belongs here", s.Seen, s.Peer)
	case Disagrees:
		return fmt.Sprintf("%s: %s is here, but its slice of generation %d expects %s: one of the two slices is old",
			s.Interface, s.Seen, s.Generation, s.Belongs)
	case Foreign:
		text += fmt.Sprintf(": something of region %s is here (%s), %s belongs here", s.Region, s.Seen, s.Peer)
	case BadSignature:
		return fmt.Sprintf("%s: it says that it is %s, and does not prove it: %v", text, s.Seen, s.Err)
	default:
		return fmt.Sprintf("%s: %s belongs here", text, s.Peer)
	}
	switch {
	case s.Ours != "":
		text += fmt.Sprintf("; %s belongs on our %s", s.Seen, s.Ours)
	case s.Belongs != End{}:
		text += fmt.Sprintf("; at %s belongs %s", s.Seen, s.Belongs)
	}
	return text
}

// Links returns all links, in the order of Config.
func (m *Machine) Links() []Status {
	all := make([]Status, 0, len(m.links))
	for _, l := range m.links {
		all = append(all, m.status(l))
	}
	return all
}

// Summary counts links.
type Summary struct {
	Required int // by slice and policy, without waivers
	Proved   int // of the required ones
	Ready    int // of the required ones: the neighbor is ok, or in production
}

// Complete says whether every required link is proved.
func (s Summary) Complete() bool { return s.Proved == s.Required }

// AllReady says whether every required neighbor has passed, too.
func (s Summary) AllReady() bool { return s.Ready == s.Required }

// Summary counts. Whether less than all will do is the caller's policy.
func (m *Machine) Summary() Summary {
	var s Summary
	for _, l := range m.links {
		if !l.Required || l.Waiver != "" {
			continue
		}
		s.Required++
		if l.shown.Proof() {
			s.Proved++
		}
		if l.shown == ProvedOK || l.shown == InProduction {
			s.Ready++
		}
	}
	return s
}

// Done says whether this device may stop answering: it is ok, and each
// required neighbor has had an answer that says so and not asked again for a
// while, or is in production. After half a minute it may in any case.
//
// Requests are not signed: somebody can make a device leave too early. Its
// neighbor then waits for its answer from production.
func (m *Machine) Done(now time.Time) bool {
	if m.state != OK {
		return false
	}
	if now.Sub(m.okSince) >= lingerLimit {
		return true
	}
	for _, l := range m.links {
		if !l.Required || l.Waiver != "" || l.shown == InProduction {
			continue
		}
		if l.asked.IsZero() || now.Sub(l.asked) < lingerQuiet {
			return false
		}
	}
	return true
}

// Counters counts datagrams, so that a flood or a misfit shows.
type Counters struct {
	Asked, Answered uint64
	Malformed       uint64 // not read: damaged, unknown version or type
	NotForUs        uint64 // requests to, and responses of, others on a switch
	Reflected       uint64 // our own requests
	Limited         uint64 // above a rate
	Unmatched       uint64 // responses to no request of ours: replayed, duplicate, forged
	CrossInterface  uint64 // responses on another interface than the request's
	Late            uint64 // responses to a request that is too old
	BadCertificate  uint64
	BadSignature    uint64
	Failed          uint64 // what this device could not send
}

// Counters returns the counts so far.
func (m *Machine) Counters() Counters { return m.count }

// heard compares an LLDPDU with what is expected on this port.
func (p *port) heard(du *lldp.DU) {
	p.lldp, p.lldpSeen, p.lldpWant = "", "", ""
	if du.Shutdown() {
		return
	}
	name := du.Chassis.Text()
	if du.Chassis.Subtype == lldp.MACAddress && du.SystemName != "" {
		name = du.SystemName // what is written on the switch
	}
	p.lldpSeen = fmt.Sprintf("%s port %s", name, du.Port.Text())
	if p.PortConfig.LLDP == nil {
		return
	}
	// New has parsed both: they are sane.
	chassis, _ := lldp.ParseID(p.PortConfig.LLDP.ChassisID)
	id, _ := lldp.ParseID(p.PortConfig.LLDP.PortID)
	here := chassis.Match(du.Chassis)
	if here && id.Match(du.Port) {
		p.lldp = LLDPMatch
		return
	}
	p.lldp, p.lldpWant = LLDPMismatch, "port "+id.Text
	if !here {
		p.lldpWant = chassis.Text + " " + p.lldpWant
	}
}

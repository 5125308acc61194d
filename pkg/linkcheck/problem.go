package linkcheck

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// What one hold says at most: it must fit a console of 25 lines.
const (
	maxTold    = 8  // links
	maxRows    = 12 // rows of them
	rowColumns = 76 // characters in a row
	maxDone    = 3  // repairs
)

// Pass says whether a device's own links are enough by its policy, so that it
// may say OK.
func Pass(policy snapshot.Policy, s Summary) bool {
	switch policy.Links {
	case "advisory":
		return true
	case "fraction":
		return s.Proved*100 >= policy.LinksPercent*s.Required
	}
	return s.Complete()
}

// Problem is what is wrong with a link, told to the person in front of the
// rack: both ends and where they belong; nil if it is proved. What is on a
// further line is the switch's word.
func (s Status) Problem() *report.Problem {
	p := &report.Problem{Err: s.Err}
	switch s.Verdict {
	case Proved, ProvedOK, InProduction:
		return nil
	case WrongPort:
		p.Code = report.LinkWrongPort
		p.What = fmt.Sprintf("%s leads to %s, belongs in %s", s.Interface, s.Seen, s.Peer)
		p.Do = s.move()
		if s.Ours == "" && s.Belongs != (End{}) {
			p.What += fmt.Sprintf("; %s belongs in %s", s.Belongs, s.Seen)
		}
	case WrongDevice, Foreign:
		s.claimed(p)
	case Disagrees:
		p.Code = report.LinkDisagrees
		p.What = fmt.Sprintf("%s leads to %s, as it should, but that one's slice (generation %d; ours has %d) expects %s there",
			s.Interface, s.Seen, s.Generation, s.Own, s.Belongs)
	case BadSignature:
		p.Code = report.LinkBadSignature
		p.What = fmt.Sprintf("what says on %s that it is %s cannot prove it: %s", s.Interface, s.Seen, s.why())
	default:
		s.unheard(p)
	}
	if s.LLDP == LLDPMismatch {
		p.What += "\n" + s.onSwitch()
	}
	return p
}

// unheard is about a link on which nobody has answered.
func (s Status) unheard(p *report.Problem) {
	p.Code = report.LinkSilent
	p.Do = fmt.Sprintf("power on %s; follow the cable in %s: it belongs in %s", s.Peer.Device, s.Interface, s.Peer)
	switch {
	case !s.Carrier:
		p.Code = report.LinkNoCarrier
		p.What = fmt.Sprintf("%s has no carrier; %s belongs at its other end", s.Interface, s.Peer)
		p.Do = fmt.Sprintf("plug in the cable between %s and %s; is %s on?", s.Interface, s.Peer, s.Peer.Device)
	case s.Verdict == Silent:
		p.What = fmt.Sprintf("nothing answers on %s; %s belongs there", s.Interface, s.Peer)
	default:
		p.What = fmt.Sprintf("%s has not answered on %s yet", s.Peer, s.Interface)
	}
}

// claimed is about what somebody says and no TPM vouches for.
func (s Status) claimed(p *report.Problem) {
	p.Code = report.LinkWrongDevice
	p.Do = fmt.Sprintf("move the far end of the cable in %s to %s", s.Interface, s.Peer)
	switch {
	case s.Verdict == Foreign:
		p.Code = report.LinkForeign
		p.What = fmt.Sprintf("%s leads to region %s, to what says it is %s; %s of this region belongs there", s.Interface, s.Region, s.Seen, s.Peer)
		return
	case s.Seen.Device == s.Device:
		p.What = fmt.Sprintf("%s leads back to %s of this machine; %s belongs there", s.Interface, s.Seen.Interface, s.Peer)
		return
	}
	p.What = fmt.Sprintf("%s leads to what says it is %s; %s belongs there", s.Interface, s.Seen, s.Peer)
	if s.Belongs != (End{}) {
		p.What += fmt.Sprintf("; %s belongs in %s", s.Belongs, s.Seen)
	}
}

// move is the repair of a proved wrong port.
func (s Status) move() string {
	switch {
	case s.Ours != "":
		return fmt.Sprintf("move the cable in %s to %s, where %s belongs", s.Interface, s.Ours, s.Seen)
	case s.Seen.Device == s.Peer.Device && s.Belongs != (End{}):
		return fmt.Sprintf("at %s, swap the cables in %s and %s (%s is the other half)",
			s.Seen.Device, min(s.Peer.Interface, s.Seen.Interface), max(s.Peer.Interface, s.Seen.Interface), s.Belongs.Device)
	}
	return fmt.Sprintf("move the far end of the cable in %s from %s to %s", s.Interface, s.Seen, s.Peer)
}

// why puts the reasons that happen into words without numbers.
func (s Status) why() string {
	switch {
	case errors.Is(s.Err, ErrAK):
		return "another TPM than the slice's signs for it"
	case errors.Is(s.Err, ErrImage):
		return "its TPM's PCR 12 says that neither a boot image nor a production after one runs there; power-cycle it"
	case errors.Is(s.Err, ErrSignature):
		return "the key it has shown did not sign the answer"
	case s.Err == nil:
		return "no reason is known"
	}
	return s.Err.Error()
}

// onSwitch is what a switch says about this port, and what it should say.
func (s Status) onSwitch() string {
	return fmt.Sprintf("%s is on %s, belongs on %s", s.Interface, s.LLDPSeen, s.LLDPWant)
}

// order is in which of several bad links the headline is: what a TPM vouches
// for, then claims, then silence.
func order() []report.Code {
	return []report.Code{
		report.LinkBadSignature, report.LinkWrongPort, report.LinkDisagrees, report.LinkWrongDevice, report.LinkForeign,
		report.LinkNoCarrier, report.LinkSilent,
	}
}

// Worst puts all required links that are not proved into one hold, under the
// code that tells most; nil if there are none.
func Worst(all []Status) *report.Problem {
	var bad []Status
	for _, s := range all {
		if s.counts() && !s.Verdict.Proof() {
			bad = append(bad, s)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	problems := map[Link]*report.Problem{}
	for _, s := range bad {
		problems[s.Link] = s.Problem()
	}
	rank := func(s Status) int { return slices.Index(order(), problems[s.Link].Code) }
	slices.SortStableFunc(bad, func(a, b Status) int { return rank(a) - rank(b) })
	worst := *problems[bad[0].Link]
	var what, do []string
	rows := 0
	for i, s := range bad {
		for _, line := range strings.Split(problems[s.Link].What, "\n") {
			rows += 1 + len(line)/rowColumns
		}
		if i == maxTold || i > 0 && rows > maxRows {
			what = append(what, fmt.Sprintf("and %d more links", len(bad)-i))
			break
		}
		what = append(what, problems[s.Link].What)
	}
	for _, s := range bad {
		repair := s.swap(bad)
		if repair == "" {
			repair = problems[s.Link].Repair()
		}
		if !slices.Contains(do, repair) && len(do) < maxDone {
			do = append(do, repair)
		}
	}
	worst.What, worst.Do = strings.Join(what, "\n"), strings.Join(do, "\n")
	return &worst
}

func (s Status) counts() bool { return s.Required && s.Waiver == "" }

// swap is the repair if what is on one of our ports belongs on the other, and
// the reverse.
func (s Status) swap(bad []Status) string {
	for _, o := range bad {
		if s.Ours == o.Interface && o.Ours == s.Interface && s.Interface != o.Interface {
			return fmt.Sprintf("swap the cables in %s and %s of this machine", min(s.Interface, o.Interface), max(s.Interface, o.Interface))
		}
	}
	return ""
}

// Warnings are what stops nothing: links that do not count and are not proved,
// and switch ports that are not the slice's. Waived links are left out: that
// they are bad is known.
func Warnings(all []Status) []*report.Problem {
	var out []*report.Problem
	told := map[string]bool{}
	for _, s := range all {
		if p := s.Problem(); p != nil && !s.counts() && s.Waiver == "" {
			out = append(out, p)
		} else if p == nil && s.LLDP == LLDPMismatch && !told[s.Interface] {
			told[s.Interface] = true
			out = append(out, &report.Problem{Code: report.LinkLLDP, What: s.onSwitch()})
		}
	}
	return out
}

// DHCPWaits says that the region's DHCP device is there and waits for its own
// links; nil if it is not, or does not.
func DHCPWaits(all []Status, dhcpDevice string) *report.Problem {
	for _, s := range all {
		if s.Peer.Device == dhcpDevice && s.Verdict == Proved {
			return &report.Problem{
				Code: report.LinkDHCPWaits,
				What: fmt.Sprintf("%s answers on %s, and lends no address before its own links are proved", s.Peer, s.Interface),
				Do:   fmt.Sprintf("look at the console of %s, and mend what it names; nothing is wrong here", s.Peer.Device),
			}
		}
	}
	return nil
}

// Report is what a device tells the fleet about its links.
func Report(device string, generation uint64, all []Status, sum Summary) *report.LinkReport {
	r := &report.LinkReport{
		Type: report.LinkReportType, Device: device, Slice: generation, Required: sum.Required, Proved: sum.Proved,
	}
	for _, s := range all {
		v := report.LinkVerdict{
			Interface: s.Interface, Peer: s.Peer.Device, PeerInterface: s.Peer.Interface, Required: s.counts(), Waived: printable.ASCII(s.Waiver),
			Verdict: s.Verdict.String(), LLDP: string(s.LLDP), LLDPSeen: printable.ASCII(s.LLDPSeen),
		}
		if s.Seen != (End{}) && s.Seen != s.Peer {
			v.Seen = s.Seen.String()
		}
		switch p := s.Problem(); {
		case p != nil:
			v.Code, v.What = p.Code, printable.ASCII(strings.ReplaceAll(p.What, "\n", "; "))
			if s.Seen != (End{}) {
				v.Seen = s.Seen.String()
			}
		case s.LLDP == LLDPMismatch:
			v.Code, v.What = report.LinkLLDP, printable.ASCII(s.onSwitch())
		}
		r.Links = append(r.Links, v)
	}
	return r
}

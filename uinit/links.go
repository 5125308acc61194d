package main

import (
	"context"
	"net"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/linknet"
	"github.com/landfall-project/landfall/pkg/report"
)

// Times of the links' check.
const (
	linkLinger = 30 * time.Second // for neighbors that still ask when this machine could leave
	lingerLook = 50 * time.Millisecond
	linkWait   = 2 * time.Second // before a missing proof is worth a word
)

// startLinks answers and asks on all ports as soon as the TPM has certified this
// boot's key. An amendment goes on with the same key.
func (s *site) startLinks() {
	if s.session == nil {
		s.session = start(s.m, s.newSession)
	}
	cfg := linknet.Config{Config: linkcheck.FromSlice(s.c.Slice), MACs: map[string]net.HardwareAddr{}, Raise: true, LLDP: true,
		Text: s.m.board, Logf: s.m.note, Recover: s.m.recoverPanic}
	if s.passed || len(s.c.Neighbors) == 0 {
		cfg.State = linkcheck.OK
	}
	session := s.session
	ctx, cancel := context.WithCancel(context.Background())
	s.stopLinks = cancel
	s.links = start(s.m, func() (*linknet.Net, error) {
		for _, i := range s.c.Interfaces {
			mac, err := net.ParseMAC(i.MAC)
			if err != nil {
				return nil, report.Errorf(report.SliceInvalid, "interface %s: %w", i.Name, err)
			}
			cfg.MACs[i.Name] = mac
		}
		var err error
		if cfg.Session, err = session.wait(); err != nil {
			return nil, report.Errorf(report.LinkConfig, "%w", err)
		}
		n, err := linknet.Start(ctx, cfg)
		if err != nil {
			return nil, report.Errorf(report.LinkConfig, "%w", err)
		}
		go func() {
			defer s.m.recoverPanic()
			s.m.follow(ctx, n.Changed())
		}()
		return n, nil
	})
}

// newSession has the TPM certify a key for answering neighbors, with one quote.
func (s *site) newSession() (*linkcheck.Session, error) {
	ak, err := s.t.AKPublic()
	if err != nil {
		return nil, tpmProblem(err)
	}
	session, err := linkcheck.Certify(s.c.Region, s.c.Device.ID, ak, func(qualifying []byte) (kekproto.Quote, error) {
		return s.t.Quote(qualifying, s.t.pcrs)
	})
	if err == nil {
		s.m.guard(session.Seed())
	}
	return session, err
}

// closeLinks ends answering. The key stays: see startLinks.
func (s *site) closeLinks() {
	if s.links == nil {
		return
	}
	if n, err := s.links.wait(); err == nil {
		if err := n.Close(); err != nil {
			s.m.logf("links: %v", err)
		}
	}
	s.stopLinks()
	s.links = nil
}

// follow ends a pause of the boot at each change.
func (m *machine) follow(ctx context.Context, changes <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
			m.changed()
		}
	}
}

// verdicts are what is known of the links, if they are being checked yet.
func (s *site) verdicts() []linkcheck.Status {
	if n := s.checked(); n != nil {
		return n.Links()
	}
	return nil
}

func (s *site) checked() *linknet.Net {
	if s.links == nil {
		return nil
	}
	select {
	case <-s.links.ready:
		return s.links.value
	default:
		return nil
	}
}

// proved says whether the device's own links have passed by its policy, after a
// moment's wait. What breaks later stops nothing.
func (s *site) proved() error {
	if len(s.c.Neighbors) == 0 {
		s.pronounce()
	}
	if s.passed {
		return nil
	}
	n, err := s.links.wait()
	if err != nil {
		return s.uncheckable(err)
	}
	if s.look == 0 {
		s.look = uptime() + linkWait
	}
	for end := uptime() + linkWait; ; {
		sum := n.Summary()
		patient := s.c.Policy.Links == "advisory" && !sum.Complete() && uptime() < s.look
		if !patient && linkcheck.Pass(s.c.Policy, sum) {
			s.pass(n, sum)
			return nil
		}
		left := end - uptime()
		if left <= 0 {
			return s.unproved(n, sum)
		}
		s.m.pause(left)
	}
}

func (s *site) pass(n *linknet.Net, sum linkcheck.Summary) {
	s.pronounce()
	n.SetState(linkcheck.OK)
	s.m.logf("links: %d of %d required ones proved", sum.Proved, sum.Required)
	bad := linkcheck.Warnings(n.Links())
	if p := linkcheck.Worst(n.Links()); p != nil { // the policy does without
		bad = append(bad, p)
	}
	for _, p := range bad {
		s.m.warn(p)
	}
}

// pronounce says, here and on the switches, that this device's own links have
// passed.
func (s *site) pronounce() {
	s.passed = true
	s.m.mu.Lock()
	s.m.passed = true
	s.m.mu.Unlock()
}

// board is what our LLDPDU says after "landfall": on a switch that shows its
// neighbors it is what the screen here shows.
func (m *machine) board() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	state := linkcheck.Pending.String()
	if m.passed {
		state = linkcheck.OK.String()
	}
	if m.holding == "" {
		return state
	}
	return state + " " + string(m.holding)
}

func (s *site) unproved(n *linknet.Net, sum linkcheck.Summary) error {
	// What a switch says of proved links is told beside, while somebody is there
	// to mend cables.
	for _, p := range linkcheck.Warnings(n.Links()) {
		s.m.warn(p)
	}
	if p := linkcheck.Worst(n.Links()); p != nil {
		return p
	}
	return report.Errorf(report.LinkSilent, "%d of %d required links are proved", sum.Proved, sum.Required)
}

// uncheckable starts again what failed; whoever needs no links goes on.
func (s *site) uncheckable(err error) error {
	if _, failed := s.session.wait(); failed != nil {
		s.session = nil
	}
	s.stopLinks()
	s.startLinks()
	if s.c.Policy.Links != "advisory" {
		return err
	}
	s.m.warn(problem(err))
	s.pronounce()
	return nil
}

// report is what the fleet hears of the links with a request; nil when nothing
// is known.
func (s *site) report() []byte {
	n := s.checked()
	if n == nil && len(s.c.Neighbors) > 0 {
		return nil
	}
	var all []linkcheck.Status
	var sum linkcheck.Summary
	if n != nil {
		all, sum = n.Links(), n.Summary()
	}
	text, err := linkcheck.Report(s.c.Device.ID, s.c.Generation, all, sum).Bytes()
	if err != nil {
		s.m.note("%v", err)
		return nil
	}
	return text
}

// linger stays until the neighbors have had their answers: once production runs
// here, only its own daemon answers them.
func (s *site) linger() {
	n := s.checked()
	if n == nil {
		return
	}
	began := uptime()
	for !n.Done() && uptime()-began < linkLinger {
		time.Sleep(lingerLook)
	}
	if took := uptime() - began; took > lingerLook {
		s.m.logf("waited %s for neighbors", seconds(took))
	}
}

// leave ends what neighbors and the network have of this boot. The key of the
// links is among the secrets that are searched for and wiped.
func (s *site) leave() {
	s.closeLinks()
	s.net.stop()
}

package main

import (
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/report"
)

// stay makes a device of the roles dhcp and keyserver serve, and goes on doing
// so. It never returns, opens no disk but the key server's, and is released no
// key.
func (m *machine) stay(img *image) {
	m.plan = stayingSteps()
	// Hardware, slice and TPM: as a server's.
	tpm := start(m, m.openTPM)
	hw := hold(m, "hardware", func() (*hardware, error) { return m.startHardware() })
	c := hold(m, "slice", func() (*carried, error) { return m.readSlice(img) })
	s := m.settle(img, c)
	t := hold(m, "tpm", func() (*trust, error) {
		return m.identifyTPM(&tpm, func(t *trust) error { return t.belong(m, c) })
	})
	s.certify(t)

	// Address: the slice's, without asking anybody.
	hold(m, "address", func() ([]*netconf.Lease, error) { return s.lease() })

	// Key server: it needs no neighbor, and those who wait for an amendment need it.
	hw.load("ext4")
	m.superviseFleet(c)

	// DHCP: firmware that wants its boot program, and strangers that want to
	// reach the fleet, are served at once.
	s.serve()

	// Links: its own, as far as the slice wants. From then on, for good, it lends
	// the snapshot's addresses.
	hold(m, "links", s.linked)
	s.dhcp.allow()

	s.watch()
}

// newsEvery is how often a device that stays asks for another slice, since new
// leases come in one, and sends its link report with that; newsFirst comes before
// the first time, when its own key server has started.
const (
	newsFirst = 10 * time.Second
	newsEvery = time.Minute
)

// watch tells of links that change, and puts a newer slice of the fleet's into
// use.
func (s *site) watch() {
	var said string
	for next := uptime() + newsFirst; ; {
		s.m.pause(jitter(portLook))
		if text := s.trouble(); text != said {
			said = text
			s.m.logf("links: %s", text)
		}
		switch {
		case s.news != nil:
			select {
			case <-s.news.ready:
				s.answered()
			default:
			}
		case uptime() > next:
			next = uptime() + jitter(newsEvery)
			s.ask()
		}
	}
}

// trouble is what is wrong with the links, in a line.
func (s *site) trouble() string {
	all := s.verdicts()
	bad := linkcheck.Warnings(all)
	if p := linkcheck.Worst(all); p != nil {
		bad = append([]*report.Problem{p}, bad...)
	}
	if len(bad) == 0 {
		return "all proved"
	}
	var what []string
	for _, p := range bad {
		what = append(what, string(p.Code)+" "+strings.ReplaceAll(p.What, "\n", "; "))
	}
	return strings.Join(what, "; ")
}

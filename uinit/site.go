package main

import (
	"context"
	"time"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/linknet"
	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/report"
)

// site is where this machine stands by the slice in use: its addresses, its
// neighbors, its disks. An amendment puts another one in its place. Only the
// boot's own goroutine uses it.
type site struct {
	m   *machine
	img *image
	c   *carried
	t   *trust // nil until it is identified

	net    *network
	finder *disk.Finder
	dhcp   *dhcp // nil but on a device that serves

	session *later[*linkcheck.Session]
	links   *later[*linknet.Net]
	// stopLinks ends what feeds on links.
	stopLinks context.CancelFunc
	look      time.Duration // uptime until which advisory links are waited for
	passed    bool          // its own links have passed once: this device is ok

	news     *later[[]byte]
	nextNews time.Duration // uptime; 0: nothing is amiss
}

// settle starts what waits for nothing but the slice: ports and disks.
func (m *machine) settle(img *image, c *carried) *site {
	s := &site{m: m, img: img, c: c}
	s.start()
	return s
}

func (s *site) start() {
	s.net = startNetwork(s.m, s.c.Interfaces, s.c.mode())
	s.finder = &disk.Finder{Volumes: s.c.Volumes}
	s.m.look(s.finder)
	s.look = 0
	if s.t != nil {
		s.startLinks()
	}
	if s.dhcp != nil {
		s.dhcp = s.dhcp.again(s.c, s.net)
	}
}

// close ends what start has begun, so that nothing of it is left on a port.
func (s *site) close() {
	s.closeLinks()
	if s.dhcp != nil {
		s.dhcp.close()
	}
	s.net.close()
}

// certify begins to answer the neighbors: the TPM is known, and vouches for this
// boot's key.
func (s *site) certify(t *trust) {
	s.t = t
	s.startLinks()
}

// lease waits a moment for an address of the slice's.
func (s *site) lease() ([]*netconf.Lease, error) { return again(s, s.leased) }

func (s *site) leased() ([]*netconf.Lease, error) {
	leases, err := s.net.ready()
	if err == nil {
		s.net.settled()
		return leases, nil
	}
	if p := problem(err); p.Code == report.NetNoLease {
		if waits := linkcheck.DHCPWaits(s.verdicts(), s.c.DHCPDevice); waits != nil {
			waits.What += "\n" + p.What
			return nil, waits
		}
	}
	return nil, err
}

// linked waits a moment for the links that the policy demands.
func (s *site) linked() (struct{}, error) {
	return again(s, func() (struct{}, error) { return struct{}{}, s.proved() })
}

// release asks the fleet for the key. After an amendment address and links come
// first, once more.
func (s *site) release() (*kekclient.Released, error) { return again(s, s.released) }

func (s *site) released() (*kekclient.Released, error) {
	if _, err := s.leased(); err != nil {
		return nil, err
	}
	if err := s.proved(); err != nil {
		return nil, err
	}
	return s.m.release(s.t, s.c, s.report())
}

// Times of the question for an amendment: it costs the fleet a quote to verify,
// so a trouble of a few seconds is not worth it.
const (
	newsAfter = 5 * time.Second
	newsAgain = time.Minute
)

// again tries a step until it succeeds or an amendment is no help.
func again[T any](s *site, try func() (T, error)) (T, error) {
	for {
		v, err := try()
		if err == nil {
			s.nextNews = 0
			return v, nil
		}
		if !s.amended(problem(err)) {
			return v, err
		}
	}
}

// amended says whether the fleet had another slice for this device, which is in
// use from now on. It never waits: the fleet is asked beside the hold.
func (s *site) amended(p *report.Problem) bool {
	if s.news != nil {
		select {
		case <-s.news.ready:
			return s.answered()
		default:
			return false
		}
	}
	now := uptime()
	switch {
	case p.Code == report.KeySliceOld && s.nextNews == 0:
		s.nextNews = now
	case s.nextNews == 0:
		s.nextNews = now + newsAfter
	}
	if now >= s.nextNews && s.mendable(p.Code) {
		s.ask()
	}
	return false
}

// mendable says whether another slice may be the repair, and the fleet can be
// reached.
func (s *site) mendable(code report.Code) bool {
	switch code {
	case report.KeySliceOld, report.NetWrongLease, report.NetNoInterface, report.NetQuarantine, report.NetNoCarrier, report.NetNoLease,
		report.LinkSilent, report.LinkNoCarrier, report.LinkWrongPort, report.LinkWrongDevice, report.LinkDisagrees,
		report.LinkBadSignature, report.LinkForeign, report.LinkDemand, report.LinkConfig, report.LinkDHCPWaits:
		return s.t != nil && s.net.reaches()
	}
	return false
}

// ask has the fleet asked for a newer slice, in an attested request.
func (s *site) ask() {
	s.nextNews = uptime() + jitter(newsAgain)
	client, img, c, links := s.m.client(s.c), s.img, s.c, s.report()
	client.Patience = kekclient.SliceTimeout
	client.Open = func(note []byte) (uint64, error) {
		next, err := img.newer(note, c)
		if err != nil {
			return 0, err
		}
		return next.Generation, nil
	}
	s.news = start(s.m, func() ([]byte, error) {
		defer s.m.changed()
		return client.News(context.Background(), s.t.quoter(), c.Generation, links)
	})
}

// answered takes the fleet's answer.
func (s *site) answered() bool {
	note, err := s.news.wait()
	s.news = nil
	switch {
	case err != nil:
		s.m.note("no newer slice: %v", err)
	case note != nil:
		if err := s.adopt(note); err != nil {
			s.m.warn(problem(err))
			return false
		}
		return true
	}
	return false
}

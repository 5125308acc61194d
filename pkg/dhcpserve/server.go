package dhcpserve

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Server answers on this machine's ports.
type Server struct {
	core  *Core
	ports []Port
	logf  func(string, ...any)
}

// New checks the configuration; it opens nothing yet.
func New(cfg Config) (*Server, error) {
	core, err := NewCore(cfg)
	if err != nil {
		return nil, err
	}
	logf := cfg.Logf
	if logf == nil {
		logf = func(string, ...any) {}
	}
	return &Server{core: core, ports: slices.Clone(cfg.Ports), logf: logf}, nil
}

// Allow lets the leases of the snapshot be served from now on. It may be called
// again, and at any time.
func (s *Server) Allow() { s.core.Allow() }

// Counters says what has been answered and refused so far.
func (s *Server) Counters() Counters { return s.core.Counters() }

// retryReceive is how long a socket that fails is left alone.
const retryReceive = time.Second

// Serve answers until ctx ends, which is no error. All its ports must be there,
// up, and have their addresses; whether they have a carrier does not matter. A
// port where DHCPv6 cannot be served is logged, and serves DHCPv4.
func (s *Server) Serve(ctx context.Context) error {
	var open []*socket
	closeAll := func() {
		for _, k := range open {
			k.close()
		}
	}
	add := func(k *socket, err error) bool {
		if err == nil {
			open = append(open, k)
		}
		return err == nil
	}
	for i, p := range s.ports {
		if s.core.ports[i].v4.IsValid() {
			if k, err := listen4(p.Link, i); !add(k, err) {
				closeAll()
				return err
			}
		}
		if s.core.serves6() {
			// IPv6 must not cost the others their leases.
			if k, err := listen6(p.Link, i); !add(k, err) {
				s.logf("no DHCPv6: %v", err)
			}
		}
	}
	stop := context.AfterFunc(ctx, closeAll)
	defer stop()
	var all sync.WaitGroup
	for _, k := range open {
		all.Go(func() { s.loop(ctx, k) })
	}
	all.Wait()
	return nil
}

// loop answers on one socket until it is closed.
func (s *Server) loop(ctx context.Context, k *socket) {
	buf, control := make([]byte, maxMessage), make([]byte, controlSize)
	for {
		n, c, _, from, err := k.udp.ReadMsgUDPAddrPort(buf, control)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil: // the port has gone; it may come back
			s.logf("DHCP on %s: %v", s.ports[k.port].Name, err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryReceive):
			}
			continue
		}
		if a := s.answer(k, from.Addr().Unmap(), control[:c], buf[:n]); a != nil {
			if err := k.send(a); err != nil {
				s.core.unsent()
			}
		}
	}
}

func (s *Server) answer(k *socket, from netip.Addr, control, msg []byte) *Answer {
	if k.raw == nil {
		return s.core.Answer6(time.Now(), k.port, from, sentTo(control), msg)
	}
	return s.core.Answer4(time.Now(), k.port, msg)
}

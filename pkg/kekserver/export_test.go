package kekserver

import (
	"time"

	"github.com/landfall-project/landfall/pkg/fleet"
	"github.com/landfall-project/landfall/pkg/kekstore"
)

// Route is a route of the operator plane, for the test that tries each.
type Route struct {
	Method, Path string
	Roles        []fleet.Role
}

// Routes lists the operator plane.
func (s *Server) Routes() []Route {
	var out []Route
	for _, r := range s.routes() {
		out = append(out, Route{r.method, r.path, r.roles})
	}
	return out
}

// SetClock sets the clock by which the member tells when something happened.
func (s *Server) SetClock(now func() time.Time) { s.now = now }

// WrapStore puts something between a server that does not serve yet and its store.
func (s *Server) WrapStore(wrap func(kekstore.Store) kekstore.Store) error {
	if err := s.fleet.Close(); err != nil {
		return err
	}
	return s.open(wrap(s.cfg.Store))
}

// Strangers counts the open connections of the device and the operator plane on
// which nobody proved anything.
func (s *Server) Strangers() (devices, operators int) {
	count := func(g *gate) int {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.count
	}
	return count(s.gates[0]), count(s.gates[1])
}

// MaxPerAddress is how many of them one address can have on each plane.
func MaxPerAddress() (devices, operators int) {
	return deviceBounds().perAddress, operatorBounds().perAddress
}

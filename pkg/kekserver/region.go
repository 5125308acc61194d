package kekserver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/signed"
)

// maxReceived bounds one received statement, in bytes.
const maxReceived = 16 << 10

// move takes the region from one state to the next. There is no other order and
// no way back.
func (s *Server) move(ctx context.Context, agent *Agent, to kekproto.RegionState, detail string) error {
	s.deciding.Lock()
	defer s.deciding.Unlock()
	var rec regionRecord
	version, err := s.state.load(ctx, pathRegion, &rec)
	if err != nil {
		return err
	}
	from, ok := map[kekproto.RegionState]kekproto.RegionState{
		kekproto.StateInTransit: kekproto.StateBuilding,
		kekproto.StateReceived:  kekproto.StateInTransit,
		kekproto.StateLive:      kekproto.StateReceived,
	}[to]
	if !ok || rec.State != from {
		return fmt.Errorf("%w: a region becomes %s from %s; it is %s: %s", errConflict, to, from, rec.State, nextStep(rec.State))
	}
	rec.State = to
	if to == kekproto.StateInTransit {
		shipment := make([]byte, 16)
		_, _ = rand.Read(shipment) // never fails: it ends the process instead
		rec.Shipment = hex.EncodeToString(shipment)
	}
	ev := auditBy(agent, "region")
	ev.State, ev.Detail = string(to), detail
	return s.replace(ctx, ev, pathRegion, version, &rec)
}

// nextStep is what leads on from a state.
func nextStep(is kekproto.RegionState) string {
	switch is {
	case kekproto.StateBuilding:
		return "next is `kekctl ship`, when it leaves"
	case kekproto.StateInTransit:
		return "next, agents sign that it arrived (`kekctl receive sign`), and one of them submits that (`kekctl receive submit`)"
	case kekproto.StateReceived:
		return "next is `kekctl live`"
	}
	return "no step is left"
}

func (s *Server) ship(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	if err := s.move(r.Context(), agent, kekproto.StateInTransit, ""); err != nil {
		return err
	}
	return s.getStatus(w, r, agent)
}

func (s *Server) live(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	if err := s.move(r.Context(), agent, kekproto.StateLive, ""); err != nil {
		return err
	}
	return s.getStatus(w, r, agent)
}

func (s *Server) received(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	var m kekproto.Bundle
	if err := readJSON(w, r, &m); err != nil {
		return err
	}
	v, err := s.state.view(r.Context())
	if err != nil {
		return err
	}
	names, err := s.signers(m.Notes, v.region.Shipment)
	if err != nil {
		return err
	}
	if err := s.move(r.Context(), agent, kekproto.StateReceived, "signed by "+strings.Join(names, ", ")); err != nil {
		return err
	}
	return s.getStatus(w, r, agent)
}

// signers verifies received statements of this region and shipment, and returns
// the agents who signed, each once; enough of them, or an error. A statement
// that does not hold is named and refuses the bundle, not only itself.
func (s *Server) signers(notes [][]byte, shipment string) ([]string, error) {
	if len(notes) == 0 || len(notes) > 2*len(s.cfg.Agents) {
		return nil, fmt.Errorf("%w: a bundle of %d statements", errRequest, len(notes))
	}
	var keys []note.Verifier
	names := map[string]string{} // key name to agent
	for _, a := range s.cfg.Agents {
		if a.Key != nil {
			keys = append(keys, a.Key)
			names[a.Key.Name()] = a.Name
		}
	}
	signed, err := distinctSigners(notes, keys, kekproto.Received{Type: kekproto.ReceivedType, Region: s.cfg.Region, Shipment: shipment})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, key := range signed {
		out = append(out, names[key])
	}
	if len(out) < s.cfg.Threshold {
		return nil, fmt.Errorf("%w: signed by %s only; %d agents are needed", errConflict, strings.Join(out, ", "), s.cfg.Threshold)
	}
	return out, nil
}

func distinctSigners(notes [][]byte, keys []note.Verifier, want kekproto.Received) ([]string, error) {
	var out []string
	seen := map[string]bool{}
	for i, n := range notes {
		var got kekproto.Received
		doc, err := signed.Open(n, maxReceived, kekproto.ReceivedType, &got, keys...)
		if err != nil {
			return nil, fmt.Errorf("%w: statement %d: %w", errRequest, i+1, err)
		}
		if got != want {
			return nil, fmt.Errorf("%w: statement %d is about region %q, shipment %q; this is region %q, shipment %q",
				errConflict, i+1, got.Region, got.Shipment, want.Region, want.Shipment)
		}
		for _, name := range doc.Signers {
			if !seen[name] {
				seen[name] = true
				out = append(out, name)
			}
		}
	}
	return out, nil
}

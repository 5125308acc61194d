package kekserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/secret"
)

// Route is a route of the operator plane, for the test that tries each.
type Route struct {
	Method, Path string
	Roles        []Role
}

// Routes lists the operator plane.
func (s *Server) Routes() []Route {
	var out []Route
	for _, r := range s.routes() {
		out = append(out, Route{r.method, r.path, r.roles})
	}
	return out
}

// Seed writes a live region with sealed devices of one AK each, as if all of
// them had gone through the factory.
func Seed(ctx context.Context, store kekstore.Store, region string, manifest []byte, slice []byte, aks map[string][]byte) error {
	s := &restoring{newState(store, nil), store}
	var old regionRecord
	version, err := s.load(ctx, pathRegion, &old)
	if err != nil {
		return err
	}
	if err := s.save(ctx, pathRegion, version, &regionRecord{Region: region, State: kekproto.StateLive}); err != nil {
		return err
	}
	sum := sha256.Sum256(manifest)
	if _, err := store.Swap(ctx, pathManifests+hex.EncodeToString(sum[:]), 0, manifest); err != nil {
		return err
	}
	for id, ak := range aks {
		if err := s.save(ctx, pathDevices+id, 0, &deviceRecord{AKPublic: ak, Approved: true, Sealed: 1}); err != nil {
			return err
		}
		if err := s.save(ctx, pathSlices+id, 0, &sliceRecord{measuredSlice: measuredSlice{1, slice}}); err != nil {
			return err
		}
		kek := secret.Random(kekIDSize + kekSize)
		_, err := store.Swap(ctx, kekPath(id, 1), 0, kek.Expose())
		kek.Wipe()
		if err != nil {
			return err
		}
	}
	return nil
}

// SetClock sets the clock by which the member tells when something happened.
func (s *Server) SetClock(now func() time.Time) { s.now = now }

// Records are what a member reads of its store.
type Records = records

// WrapStore puts something between a server that does not serve yet and what it
// reads of its store.
func (s *Server) WrapStore(wrap func(Records) Records) { s.state.store = wrap(s.state.store) }

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

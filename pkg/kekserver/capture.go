package kekserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// capture keeps what a machine found out about itself, in the place of what it
// said before. Nothing is decided by it here: slices are made from it, by people
// who compare it with their plan.
func (s *Server) capture(ctx context.Context, r *request) (*kekproto.Response, error) {
	c, err := snapshot.ParseCapture(r.Body)
	if err != nil {
		return nil, requestProblem(err)
	}
	if c.Device != r.Device {
		return nil, report.Errorf(report.KeyProtocol, "a capture of %s by %s", c.Device, r.Device)
	}
	path := pathCaptures + r.Device
	old, err := s.state.store.Get(ctx, path)
	switch {
	case err == nil && bytes.Equal(old.Data, r.Body):
		return &kekproto.Response{}, nil
	case err != nil && !errors.Is(err, kekstore.ErrNotFound):
		return nil, err
	}
	if !s.seen.mayCapture(r.Device, s.now()) {
		return nil, report.Errorf(report.KeyFleet, "%s sent too many different captures; the last one is kept; send the next in %d s", r.Device, capturePause/time.Second)
	}
	sum := sha256.Sum256(r.Body)
	rec := r.event("capture")
	rec.Digest = hex.EncodeToString(sum[:])
	if err := s.commit(ctx, rec, kekstore.Write{Path: path, Old: old.Version, Data: r.Body}); err != nil {
		return nil, err
	}
	return &kekproto.Response{}, nil
}

// mayCapture says whether a device may have another capture written now.
func (s *sightings) mayCapture(id string, at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(id).capturePace.take(at, capturePause, captureBurst)
}

// putCapture adds what a device said about itself in the factory, if it did.
func (s *Server) putCapture(ctx context.Context, info *kekproto.DeviceInfo) error {
	text, err := s.state.store.Get(ctx, pathCaptures+info.Device)
	if errors.Is(err, kekstore.ErrNotFound) || err == nil && len(text.Data) == 0 { // of a life before
		return nil
	}
	info.Capture = json.RawMessage(text.Data)
	return err
}

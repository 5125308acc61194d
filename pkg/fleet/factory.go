package fleet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/sightings"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// capture keeps what a machine found out about itself, in the place of what it
// said before. Nothing is decided by it here: slices are made from it, by people
// who compare it with their plan.
func (r *request) capture(ctx context.Context) (*kekproto.Response, error) {
	c, err := snapshot.ParseCapture(r.Body)
	if err != nil {
		return nil, malformed(err)
	}
	if c.Device != r.Device {
		return nil, report.Errorf(report.KeyProtocol, "a capture of %s by %s", c.Device, r.Device)
	}
	path := pathCaptures + r.Device
	old, err := r.member.state.store.Get(ctx, path)
	switch {
	case err == nil && bytes.Equal(old.Data, r.Body):
		return &kekproto.Response{}, nil
	case err != nil && !errors.Is(err, kekstore.ErrNotFound):
		return nil, err
	}
	if !r.member.seen.MayCapture(r.Device, r.member.now()) {
		return nil, report.Errorf(report.KeyFleet, "%s sent too many different captures; the last one is kept; send the next in %d s", r.Device, sightings.CapturePause/time.Second)
	}
	sum := sha256.Sum256(r.Body)
	rec := r.event(audit.EventCapture)
	rec.Digest = hex.EncodeToString(sum[:])
	err = r.member.commit(ctx, &change{[]audit.Record{rec}, []kekstore.Write{{Path: path, Old: old.Version, Data: r.Body}}})
	if err != nil {
		return nil, err
	}
	return &kekproto.Response{}, nil
}

// putCapture adds what a device said about itself in the factory, if it did.
func (m *Member) putCapture(ctx context.Context, info *kekproto.DeviceInfo) error {
	text, err := m.state.store.Get(ctx, pathCaptures+info.Device)
	if errors.Is(err, kekstore.ErrNotFound) || err == nil && len(text.Data) == 0 { // of a life before
		return nil
	}
	info.Capture = json.RawMessage(text.Data)
	return err
}

// progress keeps what seal says about itself, for people. One thing is decided by
// it: a device whose volumes are made, or made anew, is accepted no more. A new
// phase, result or code goes into the audit log.
func (r *request) progress(ctx context.Context) (*kekproto.Response, error) {
	now, err := report.ParseFactory(r.Body)
	if err == nil && now.Device != r.Device {
		err = fmt.Errorf("the progress of another device, %.64q", now.Device)
	}
	if err != nil {
		return nil, malformed(err)
	}
	accepted := r.device.accepted()
	if makesVolumes(now) && r.device.Accepted != 0 {
		if err := r.acceptedNoMore(ctx); err != nil {
			return nil, err
		}
		accepted = false
	}
	if r.member.seen.Progressed(r.Device, now, r.Body, r.member.now()) {
		rec := r.event(audit.EventProgress)
		rec.State, rec.Code, rec.Detail = sightings.Step(now), string(now.Code), printable.Cut(now.What, maxDifference)
		if err := r.member.ledger.Record(ctx, rec); err != nil {
			return nil, err
		}
	}
	return &kekproto.Response{Accepted: accepted}, nil
}

// makesVolumes: it is about to write a volume that then nobody has opened yet.
func makesVolumes(f *report.Factory) bool {
	return f.Phase == report.PhaseDisks && slices.ContainsFunc(f.Volumes, func(v report.FactoryVolume) bool { return v.State != "sealed" })
}

// acceptedNoMore takes the acceptance out of the device's record.
func (r *request) acceptedNoMore(ctx context.Context) error {
	rec := r.device.deviceRecord
	rec.Accepted = 0
	made, err := replace(r.event(audit.EventAcceptedNoMore), pathDevices+r.Device, r.device.version, &rec)
	if err != nil {
		return err
	}
	return r.member.commit(ctx, made)
}

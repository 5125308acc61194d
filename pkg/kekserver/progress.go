package kekserver

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// progress keeps what seal says about itself, for people. One thing is decided by
// it: a device whose volumes are made, or made anew, is accepted no more. A new
// phase, result or code goes into the audit log.
func (s *Server) progress(ctx context.Context, r *request) (*kekproto.Response, error) {
	now, err := report.ParseFactory(r.Body)
	if err == nil && now.Device != r.Device {
		err = fmt.Errorf("the progress of another device, %.64q", now.Device)
	}
	if err != nil {
		return nil, requestProblem(err)
	}
	accepted := r.device.accepted()
	if makesVolumes(now) && r.device.Accepted != 0 {
		if err := s.acceptedNoMore(ctx, r); err != nil {
			return nil, err
		}
		accepted = false
	}
	if s.seen.progressed(r.Device, now, r.Body, s.now()) {
		rec := r.event("progress")
		rec.State, rec.Code, rec.Detail = step(now), string(now.Code), cut(now.What, maxDifference)
		if err := s.record(ctx, rec); err != nil {
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
func (s *Server) acceptedNoMore(ctx context.Context, r *request) error {
	rec := r.device.deviceRecord
	rec.Accepted = 0
	return s.replace(ctx, r.event("accepted-no-more"), pathDevices+r.Device, r.device.version, &rec)
}

// step is a phase and its result, as the audit log has them.
func step(f *report.Factory) string { return strings.TrimSpace(f.Phase + " " + f.Result) }

// heardProgress is the last progress of a device.
type heardProgress struct {
	*kekproto.ProgressInfo
	step, code string
	recorded   string // the last step and code that are in the audit log
}

// progressed keeps a progress in the place of an earlier one, and says whether
// it is one for the audit log. What there was no room for comes there with the
// next one, if it is still so.
func (s *sightings) progressed(id string, f *report.Factory, text []byte, at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.of(id)
	next := d.advance(step(f), string(f.Code), text, at)
	if next.recorded == next.step+" "+next.code || !d.progressPace.take(at, progressPause, progressBurst) {
		return false
	}
	next.recorded = next.step + " " + next.code
	return true
}

// advance replaces the device's progress.
func (d *sighting) advance(step, code string, text []byte, at time.Time) *heardProgress {
	next := &heardProgress{ProgressInfo: &kekproto.ProgressInfo{Time: at.UTC(), Since: at.UTC(), Factory: json.RawMessage(text)}, step: step, code: code}
	if old := d.progress; old != nil {
		next.recorded = old.recorded
		if old.step == step && old.code == code {
			next.Since = old.Since
		}
	}
	d.progress = next
	return next
}

// replayProgress takes a line of the audit log.
func (s *sightings) replayProgress(r audit.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	phase, result, _ := strings.Cut(r.State, " ")
	text, err := json.Marshal(&report.Factory{Type: report.FactoryType, Device: r.Device, Phase: phase, Result: result, Code: report.Code(r.Code), What: r.Detail})
	if err != nil {
		return
	}
	next := s.of(r.Device).advance(r.State, r.Code, text, r.Time)
	next.recorded = next.step + " " + next.code
}

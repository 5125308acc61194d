package sightings

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// Step is a phase and its result, as the audit log has them.
func Step(f *report.Factory) string { return strings.TrimSpace(f.Phase + " " + f.Result) }

// heardProgress is the last progress of a device.
type heardProgress struct {
	*kekproto.ProgressInfo
	step, code string
	recorded   string // the last step and code that are in the audit log
}

// Progressed keeps a progress in the place of an earlier one, and says whether
// it is one for the audit log. What there was no room for comes there with the
// next one, if it is still so.
func (s *Sightings) Progressed(id string, f *report.Factory, text []byte, at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.of(id)
	next := d.advance(Step(f), string(f.Code), text, at)
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
func (s *Sightings) replayProgress(r audit.Record) {
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

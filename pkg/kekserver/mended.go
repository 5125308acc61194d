package kekserver

import (
	"slices"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// mended drops the last refusal of a device when what is recorded shows that its
// cause is gone: an operator did what it asked for, or the device now gets what
// it was refused. A release drops all of it by itself.
func (s *sightings) mended(r *audit.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devices[r.Device]
	if !ok || d.refusal == nil {
		return
	}
	if mends(r, d.refusal) {
		// It may come back, and is news then.
		d.refusal, d.recorded = nil, nil
	}
}

// mends says whether an event of the audit log ends a refusal.
func mends(r *audit.Record, refusal *kekproto.RefusalInfo) bool {
	codes, op := []report.Code(nil), kekproto.Op("")
	switch r.Event {
	case "device-added": // a further token
		return refusal.Op == opEnroll
	case "enrol":
		codes, op = []report.Code{report.KeyUnknown, report.KeyEnroll, report.TPMNoCert}, opEnroll
	case "device-approved":
		codes = []report.Code{report.KeyEnroll}
	case "resume":
		codes = []report.Code{report.KeySuspended}
	case "slice":
		codes = []report.Code{report.KeySliceNew, report.KeySliceOld}
	case "auths":
		op = kekproto.OpAuths
	case "kek", "kek-created":
		op = kekproto.OpKEK
	case "sealed":
		codes, op = []report.Code{report.KeyUnknown}, kekproto.OpSealed
	case "capture":
		op = kekproto.OpCapture
	case "progress":
		op = kekproto.OpProgress
	}
	return op != "" && op == refusal.Op || slices.Contains(codes, report.Code(refusal.Code))
}

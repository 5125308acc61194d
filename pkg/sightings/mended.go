package sightings

import (
	"slices"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// mended drops the last refusal of a device when what is recorded shows that its
// cause is gone: an operator did what it asked for, or the device now gets what
// it was refused. A release drops all of it by itself.
func (s *Sightings) mended(r *audit.Record) {
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
	case audit.EventDeviceAdded: // a further token
		return refusal.Op == OpEnroll
	case audit.EventEnrol:
		codes, op = []report.Code{report.KeyUnknown, report.KeyEnroll, report.TPMNoCert}, OpEnroll
	case audit.EventDeviceApproved:
		codes = []report.Code{report.KeyEnroll}
	case audit.EventResume:
		codes = []report.Code{report.KeySuspended}
	case audit.EventSlice:
		codes = []report.Code{report.KeySliceNew, report.KeySliceOld}
	case audit.EventAuths:
		op = kekproto.OpAuths
	case audit.EventKEK, audit.EventKEKCreated:
		op = kekproto.OpKEK
	case audit.EventSealed:
		codes, op = []report.Code{report.KeyUnknown}, kekproto.OpSealed
	case audit.EventCapture:
		op = kekproto.OpCapture
	case audit.EventProgress:
		op = kekproto.OpProgress
	}
	return op != "" && op == refusal.Op || slices.Contains(codes, report.Code(refusal.Code))
}

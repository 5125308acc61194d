package kekserver_test

import (
	"context"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/attest/attesttest"
	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// auditLines counts the lines of an event.
func (f *region) auditLines(event string) int {
	f.t.Helper()
	n := 0
	if _, _, err := audit.Verify(f.file("members/ks1/audit.jsonl"), func(r audit.Record) error {
		if string(r.Event) == event {
			n++
		}
		return nil
	}); err != nil {
		f.t.Fatal(err)
	}
	return n
}

// Whoever names a device without its TPM writes nothing into the audit log, and
// does not hide why the device itself was refused.
func TestStrangerFillsNoAuditLog(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	m.boot(debugImage, slice)
	_, err := f.client().Release(ctx, m, 1)
	wantCode(t, "debug image", err, report.KeyImage)
	before := f.status().AuditLines

	pcrs, err := m.sim.TPM().ReadPCRs()
	if err != nil {
		t.Fatal(err)
	}
	stranger := attesttest.New(t, pcrs)
	for range 5 {
		_, err := f.client().Release(ctx, stranger, 1)
		wantCode(t, "release by a stranger", err, report.KeyQuote)
		_, err = f.client().CreateKEK(ctx, stranger, 1)
		wantCode(t, "kek by a stranger", err, report.KeyQuote)
	}
	if got := f.status().AuditLines; got != before {
		t.Errorf("a stranger wrote %d audit lines", got-before)
	}
	info := f.device()
	if r := info.Refuse; r == nil || r.Code != string(report.KeyImage) || r.Count != 1 {
		t.Errorf("the device's own refusal is %+v, want one %s", r, report.KeyImage)
	}
	if u := info.Unproved; u == nil || u.Code != string(report.KeyQuote) || u.Count != 10 || u.Op != kekproto.OpKEK {
		t.Errorf("the stranger shows as %+v, want 10 times %s", u, report.KeyQuote)
	}
	if st := f.status(); len(st.Unproved) != 1 || st.Unproved[0] != testDevice {
		t.Errorf("status lists %v as unproved", st.Unproved)
	}
	if _, metrics := f.as("mallory", "GET", "/metrics", nil, nil); !strings.Contains(metrics, "landfall_unproved_total 10") {
		t.Errorf("metrics do not count 10 unproved requests:\n%s", metrics)
	}
}

// A device that proves who it is writes one line for an operation and a reason,
// not one for each change between two; also across a restart of the member.
func TestAlternatingRefusalsAreRecordedOnce(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	m.boot(debugImage, slice)
	ask := func() {
		t.Helper()
		for range 3 {
			_, err := f.client().Release(ctx, m, 1)
			wantCode(t, "release to a debug image", err, report.KeyImage)
			_, err = f.client().CreateKEK(ctx, m, 1)
			wantCode(t, "kek to a debug image", err, report.KeyImage)
		}
	}
	ask()
	if got := f.auditLines("refuse"); got != 2 {
		t.Errorf("%d refusals were recorded, want 2", got)
	}
	f.stop()
	f.start()
	ask()
	if got := f.auditLines("refuse"); got != 2 {
		t.Errorf("%d refusals were recorded after a restart, want 2", got)
	}
}

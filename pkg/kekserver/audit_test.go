package kekserver_test

import (
	"context"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/report"
)

// What is released is in the audit log, by name, and no secret is: nor in the
// member's log, its metrics, or its store file.
func TestAuditTellsAllButSecrets(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	owner, lockout, err := f.client().Auths(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	m.boot(serverImage, slice)
	r, err := f.client().Release(ctx, m, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 3 {
		m.boot(serverImage, slice)
	}
	again, err := f.client().Release(ctx, m, 1)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	m.boot(debugImage, slice)
	if _, err := f.client().Release(ctx, m, 1); err == nil {
		t.Fatal("released to a debug image")
	}
	log := f.file("members/ks1/audit.jsonl")
	events, jumps := map[audit.Event]int{}, 0
	if _, _, err := audit.Verify(log, func(r audit.Record) error {
		events[r.Event]++
		if r.Event == "release" && (r.Device != testDevice || r.Image == "" || r.KEK == "" || r.Generation != 1 || r.Peer == "") {
			t.Errorf("release record %+v", r)
		}
		if r.ResetJump == 3 {
			jumps++
		}
		if r.Event == "refuse" && r.Code != string(report.KeyImage) {
			t.Errorf("refusal record %+v", r)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []audit.Event{"start", "device-added", "enrol", "device-approved", "slice", "manifest", "kek-created", "sealed", "auths", "release", "refuse"} {
		if events[want] == 0 {
			t.Errorf("no %q in the audit log: %v", want, events)
		}
	}
	if jumps != 1 {
		t.Errorf("%d releases are marked for a jump of the reset count, want 1", jumps)
	}
	_, metrics := f.as("mallory", "GET", "/metrics", nil, nil)
	for _, want := range []string{`landfall_requests_total{code="",op="release"} 2`, `landfall_requests_total{code="LF-KEY-06",op="release"} 1`, "landfall_reset_jumps_total 1"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s:\n%s", want, metrics)
		}
	}
	for where, text := range map[string]string{"audit log": string(log), "log": f.log.String(), "metrics": metrics, "store": string(f.file("members/ks1/store.db"))} {
		for what, s := range map[string][]byte{"KEK": r.KEK.Key.Expose(), "owner authorization": owner.Expose(), "lockout authorization": lockout.Expose()} {
			for _, enc := range encodings(s) {
				if strings.Contains(text, enc) {
					t.Errorf("the %s holds the %s", where, what)
				}
			}
		}
	}
}

// What cannot be recorded is not released.
func TestNoAuditNoRelease(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	m.boot(serverImage, slice)
	if err := f.server.Close(); err != nil { // the log takes nothing from here on
		t.Fatal(err)
	}
	r, err := f.client().Release(ctx, m, 1)
	if r != nil {
		r.Close()
	}
	wantCode(t, "release without an audit log", err, report.KeyFleet)
	if status, _ := f.as("alice", "POST", "/v1/region/ship", nil, nil); status == 200 {
		t.Error("a state changed without a record, and it was called a success")
	}
}

package kekserver_test

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/audit"
)

// PCR 0, 2 and 7 of each release are in the audit log. Others than last time
// raise an alarm and refuse nothing; the region's moves and restarts of the
// member forget nothing.
func TestFirmwareDrift(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	var firmware, changed []string
	release := func(pcrs ...int) {
		t.Helper()
		m.boot(serverImage, slice)
		for _, n := range pcrs {
			m.extend(n, slices.Repeat([]byte{1}, 32))
		}
		values, err := m.sim.TPM().ReadPCRs()
		if err != nil {
			t.Fatal(err)
		}
		short := func(n int) string { return hex.EncodeToString(values[n][:16]) }
		firmware = append(firmware, "0="+short(0)+" 2="+short(2)+" 7="+short(7))
		r, err := f.client().Release(ctx, m, 1)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	release()
	release()
	if d := f.device().Drift; d != nil {
		t.Errorf("drift without a change: %+v", d)
	}
	release(0, 7)
	drift := f.device().Drift
	if drift == nil || drift.PCRs != "0,7" || drift.From != firmware[1] || drift.To != firmware[2] {
		t.Errorf("drift of PCR 0 and 7: %+v", drift)
	}
	release(0, 7)
	if d := f.device().Drift; d == nil || d.PCRs != "0,7" {
		t.Errorf("the alarm went away by itself: %+v", d)
	}
	f.must("POST", "/v1/region/ship", nil, nil)
	if status, body := f.receive(f.status().Shipment, "alice", "bob"); status != 200 {
		t.Fatal(body)
	}
	f.must("POST", "/v1/region/live", nil, nil)
	_, metrics := f.as("mallory", "GET", "/metrics", nil, nil)
	f.stop()
	f.start()
	release(0, 2, 7)
	if d := f.device().Drift; d == nil || d.PCRs != "2" {
		t.Errorf("drift on the journey: %+v", d)
	}
	if !strings.Contains(metrics, "landfall_firmware_changes_total 1") {
		t.Errorf("metrics do not count one change:\n%s", metrics)
	}
	var recorded []string
	if _, _, err := audit.Verify(f.file("members/ks1/audit.jsonl"), func(r audit.Record) error {
		if r.Event == "release" {
			recorded, changed = append(recorded, r.Firmware), append(changed, r.Changed)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(firmware, recorded); d != "" {
		t.Errorf("firmware in the audit log (-quoted +recorded):\n%s", d)
	}
	if d := cmp.Diff([]string{"", "", "0,7", "", "2"}, changed); d != "" {
		t.Errorf("firmware_changed (-want +got):\n%s", d)
	}
}

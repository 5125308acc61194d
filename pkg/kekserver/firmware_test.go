package kekserver_test

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
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

// Where the region wants it, changed firmware gets no key until an operator
// accepts just that firmware; then, and ever after, it does.
func TestFirmwareHold(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	release := func(what string, want report.Code, pcrs ...int) {
		t.Helper()
		m.boot(serverImage, slice)
		for _, n := range pcrs {
			m.extend(n, slices.Repeat([]byte{1}, 32))
		}
		r, err := f.client().Release(ctx, m, 1)
		if err == nil {
			r.Close()
		}
		if want == "" && err != nil || want != "" {
			wantCode(t, what, err, want)
		}
	}
	accept := func(firmware string) int {
		t.Helper()
		status, _ := f.as("alice", "POST", "/v1/devices/"+testDevice+"/firmware", &kekproto.AcceptFirmware{Firmware: firmware}, nil)
		return status
	}
	release("the first one", "")
	if status, _ := f.as("alice", "POST", "/v1/region/firmware", &kekproto.SetFirmwareDemand{Demand: "perhaps"}, nil); status != 400 {
		t.Errorf("a demand that is none: %d", status)
	}
	f.must("POST", "/v1/region/firmware", &kekproto.SetFirmwareDemand{Demand: kekproto.FirmwareHold}, nil)
	release("nothing changed", "")
	if got := accept("0=00"); got != 409 {
		t.Errorf("accepted what was never shown: %d", got)
	}
	release("PCR 0 changed", report.KeyFirmware, 0)
	first := f.device().Held
	if first == nil || first.PCRs != "0" {
		t.Fatalf("held for %+v, want PCR 0", first)
	}
	release("PCR 0 and 7 changed", report.KeyFirmware, 0, 7)
	if got := accept(first.To); got != 409 {
		t.Errorf("accepted what the device does not show any more: %d", got)
	}
	if got := accept(f.device().Held.To); got != 200 {
		t.Errorf("accept: %d", got)
	}
	release("not the accepted one", report.KeyFirmware, 0)
	f.stop()
	f.start()
	release("the accepted one, by a restarted member", "", 0, 7)
	release("the same again", "", 0, 7)
	release("back to the first", report.KeyFirmware)
	f.must("POST", "/v1/region/firmware", &kekproto.SetFirmwareDemand{Demand: kekproto.FirmwareRecord}, nil)
	release("recorded only", "")
	if d := f.device(); d.Held != nil || d.Drift == nil {
		t.Errorf("after a release: held %+v, alarm %+v", d.Held, d.Drift)
	}
	if n := f.auditLines("firmware-accepted"); n != 1 {
		t.Errorf("%d acceptances in the audit log, want 1", n)
	}
}

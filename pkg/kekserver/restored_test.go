package kekserver_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
)

// What took something away after the backup holds again, a removed device too,
// and all else that the log knows of is named as lost.
func TestRestoredFromTheLog(t *testing.T) {
	ctx := context.Background()
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	add := func(id string) {
		t.Helper()
		f.must("POST", "/v1/devices", &kekproto.NewDevice{Device: id}, nil)
	}
	m := newMachine(t)
	if _, err := f.client().Enroll(ctx, m.evidence(f.addDevice()), m.activate); err != nil {
		t.Fatal(err)
	}
	f.addSlice(1)
	add("stays")
	add("again")
	f.stop()
	backup := filepath.Join(t.TempDir(), "backup.db")
	if err := os.WriteFile(backup, f.file("members/"+testMember+"/store.db"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.start()
	f.must("POST", "/v1/devices/"+testDevice+"/remove", nil, nil)
	f.must("POST", "/v1/devices/again/remove", nil, nil)
	add("again")
	f.must("POST", "/v1/devices/again/suspend", &kekproto.Reason{Reason: "stolen"}, nil)
	f.must("POST", "/v1/devices/stays/suspend", &kekproto.Reason{Reason: "stolen"}, nil)
	f.must("POST", "/v1/region/links", &kekproto.SetLinkDemand{Demand: kekproto.DemandClean}, nil)
	f.must("POST", "/v1/region/firmware", &kekproto.SetFirmwareDemand{Demand: kekproto.FirmwareHold}, nil)
	f.stop()
	// What takes a sealed machine: as recovery.go and firmware.go write it.
	log, err := audit.Open(f.member.AuditPath(), audit.Head{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	head, _ := log.Head()
	for _, r := range []audit.Record{
		{Event: "recovery-escrowed", Device: "stays"},
		{Event: "recovery-requested", Device: "stays", Detail: "abc: board is dead"},
		{Event: "recovery-approved", Device: "stays", Detail: "abc: alice asked: board is dead"},
		{Event: "recovery-read", Device: "stays", Detail: "abc: bob approved: board is dead"},
		{Event: "firmware-accepted", Device: "stays"},
	} {
		r.Epoch = head.Epoch + 1
		if err := log.Append(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := f.member.Restore(ctx, backup, fleetdir.RestoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{testDevice + ": removed", "again: removed", "stays: suspend"}, out.Again); diff != "" {
		t.Errorf("holds again (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		"device-added again",
		"link-demand clean: set it again",
		"firmware-demand hold: set it again",
		"recovery-escrowed stays: the recovery key that its disks were given is not in the backup",
		"recovery-requested stays abc: board is dead",
		"recovery-approved stays abc: alice asked: board is dead",
		"firmware-accepted stays",
	}, out.Lost); diff != "" {
		t.Errorf("lost (-want +got):\n%s", diff)
	}
	f.start()
	for id, want := range map[string]int{testDevice: http.StatusNotFound, "again": http.StatusNotFound, "stays": http.StatusOK} {
		if got, body := f.as("alice", "GET", "/v1/devices/"+id, nil, nil); got != want {
			t.Errorf("%s: %d, want %d: %s", id, got, want, body)
		}
	}
	// The ID begins anew, without the first one's slice.
	f.addDevice().Wipe()
	if d := f.device(); d.Slice != 0 || d.Enrolled {
		t.Errorf("added again: %+v", d)
	}
	if f.stop(); !strings.Contains(string(f.file("members/"+testMember+"/audit.jsonl")), `"restored"`) {
		t.Error("the log does not say that a backup took the store's place")
	}
	f.start()
}

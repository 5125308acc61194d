package kekserver_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/fleet"
	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/measure"
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

// A log that lacks what a store saw would let a decision fall silently: it is
// refused by what the present store saw, and by what the backup saw where there
// is no store. Nothing is changed; without the log is another road.
func TestRestoreWantsTheWholeLog(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	f.addDevice().Wipe()
	f.stop()
	folder := filepath.Join(f.dir, "members", testMember)
	backup, path, store := filepath.Join(t.TempDir(), "backup.db"), filepath.Join(folder, "audit.jsonl"), filepath.Join(folder, "store.db")
	write := func(name string, text []byte) {
		t.Helper()
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(backup, f.file("members/"+testMember+"/store.db"))
	atBackup := f.file("members/" + testMember + "/audit.jsonl")
	f.start()
	f.must("POST", "/v1/devices/"+testDevice+"/suspend", &kekproto.Reason{Reason: "stolen"}, nil)
	f.stop()
	present, whole := f.file("members/"+testMember+"/store.db"), f.file("members/"+testMember+"/audit.jsonl")
	refused := func(what, who string) {
		t.Helper()
		before := f.file("members/" + testMember + "/audit.jsonl")
		_, err := f.member.Restore(context.Background(), backup, fleetdir.RestoreOptions{})
		if !errors.Is(err, audit.ErrBehind) || !strings.Contains(err.Error(), who) || !strings.Contains(err.Error(), "--without-log") {
			t.Errorf("%s: %v, want %v by %q, and a repair", what, err, audit.ErrBehind, who)
		}
		left, err := filepath.Glob(store + ".*")
		if err != nil || len(left) > 0 || !bytes.Equal(f.file("members/"+testMember+"/audit.jsonl"), before) {
			t.Errorf("%s: left %q, %v; log as before: %t", what, left, err, bytes.Equal(f.file("members/"+testMember+"/audit.jsonl"), before))
		}
	}
	write(path, atBackup)
	refused("without what came after the backup", "the store that is there")
	if !bytes.Equal(f.file("members/"+testMember+"/store.db"), present) {
		t.Error("the store is another one")
	}
	if err := os.Remove(store); err != nil {
		t.Fatal(err)
	}
	first, _, _ := bytes.Cut(atBackup, []byte("\n"))
	write(path, append(first, '\n'))
	refused("without a store, and with less than the backup saw", "the backup")

	write(path, whole)
	out, err := f.member.Restore(context.Background(), backup, fleetdir.RestoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{testDevice + ": suspend"}, out.Again); diff != "" {
		t.Errorf("holds again (-want +got):\n%s", diff)
	}
	f.start()
}

// restored is what a restore of a backup names, by the log as it is now.
func (f *region) restored(backup string) []string {
	f.t.Helper()
	ctx := context.Background()
	path := filepath.Join(f.t.TempDir(), "backup.db")
	if err := os.WriteFile(path, []byte(backup), 0o600); err != nil {
		f.t.Fatal(err)
	}
	key, err := kekstore.FileUnsealer{Path: filepath.Join(f.dir, "members", testMember, "barrier.key")}.BarrierKey(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	defer key.Wipe()
	store, err := kekstore.OpenBolt(path, key)
	if err != nil {
		f.t.Fatal(err)
	}
	out, err := fleet.Restore(ctx, store, f.events(""), false)
	if err := errors.Join(err, store.Close()); err != nil {
		f.t.Fatal(err)
	}
	return append(out.Again, out.Lost...)
}

// Whatever is decided right after a backup is named by its restore: as what holds
// again, or as lost.
func TestNamedRightAfterABackup(t *testing.T) {
	ctx := context.Background()
	f, m, _ := sealedDevice(t)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	path := "/v1/devices/" + testDevice
	zeros := make([]byte, measure.Size)
	var asked kekproto.RecoveryRequest
	for _, tt := range []struct {
		what string
		do   func()
		want []string // how each line begins
	}{
		{"nothing", func() {}, nil},
		{"a device", func() { f.another("r01-u02") }, []string{"device-added r01-u02", "enrol r01-u02 ek", "device-approved r01-u02 ek"}},
		{"authorizations", func() {
			_, _, err := f.client().Auths(ctx, m)
			check(err)
		}, []string{"auths " + testDevice}},
		{"a recovery key", func() {
			_, err := f.client().Recovery(ctx, m)
			check(err)
		}, []string{"recovery-escrowed " + testDevice}},
		{"a slice", func() { f.addSlice(2) }, []string{"slice " + testDevice}},
		{"an image", func() {
			f.addImage(measure.RoleServer, measure.FormUKI, map[int][]byte{4: bytes.Repeat([]byte{7}, 32), 9: zeros, 11: bytes.Repeat([]byte{7}, 32), 12: zeros})
		}, []string{"manifest landfall-server 1 role server, form uki"}},
		{"a minimum", func() {
			f.must("POST", "/v1/manifests/minimum", &kekproto.Minimum{Role: "server", Version: "1"}, nil)
		}, []string{"images of role server older than 1"}},
		{"a revocation", func() {
			f.must("POST", "/v1/manifests/revoke", &kekproto.Revocation{Image: "landfall-debug", Version: "1", Reason: "x"}, nil)
		}, []string{"landfall-debug 1 is revoked"}},
		{"a demand on links", func() {
			f.must("POST", "/v1/region/links", &kekproto.SetLinkDemand{Demand: kekproto.DemandClean}, nil)
		}, []string{"link-demand clean"}},
		{"a demand on firmware", func() {
			f.must("POST", "/v1/region/firmware", &kekproto.SetFirmwareDemand{Demand: kekproto.FirmwareHold}, nil)
		}, []string{"firmware-demand hold"}},
		{"a recovery request", func() { f.must("POST", recoveryPath, &kekproto.NewRecovery{Reason: "burnt"}, &asked) }, []string{"recovery-requested " + testDevice}},
		{"its approval", func() {
			if status, body := f.as("bob", "POST", recoveryPath+"/"+asked.ID+"/approve", nil, nil); status != http.StatusOK {
				t.Fatal(status, body)
			}
		}, []string{"recovery-approved " + testDevice + " ID: alice asked: burnt"}},
		{"a suspension", func() { f.must("POST", path+"/suspend", &kekproto.Reason{Reason: "x"}, nil) }, []string{testDevice + ": suspend"}},
		{"its end", func() { f.must("POST", path+"/resume", nil, nil) }, []string{testDevice + ": resume"}},
		{"the shipment", func() { f.must("POST", "/v1/region/ship", nil, nil) }, []string{"the region became in-transit"}},
	} {
		status, backup := f.as("alice", "GET", "/v1/backup", nil, nil)
		if status != http.StatusOK {
			t.Fatal(status, backup)
		}
		tt.do()
		got := f.restored(backup)
		same := len(got) == len(tt.want)
		for i := 0; same && i < len(got); i++ {
			same = strings.HasPrefix(got[i], strings.Replace(tt.want[i], "ID", asked.ID, 1))
		}
		if !same {
			t.Errorf("%s: named are %q, want %q", tt.what, got, tt.want)
		}
	}
}

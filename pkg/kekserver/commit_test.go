package kekserver_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/secret"
)

// killAt has the kernel end the process, as kill -9 does, at the next such system
// call on a file of the member, before it is done. killed waits for that.
func (p *process) killAt(call, file string) (killed func()) {
	p.f.t.Helper()
	path := filepath.Join(p.f.dir, "members", testMember, file)
	end := p.strace("-P", path, "-e", "trace="+call, "-e", "inject="+call+":signal=KILL:when=1")
	return func() { p.kill(); end() }
}

// newLines are those behind a line of the log that end what a command did: a
// member that was started again says that it starts.
func (f *region) newLines(after uint64) (events []string, last uint64) {
	f.t.Helper()
	_, rest, err := audit.Verify(f.file("members/"+testMember+"/audit.jsonl"), func(r audit.Record) error {
		if last = r.Number; r.Number > after {
			events = append(events, string(r.Event))
		}
		return nil
	})
	if err != nil || rest != 0 {
		f.t.Fatalf("the log: %d bytes are torn, %v", rest, err)
	}
	return events, last
}

// Each command is cut at its transaction: then nothing has changed and no line
// tells of it. And between that and its line: then the change is made, and its
// line is the first that comes after the restart, behind one that says why.
func TestCutOfEachCommand(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	m.boot(factoryImage, slice)
	other := newMachine(t)
	p := f.process(nil)
	start := func() {
		t.Helper()
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
	}
	start()
	var token kekproto.NewToken
	if err := p.ask("POST", "/v1/devices", &kekproto.NewDevice{Device: "other"}, &token); err != nil {
		t.Fatal(err)
	}
	ask := func(path string, in any) func() error {
		return func() error { return p.ask("POST", path, in, nil) }
	}
	image := &measure.Manifest{Type: measure.ManifestType, Image: "new", Version: "7", Role: measure.RoleServer, Form: measure.FormEFIKernel, PCRs: map[int]measure.Hex{}}
	for _, n := range measure.ImagePCRs() {
		image.PCRs[n] = bytes.Repeat([]byte{7}, measure.Size)
	}
	next, _ := f.slice(2)
	for _, c := range []struct {
		event string
		do    func() error
	}{
		{"device-added", ask("/v1/devices", &kekproto.NewDevice{Device: "third"})},
		{"enrol", func() error {
			client, e := f.client(), other.evidence(nil)
			client.Device, e.Token = "other", secret.Take([]byte(token.Token))
			_, err := client.Enroll(ctx, e, other.activate)
			return err
		}},
		{"device-approved", func() error {
			return p.ask("POST", "/v1/devices/other/approve", &kekproto.Approval{EKName: p.devices()["other"].EKName}, nil)
		}},
		{"suspend", ask("/v1/devices/other/suspend", &kekproto.Reason{Reason: "test"})},
		{"resume", ask("/v1/devices/other/resume", nil)},
		{"device-removed", ask("/v1/devices/other/remove", nil)},
		{"link-demand", ask("/v1/region/links", &kekproto.SetLinkDemand{Demand: kekproto.DemandNone})},
		{"firmware-demand", ask("/v1/region/firmware", &kekproto.SetFirmwareDemand{Demand: kekproto.FirmwareRecord})},
		{"manifest", ask("/v1/manifests", f.sign(image))},
		{"revoke", ask("/v1/manifests/revoke", &kekproto.Revocation{Image: "new", Version: "7", Reason: "test"})},
		{"minimum", ask("/v1/manifests/minimum", &kekproto.Minimum{Role: "server", Version: "1"})},
		{"auths", func() error {
			owner, lockout, err := f.client().Auths(ctx, m)
			if err == nil {
				owner.Wipe()
				lockout.Wipe()
			}
			return err
		}},
		{"kek-created", func() error {
			kek, err := f.client().CreateKEK(ctx, m, 2)
			if err == nil {
				kek.Key.Wipe()
			}
			return err
		}},
		{"sealed", func() error { return f.client().Sealed(ctx, m, 2) }},
		{"recovery-escrowed", func() error {
			key, err := f.client().Recovery(ctx, m)
			if err == nil {
				key.Wipe()
			}
			return err
		}},
		{"capture", func() error { return f.client().Capture(ctx, m, largeCapture(t)) }},
		{"recovery-requested", ask("/v1/devices/"+testDevice+"/recovery", &kekproto.NewRecovery{Reason: "test"})},
		{"slice", ask("/v1/slices", &kekproto.Document{Note: next})},
		{"region", ask("/v1/region/ship", nil)},
	} {
		for _, cut := range []struct{ call, file string }{{"pwrite64", "store.db"}, {"write", "audit.jsonl"}} {
			_, before := f.newLines(0)
			var was, is kekproto.Status
			if err := p.ask("GET", "/v1/status", nil, &was); err != nil {
				t.Fatal(err)
			}
			killed := p.killAt(cut.call, cut.file)
			if err := c.do(); err == nil {
				t.Errorf("%s, cut at a %s: it was answered", c.event, cut.file)
			}
			killed()
			start()
			if err := p.ask("GET", "/v1/status", nil, &is); err != nil {
				t.Fatal(err)
			}
			want, wrote := "start", uint64(0)
			if cut.file == "audit.jsonl" {
				want, wrote = strings.Join([]string{"settled", c.event, "start"}, " "), 1
			}
			events, _ := f.newLines(before)
			if got := strings.Join(events, " "); got != want || is.StoreEpoch-was.StoreEpoch != wrote {
				t.Errorf("%s, cut at a write to %s: %d changes, lines %q; want %d, %q", c.event, cut.file, is.StoreEpoch-was.StoreEpoch, got, wrote, want)
			}
		}
	}
	var st kekproto.Status
	if err := p.ask("GET", "/v1/status", nil, &st); err != nil || st.State != kekproto.StateInTransit {
		t.Errorf("after all of them the region is %q, %v", st.State, err)
	}
}

// What a member decided and could not record any more before it ended is not lost
// to a backup from before that: the log gets its line from the store that is
// there. Nor is the restore itself: its line is in the restored store.
func TestRestoreSettles(t *testing.T) {
	ctx := context.Background()
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	f.addDevice().Wipe()
	p := f.process(nil)
	backup := filepath.Join(t.TempDir(), "backup.db")
	if err := os.WriteFile(backup, f.file("members/"+testMember+"/store.db"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	killed := p.killAt("write", "audit.jsonl")
	if err := p.ask("POST", "/v1/devices/"+testDevice+"/suspend", &kekproto.Reason{Reason: "stolen"}, nil); err == nil {
		t.Fatal("it was answered")
	}
	killed()
	_, before := f.newLines(0)
	out, err := f.member.Restore(ctx, backup, fleetdir.RestoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{testDevice + ": suspend"}, out.Again); diff != "" {
		t.Errorf("holds again (-want +got):\n%s", diff)
	}
	events, last := f.newLines(before)
	if diff := cmp.Diff([]string{"settled", "suspend", "restored"}, events); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	// Without the line of the restore, as a power cut may leave it, and with it.
	log := f.file("members/" + testMember + "/audit.jsonl")
	cut := log[:bytes.LastIndexByte(log[:len(log)-1], '\n')+1]
	if err := os.WriteFile(filepath.Join(f.dir, "members", testMember, "audit.jsonl"), cut, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{{"settled", "restored", "start"}, {"start"}} {
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
		if !p.devices()[testDevice].Suspended {
			t.Error("the device is not suspended any more")
		}
		p.kill()
		events, now := f.newLines(last - 1)
		if diff := cmp.Diff(want, events); diff != "" {
			t.Errorf("lines (-want +got):\n%s", diff)
		}
		last = now + 1
	}
}

// A backup that was made between a change and its line has both: the log gets the
// line from it, where the store is lost.
func TestBackupOwes(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	f.addDevice().Wipe()
	p := f.process(nil)
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	killed := p.killAt("write", "audit.jsonl")
	if err := p.ask("POST", "/v1/devices/"+testDevice+"/suspend", &kekproto.Reason{Reason: "stolen"}, nil); err == nil {
		t.Fatal("it was answered")
	}
	killed()
	backup := filepath.Join(t.TempDir(), "backup.db")
	if err := os.Rename(filepath.Join(f.dir, "members", testMember, "store.db"), backup); err != nil {
		t.Fatal(err)
	}
	_, before := f.newLines(0)
	if _, err := f.member.Restore(context.Background(), backup, fleetdir.RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	if !p.devices()[testDevice].Suspended {
		t.Error("the device is not suspended any more")
	}
	events, _ := f.newLines(before)
	if diff := cmp.Diff([]string{"suspend", "restored", "start"}, events); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

package kekserver_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// twoVolumes adds an optional volume to the root.
func twoVolumes(s *snapshot.Slice) {
	data := s.Volumes[0]
	data.Name, data.Use, data.Need = "data", "data", "optional"
	s.Volumes = append(s.Volumes, data)
}

// posts boots the server image with a slice, has the key released and posts a
// report about these volumes; it says what the fleet answered.
func posts(f *region, m *machine, digest []byte, generation uint64, edit func(*report.BootReport), volumes ...report.BootVolume) bool {
	f.t.Helper()
	m.boot(serverImage, digest)
	r, err := f.client().Release(context.Background(), m, generation)
	if err != nil {
		f.t.Fatal(err)
	}
	defer r.Close()
	doc := &report.BootReport{Type: report.BootType, Device: testDevice, Slice: generation, Member: testMember, Volumes: volumes}
	if edit != nil {
		edit(doc)
	}
	text, err := json.Marshal(doc)
	if err != nil {
		f.t.Fatal(err)
	}
	accepted, err := r.Report(context.Background(), text)
	if err != nil {
		f.t.Fatal(err)
	}
	return accepted
}

// A device is accepted once the server image has opened every volume of the
// recorded slice, with the key that it is sealed under.
func TestAccepted(t *testing.T) {
	f, m, _ := sealedDevice(t)
	note, digest := f.slice(2, twoVolumes)
	f.must("POST", "/v1/slices", &kekproto.Document{Note: note}, nil)
	root, data := report.BootVolume{Name: "root", Opened: true}, report.BootVolume{Name: "data", Opened: true}
	closed := report.BootVolume{Name: "data", Code: report.DiskMissing}
	for _, c := range []struct {
		name    string
		edit    func(*report.BootReport)
		volumes []report.BootVolume
	}{
		{"no volumes", nil, nil},
		{"the required one only", nil, []report.BootVolume{root}},
		{"the optional one is closed", nil, []report.BootVolume{root, closed}},
		{"closed and opened", nil, []report.BootVolume{root, closed, data}},
		{"another device's", func(r *report.BootReport) { r.Device = "r01-u02" }, []report.BootVolume{root, data}},
		{"an older slice's", func(r *report.BootReport) { r.Slice = 1 }, []report.BootVolume{root, data}},
		{"another document", func(r *report.BootReport) { r.Type = "landfall.dev/boot-report/v9" }, []report.BootVolume{root, data}},
	} {
		if posts(f, m, digest, 2, c.edit, c.volumes...) || f.device().Accepted != 0 {
			t.Errorf("%s: accepted", c.name)
		}
	}
	for range 2 {
		if !posts(f, m, digest, 2, nil, data, root) {
			t.Error("all opened: not accepted")
		}
	}
	if d := f.device(); d.Accepted != 1 || f.status().Accepted != 1 {
		t.Errorf("accepted under %d, the status counts %d", d.Accepted, f.status().Accepted)
	}
	if n := len(f.events("accepted")); n != 1 {
		t.Errorf("%d lines in the audit log, want 1", n)
	}
	f.stop()
	f.start()
	if !posts(f, m, digest, 2, nil, root, closed) {
		t.Error("what was accepted is no more after a restart, with a broken disk")
	}
	f.must("POST", "/v1/region/ship", nil, nil)
	if status, body := f.receive(f.status().Shipment, "alice", "bob"); status != 200 {
		t.Fatal(body)
	}
	f.must("POST", "/v1/region/live", nil, nil)
	if posts(f, m, digest, 2, nil, root, data) || f.device().Accepted != 1 {
		t.Error("a machine at its destination is told that it is safe to ship")
	}
}

// What is sealed anew, or has other volumes, is to be accepted anew.
func TestAcceptedAnew(t *testing.T) {
	ctx := context.Background()
	f, m, first := sealedDevice(t)
	root := report.BootVolume{Name: "root", Opened: true}
	if !posts(f, m, first, 1, nil, root) {
		t.Fatal("not accepted")
	}
	f.addSlice(2)
	if f.device().Accepted != 1 {
		t.Error("a slice of the same volumes ends the acceptance")
	}
	note, digest := f.slice(3, twoVolumes)
	f.must("POST", "/v1/slices", &kekproto.Document{Note: note}, nil)
	if f.device().Accepted != 0 {
		t.Error("accepted with a volume that nobody opened")
	}
	if !posts(f, m, digest, 3, nil, root, report.BootVolume{Name: "data", Opened: true}) {
		t.Error("not accepted with both")
	}
	m.boot(factoryImage, digest)
	kek, err := f.client().CreateKEK(ctx, m, 2)
	if err != nil {
		t.Fatal(err)
	}
	kek.Key.Wipe()
	if err := f.client().Sealed(ctx, m, 2); err != nil {
		t.Fatal(err)
	}
	if posts(f, m, digest, 3, nil, root) {
		t.Error("sealed under generation 2, accepted by an opened root only")
	}
	if !posts(f, m, digest, 3, nil, root, report.BootVolume{Name: "data", Opened: true}) || f.device().Accepted != 2 {
		t.Error("not accepted under generation 2")
	}
}

// A key that was released before the device was sealed anew accepts nothing.
func TestAcceptedByAnOldKey(t *testing.T) {
	ctx := context.Background()
	f, m, digest := sealedDevice(t)
	m.boot(serverImage, digest)
	old, err := f.client().Release(ctx, m, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	m.boot(factoryImage, digest)
	kek, err := f.client().CreateKEK(ctx, m, 2)
	if err != nil {
		t.Fatal(err)
	}
	kek.Key.Wipe()
	if err := f.client().Sealed(ctx, m, 2); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(&report.BootReport{Type: report.BootType, Device: testDevice, Slice: 1,
		Volumes: []report.BootVolume{{Name: "root", Opened: true}}})
	if err != nil {
		t.Fatal(err)
	}
	if accepted, err := old.Report(ctx, text); err != nil || accepted || f.device().Accepted != 0 {
		t.Errorf("accepted by what an older key opened: %v, %v", accepted, err)
	}
}

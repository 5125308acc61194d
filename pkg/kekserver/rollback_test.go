package kekserver_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/report"
)

// An older store file as a whole is consistent in itself; the audit log tells,
// even if it is older by one write only.
func TestOlderStoreIsRefused(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	f.addDevice().Wipe()
	f.stop()
	path := filepath.Join(f.dir, "members", testMember, "store.db")
	older := f.file("members/" + testMember + "/store.db")
	f.start()
	f.must("POST", "/v1/devices/"+testDevice+"/suspend", &kekproto.Reason{Reason: "stolen"}, nil)
	f.stop()
	if err := os.WriteFile(path, older, 0o600); err != nil {
		t.Fatal(err)
	}
	member, err := fleetdir.LoadMember(filepath.Join(f.dir, "members", testMember, "kekd.json"))
	if err != nil {
		t.Fatal(err)
	}
	unsealer, err := member.Unsealer("")
	if err != nil {
		t.Fatal(err)
	}
	server, store, err := member.Open(context.Background(), unsealer, slog.New(slog.DiscardHandler))
	if err == nil {
		t.Error("a member started on a store from before a suspension")
		err = errors.Join(server.Close(), store.Close())
	}
	if !errors.Is(err, kekstore.ErrTampered) {
		t.Errorf("older store: %v, want %v", err, kekstore.ErrTampered)
	}
}

// An enrolment that began in the factory does not end after the region left.
func TestEnrolmentEndsWithBuilding(t *testing.T) {
	ctx := context.Background()
	f, m := newFleet(t, fleetdir.Options{EKPolicy: "record"}), newMachine(t)
	_, err := f.client().Enroll(ctx, m.evidence(f.addDevice()), func(credential, encrypted []byte) ([]byte, error) {
		f.must("POST", "/v1/region/ship", nil, nil)
		return m.activate(credential, encrypted)
	})
	wantCode(t, "finish after ship", err, report.KeyEnroll)
	if f.device().Enrolled || f.auditLines("enrol") != 0 {
		t.Error("a device was enrolled in transit")
	}
}

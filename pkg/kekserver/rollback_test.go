package kekserver_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// An older store file as a whole is consistent in itself; the audit log tells,
// even if it is older by one write only.
func TestOlderStoreIsRefused(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	f.addDevice().Wipe()
	f.stop()
	older := f.file("members/" + testMember + "/store.db")
	f.start()
	f.must("POST", "/v1/devices/"+testDevice+"/suspend", &kekproto.Reason{Reason: "stolen"}, nil)
	f.stop()
	f.refusesStore("a store from before a suspension", older)
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

// A further token is for a device that was added: not for a slip of the pen,
// which would then wait for enrolment until the region ships.
func TestFurtherTokenOfAnUnknownDevice(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	again := &kekproto.NewDevice{Device: testDevice, Again: true}
	if status, body := f.as("alice", "POST", "/v1/devices", again, nil); status != http.StatusNotFound || !strings.Contains(body, "never added") {
		t.Errorf("a further token of an unknown device: %d %s", status, body)
	}
	if n := f.status().Devices; n != 0 {
		t.Errorf("%d devices, want none", n)
	}
	f.addDevice().Wipe()
	f.must("POST", "/v1/devices", again, nil)
}

package kekserver_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// An ID that was taken back is no device, for nobody, and can be added again for
// another machine, which gets nothing of the first one's.
func TestRemovedDevice(t *testing.T) {
	ctx := context.Background()
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	const path = "/v1/devices/" + testDevice
	first, second := newMachine(t), newMachine(t)
	enrol := func(m *machine, token *secret.Bytes) {
		t.Helper()
		if _, err := f.client().Enroll(ctx, m.evidence(token), m.activate); err != nil {
			t.Fatal(err)
		}
		f.must("POST", path+"/approve", &kekproto.Approval{EKName: f.device().EKName}, nil)
	}
	enrol(first, f.addDevice())
	f.addImage(measure.RoleFactory, measure.FormEFIKernel, first.boot(factoryImage, nil))
	owner, _, err := f.client().Auths(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	f.addSlice(1)
	f.addSlice(2)
	f.must("POST", path+"/remove", nil, nil)

	gone := func(when string) {
		t.Helper()
		if st := f.status(); st.Devices != 0 {
			t.Errorf("%s: %d devices", when, st.Devices)
		}
		var links []kekproto.LinksInfo
		if f.must("GET", "/v1/links", nil, &links); len(links) != 0 {
			t.Errorf("%s: links of %v", when, links)
		}
		body := map[string]any{"/suspend": &kekproto.Reason{Reason: "x"}}
		for _, what := range []string{"", "/remove", "/suspend"} {
			method := map[bool]string{true: "GET", false: "POST"}[what == ""]
			if status, body := f.as("alice", method, path+what, body[what], nil); status != http.StatusNotFound {
				t.Errorf("%s: %s %q: %d %s", when, method, what, status, body)
			}
		}
		if status, _ := f.as("alice", "POST", "/v1/devices", &kekproto.NewDevice{Device: testDevice, Again: true}, nil); status != http.StatusNotFound {
			t.Errorf("%s: a further token: %d", when, status)
		}
		if _, _, err := f.client().Auths(ctx, first); err == nil {
			t.Errorf("%s: the first machine gets authorizations", when)
		}
	}
	gone("removed")
	f.stop()
	f.start()
	gone("after a restart")

	enrol(second, f.addDevice())
	second.boot(factoryImage, nil)
	if d := f.device(); d.Slice != 0 || len(d.Capture) != 0 || d.Refuse != nil || d.EKName == "" {
		t.Errorf("the second machine has of the first one: %+v", d)
	}
	other, _, err := f.client().Auths(ctx, second)
	if err != nil || other.Equal(owner) {
		t.Errorf("the second TPM's authorization is the first one's, or %v", err)
	}
	if _, _, err := f.client().Auths(ctx, first); err == nil {
		t.Error("the first machine passes as the second")
	}
	f.addSlice(1)
	if status, body := f.as("alice", "GET", "/v1/audit", nil, nil); status != http.StatusOK || !strings.Contains(body, `"device-removed"`) {
		t.Errorf("audit log: %d, no removal", status)
	}
}

// A device that was given a key stays: sealed or not.
func TestWhatWasGivenAKeyIsNotRemoved(t *testing.T) {
	f, m, slice := sealedDevice(t)
	if status, body := f.as("alice", "POST", "/v1/devices/"+testDevice+"/remove", nil, nil); status != http.StatusConflict || !strings.Contains(body, "ship --unsealed-too") {
		t.Errorf("removed: %d %s", status, body)
	}
	m.boot(serverImage, slice)
	f.must("POST", "/v1/region/ship", nil, nil)
	f.released("in transit", m, 1, report.KeyState)
}

// A device that was given its recovery key stays, though it asked for no other:
// whoever has it could read what is sealed under that ID later.
func TestRecoveryKeyStays(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	m := newMachine(t)
	if _, err := f.client().Enroll(context.Background(), m.evidence(f.addDevice()), m.activate); err != nil {
		t.Fatal(err)
	}
	f.must("POST", "/v1/devices/"+testDevice+"/approve", &kekproto.Approval{EKName: f.device().EKName}, nil)
	f.addImage(measure.RoleFactory, measure.FormEFIKernel, m.boot(factoryImage, f.addSlice(1)))
	key, err := f.client().Recovery(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	key.Wipe()
	if status, body := f.as("alice", "POST", "/v1/devices/"+testDevice+"/remove", nil, nil); status != http.StatusConflict || !strings.Contains(string(body), "recovery key") {
		t.Errorf("removed: %d %s", status, body)
	}
}

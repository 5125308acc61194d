package kekserver_test

import (
	"context"
	"testing"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
)

// A refusal leaves status and explain when it is mended, at once and after a
// restart, and the hold of a device that waits for approval says what to do.
func TestMendedRefusalsAreGone(t *testing.T) {
	ctx := context.Background()
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	m := newMachine(t)
	const path = "/v1/devices/" + testDevice
	if _, err := f.client().Enroll(ctx, m.evidence(f.addDevice()), m.activate); err != nil {
		t.Fatal(err)
	}
	f.addImage(measure.RoleFactory, measure.FormEFIKernel, m.boot(factoryImage, nil))
	refused := func(when string, want report.Code) {
		t.Helper()
		for _, at := range []string{when, when + ", after a restart"} {
			got := ""
			if r := f.device().Refuse; r != nil {
				got = r.Code
			}
			if st := f.status(); got != string(want) || (len(st.Refused) > 0) != (want != "") {
				t.Errorf("%s: last refusal %q, want %q; %d refused in status", at, got, want, len(st.Refused))
			}
			f.stop()
			f.start()
		}
	}
	auths := func(want report.Code) {
		t.Helper()
		_, _, err := f.client().Auths(ctx, m)
		if want != "" {
			wantCode(t, "authorizations", err, want)
		} else if err != nil {
			t.Error(err)
		}
	}
	auths(report.KeyEnroll)
	if r := f.device().Refuse; r == nil || r.Repair != "compare the EK name at the machine with the fleet's, then `kekctl device approve "+testDevice+" --ek-name "+f.device().EKName+"`" {
		t.Errorf("the repair of a missing approval: %+v", r)
	}
	refused("not approved", report.KeyEnroll)
	f.must("POST", path+"/approve", &kekproto.Approval{EKName: f.device().EKName}, nil)
	refused("approved", "")
	f.must("POST", path+"/suspend", &kekproto.Reason{Reason: "x"}, nil)
	auths(report.KeySuspended)
	refused("suspended", report.KeySuspended)
	f.must("POST", path+"/resume", nil, nil)
	refused("resumed", "")
	m.boot("x", nil)
	auths(report.KeyImage)
	refused("another image", report.KeyImage)
	m.boot(factoryImage, nil)
	auths("")
	refused("the right image", "")
}

package kekserver_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// TestOneTPMOneDevice: a machine cannot be two devices, one after the other or
// both at once, and is told which it is.
func TestOneTPMOneDevice(t *testing.T) {
	ctx := context.Background()
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	m := newMachine(t)
	first := m.evidence(f.addDevice())
	var token kekproto.NewToken
	const other = "r01-u02"
	f.must("POST", "/v1/devices", &kekproto.NewDevice{Device: other}, &token)
	second := m.evidence(secret.Take([]byte(token.Token)))
	asOther := f.client()
	asOther.Device = other

	refused := func(what, is string, err error) {
		t.Helper()
		wantCode(t, what, err, report.KeyEnroll)
		var p *report.Problem
		if errors.As(err, &p) && !strings.Contains(p.What, "this TPM is "+is+" already") {
			t.Errorf("%s: %s", what, p.What)
		}
	}
	_, err := asOther.Enroll(ctx, second, func(credential, encrypted []byte) ([]byte, error) {
		// Before it finishes, the same TPM enrols as the first device.
		if _, err := f.client().Enroll(ctx, first, m.activate); err != nil {
			t.Error(err)
		}
		return m.activate(credential, encrypted)
	})
	refused("both at once", testDevice, err)
	_, err = asOther.Enroll(ctx, second, m.activate)
	refused("one after the other", testDevice, err)
	if _, err := f.client().Enroll(ctx, first, m.activate); err != nil {
		t.Errorf("the same device again: %v", err)
	}
}

// TestEnrolAfterARemoval: an ID that was taken back is no device that another one
// could be.
func TestEnrolAfterARemoval(t *testing.T) {
	f, m := newFleet(t, fleetdir.Options{EKPolicy: "record"}), newMachine(t)
	f.must("POST", "/v1/devices", &kekproto.NewDevice{Device: "r01-u0l"}, nil)
	f.must("POST", "/v1/devices/r01-u0l/remove", nil, nil)
	if _, err := f.client().Enroll(context.Background(), m.evidence(f.addDevice()), m.activate); err != nil {
		t.Error(err)
	}
}

// TestDeliveredTPMs: where the region lists the TPMs that were ordered, a maker's
// certificate alone approves no other.
func TestDeliveredTPMs(t *testing.T) {
	ctx := context.Background()
	m := newMachine(t)
	name, err := attest.Name(m.keys.EK)
	if err != nil {
		t.Fatal(err)
	}
	roots := m.roots()
	list := filepath.Join(t.TempDir(), "delivery")
	for _, c := range []struct {
		what, list, policy string
		code               report.Code
		approved           bool
	}{
		{"listed", "# order 4711\n" + name + " r01-u01\n", "required", "", true},
		{"not listed", "000b" + strings.Repeat("0", 64) + "\n", "required", report.TPMNoCert, false},
		{"not listed, an operator decides", "000b" + strings.Repeat("0", 64) + "\n", "record", "", false},
	} {
		if err := os.WriteFile(list, []byte(c.list), 0o600); err != nil {
			t.Fatal(err)
		}
		f := newFleet(t, fleetdir.Options{EKPolicy: c.policy, EKRoots: roots, EKDelivery: list})
		_, err := f.client().Enroll(ctx, m.evidence(f.addDevice()), m.activate)
		if c.code != "" {
			wantCode(t, c.what, err, c.code)
			if !strings.Contains(err.Error(), "none of those in the list of delivered TPMs") {
				t.Errorf("%s: %v", c.what, err)
			}
		} else if err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if got := f.device().Approved; got != c.approved {
			t.Errorf("%s: approved %v", c.what, got)
		}
	}
	for what, o := range map[string]fleetdir.Options{
		"without roots": {EKPolicy: "record", EKDelivery: list},
		"no such file":  {EKPolicy: "required", EKRoots: roots, EKDelivery: list + "x"},
		"no list":       {EKPolicy: "required", EKRoots: roots, EKDelivery: roots},
	} {
		o.Region = testRegion
		if err := fleetdir.Init(ctx, filepath.Join(t.TempDir(), "region"), o); err == nil || !strings.Contains(err.Error(), "delivered TPMs") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

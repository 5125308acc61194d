package kekserver_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/signed"
)

// Every step from every state: only the four in their order are taken.
func TestRegionStates(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	states := []kekproto.RegionState{kekproto.StateBuilding, kekproto.StateInTransit, kekproto.StateReceived, kekproto.StateLive}
	steps := []func() int{
		func() int { s, _ := f.as("alice", "POST", "/v1/region/ship", nil, nil); return s },
		func() int { s, _ := f.receive(f.status().Shipment, "alice", "bob"); return s },
		func() int { s, _ := f.as("alice", "POST", "/v1/region/live", nil, nil); return s },
	}
	for at, state := range states {
		if got := f.status().State; got != state {
			t.Fatalf("state is %s, want %s", got, state)
		}
		for i, step := range steps {
			if i == at {
				continue
			}
			if status := step(); status != http.StatusConflict {
				t.Errorf("step %d in state %s: HTTP %d, want 409", i, state, status)
			}
			if got := f.status().State; got != state {
				t.Fatalf("step %d took %s to %s", i, state, got)
			}
		}
		if at < len(steps) {
			if status := steps[at](); status != http.StatusOK {
				t.Fatalf("step %d in state %s: HTTP %d", at, state, status)
			}
		}
	}
}

func TestReceivedBundles(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	f.must("POST", "/v1/region/ship", nil, nil)
	shipment := f.status().Shipment
	if len(shipment) != 32 {
		t.Fatalf("shipment %q", shipment)
	}
	sign := func(key string, r kekproto.Received) []byte {
		t.Helper()
		msg, err := signed.Sign(&r, f.signer(key))
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	good := kekproto.Received{Type: kekproto.ReceivedType, Region: testRegion, Shipment: shipment}
	alice, bob := sign("agents/alice/note.key", good), sign("agents/bob/note.key", good)
	foreign, earlier := good, good
	foreign.Region, earlier.Shipment = "other", strings.Repeat("0", 32)
	typed := good
	typed.Type = "landfall.dev/slice/v1"
	for name, notes := range map[string][][]byte{
		"nothing":                 nil,
		"one agent":               {alice},
		"one agent twice":         {alice, alice},
		"one by the region root":  {alice, sign("offline/root.key", good)},
		"another region":          {alice, sign("agents/bob/note.key", foreign)},
		"another shipment":        {alice, sign("agents/bob/note.key", earlier)},
		"another type":            {alice, sign("agents/bob/note.key", typed)},
		"a changed text":          {alice, []byte(strings.Replace(string(bob), testRegion, "best", 1))},
		"two good ones and a bad": {alice, bob, []byte("junk")},
		"a hundred copies":        slices.Repeat([][]byte{alice, bob}, 50),
	} {
		if status, body := f.as("alice", "POST", "/v1/region/received", &kekproto.Bundle{Notes: notes}, nil); status == http.StatusOK {
			t.Errorf("%s: received: %s", name, body)
		}
		if got := f.status().State; got != kekproto.StateInTransit {
			t.Fatalf("%s: state is %s", name, got)
		}
	}
	// One note with both signatures is as good as two notes.
	both, err := signed.Sign(&good, f.signer("agents/alice/note.key"), f.signer("agents/bob/note.key"))
	if err != nil {
		t.Fatal(err)
	}
	if status, body := f.as("bob", "POST", "/v1/region/received", &kekproto.Bundle{Notes: [][]byte{both}}, nil); status != http.StatusOK {
		t.Errorf("both signatures in one note: %d %s", status, body)
	}
}

func TestEnrolment(t *testing.T) {
	ctx := context.Background()
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	m, other := newMachine(t), newMachine(t)
	token := f.addDevice()
	refused := func(what string, err error) {
		t.Helper()
		wantCode(t, what, err, report.KeyEnroll)
	}
	enroll := func(m *machine, token *secret.Bytes) error {
		_, err := f.client().Enroll(ctx, m.evidence(token), m.activate)
		return err
	}
	refused("wrong token", enroll(m, secret.Take([]byte("guess"))))
	refused("no token", enroll(m, secret.New(0)))
	wrong := func(credential, encrypted []byte) ([]byte, error) {
		proof, err := m.activate(credential, encrypted)
		proof[0] ^= 1
		return proof, err
	}
	_, err := f.client().Enroll(ctx, m.evidence(token), wrong)
	refused("credential not opened", err)
	mixed := m.evidence(token)
	mixed.EKPublic, mixed.EKCert = other.keys.EK, nil
	if _, err = f.client().Enroll(ctx, mixed, m.activate); err == nil {
		t.Error("EK of one TPM and AK of another were enrolled")
	}
	if f.device().Enrolled {
		t.Fatal("a refused enrolment was recorded")
	}
	if err := enroll(m, token); err != nil {
		t.Fatal(err)
	}
	if err := enroll(m, token); err != nil {
		t.Errorf("the same enrolment again, as after a power cut: %v", err)
	}
	refused("another machine with the used token", enroll(other, token))

	// No EK certificate that the member can check: nothing is given out yet.
	m.boot(factoryImage, nil)
	f.addImage(measure.RoleFactory, measure.FormEFIKernel, m.boot(factoryImage, nil))
	_, _, err = f.client().Auths(ctx, m)
	refused("not approved", err)
	if status, _ := f.as("alice", "POST", "/v1/devices/"+testDevice+"/approve", &kekproto.Approval{EKName: "000b00"}, nil); status != http.StatusConflict {
		t.Errorf("approval of another EK: %d", status)
	}
	f.must("POST", "/v1/devices/"+testDevice+"/approve", &kekproto.Approval{EKName: f.device().EKName}, nil)
	if a, b, err := f.client().Auths(ctx, m); err != nil {
		t.Errorf("approved: %v", err)
	} else {
		a.Wipe()
		b.Wipe()
	}
	wantCode(t, "KEK before there is a slice", factoryOp(ctx, f, m, kekproto.OpKEK), report.KeySliceNew)

	// A further token takes the same EK only.
	var again kekproto.NewToken
	f.must("POST", "/v1/devices", &kekproto.NewDevice{Device: testDevice, Again: true}, &again)
	refused("another EK with a further token", enroll(other, secret.Take([]byte(again.Token))))
	refused("the first token", enroll(m, token))
	if err := enroll(m, secret.Take([]byte(again.Token))); err != nil {
		t.Errorf("the same machine with a further token: %v", err)
	}
	if !f.device().Approved {
		t.Error("the approval of the same EK was lost")
	}

	// A captured token is worth nothing once the region has left.
	f.must("POST", "/v1/devices", &kekproto.NewDevice{Device: testDevice, Again: true}, &again)
	f.must("POST", "/v1/region/ship", nil, nil)
	refused("after ship", enroll(m, secret.Take([]byte(again.Token))))
}

func TestEKCertificates(t *testing.T) {
	ctx := context.Background()
	m := newMachine(t)
	f := newFleet(t, fleetdir.Options{EKPolicy: "required", EKRoots: m.roots()})
	token := f.addDevice()
	for name, cert := range map[string][]byte{"no certificate": nil, "junk": []byte("junk"), "another machine's": newMachine(t).evidence(token).EKCert} {
		e := m.evidence(token)
		e.EKCert = cert
		_, err := f.client().Enroll(ctx, e, m.activate)
		wantCode(t, name, err, report.TPMNoCert)
		var p *report.Problem
		if ek, _ := attest.Name(m.keys.EK); !errors.As(err, &p) || !strings.Contains(p.What, ek) || !strings.Contains(p.Repair(), "kekctl init --ek-cert record") {
			t.Errorf("%s: neither EK name nor repair in %v, %v", name, err, p)
		}
	}
	if _, err := f.client().Enroll(ctx, m.evidence(token), m.activate); err != nil {
		t.Fatal(err)
	}
	if info := f.device(); !info.Approved || !info.Enrolled {
		t.Errorf("a device with a valid EK certificate waits for approval: %+v", info)
	}
}

// A generation of a KEK is one key, whoever asks when.
func TestKEKIsWriteOnce(t *testing.T) {
	ctx := context.Background()
	f, m, _ := sealedDevice(t)
	var mu sync.Mutex
	serial := func(q []byte) (kekproto.Quote, error) { // one TPM
		mu.Lock()
		defer mu.Unlock()
		return m.Quote(q)
	}
	ids := map[string]int{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			kek, err := f.client().CreateKEK(ctx, quoterFunc(serial), 2)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ids[string(kek.ID[:])+string(kek.Key.Expose())]++
			kek.Key.Wipe()
		})
	}
	wg.Wait()
	if len(ids) != 1 {
		t.Errorf("%d different KEKs of one generation", len(ids))
	}
	if _, err := f.client().CreateKEK(ctx, m, 9); err == nil {
		t.Error("a generation was skipped")
	}
	wantCode(t, "sealed under a KEK that does not exist", f.client().Sealed(ctx, m, 9), report.KeyUnknown)
}

// The lab's unmeasured boots need a member that says so itself.
func TestLabProfile(t *testing.T) {
	ctx := context.Background()
	for _, lab := range []bool{false, true} {
		f := newFleet(t, fleetdir.Options{EKPolicy: "record", AllowLab: lab})
		m := newMachine(t)
		if _, err := f.client().Enroll(ctx, m.evidence(f.addDevice()), m.activate); err != nil {
			t.Fatal(err)
		}
		f.must("POST", "/v1/devices/"+testDevice+"/approve", &kekproto.Approval{EKName: f.device().EKName}, nil)
		status, body := f.tryImage(measure.RoleFactory, measure.FormLab, m.boot("", nil))
		if (status == http.StatusOK) != lab {
			t.Errorf("lab profile %v: manifest of an unmeasured boot: %d %s", lab, status, body)
		}
		if _, _, err := f.client().Auths(ctx, m); (err == nil) != lab {
			t.Errorf("lab profile %v: authorizations: %v", lab, err)
		}
		if st := f.status(); st.AllowLab != lab {
			t.Errorf("status does not tell about the lab profile: %+v", st)
		}
	}
}

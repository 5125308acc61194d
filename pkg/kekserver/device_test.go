package kekserver_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

// machine is a device with a real TPM emulator.
type machine struct {
	t    testing.TB
	sim  *tpmtest.Sim
	keys *tpm.Keys
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{t: t, sim: tpmtest.Start(t)}
	var err error
	if m.keys, err = m.sim.TPM().CreateKeys(); err != nil {
		t.Fatal(err)
	}
	return m
}

// boot power-cycles the machine and measures: an image into PCR 4, and a slice.
func (m *machine) boot(image string, slice []byte) map[int][]byte {
	m.t.Helper()
	m.sim.Restart()
	m.measure(image, slice)
	pcrs, err := m.sim.TPM().ReadPCRs()
	if err != nil {
		m.t.Fatal(err)
	}
	return pcrs
}

// measure is what a boot measures.
func (m *machine) measure(image string, slice []byte) {
	m.t.Helper()
	if image != "" {
		m.extend(4, bytes.Repeat([]byte{image[0]}, measure.Size))
		m.extend(9, bytes.Repeat([]byte{image[0]}, measure.Size))
	}
	if slice != nil {
		m.extend(measure.SlicePCR, slice)
	}
}

func (m *machine) extend(pcr int, digest []byte) {
	m.t.Helper()
	if err := m.sim.TPM().Extend(pcr, digest); err != nil {
		m.t.Fatal(err)
	}
}

// Quote implements kekclient.Quoter.
func (m *machine) Quote(qualifying []byte) (kekproto.Quote, error) {
	pcrs, err := m.sim.TPM().ReadPCRs()
	if err != nil {
		return kekproto.Quote{}, err
	}
	return m.sim.TPM().Quote(qualifying, pcrs)
}

func (m *machine) evidence(token *secret.Bytes) kekclient.Evidence {
	m.t.Helper()
	cert, err := m.sim.TPM().EKCertificate()
	if err != nil {
		m.t.Fatal(err)
	}
	return kekclient.Evidence{Token: token, EKPublic: m.keys.EK, EKCert: cert, AKPublic: m.keys.AK, SRKPublic: m.keys.SRK}
}

func (m *machine) activate(credential, encrypted []byte) ([]byte, error) {
	return m.sim.TPM().ActivateCredential(credential, encrypted, m.keys.SRK)
}

// The images of the tests: what boot measures into PCR 4.
const (
	serverImage  = "server"
	factoryImage = "factory"
	debugImage   = "debug"
)

// sealedDevice is a device that has gone through the factory: enrolled,
// approved, with a slice, KEK 1 and images known to the fleet.
func sealedDevice(t testing.TB) (*region, *machine, []byte) {
	t.Helper()
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	m := newMachine(t)
	ctx := context.Background()
	if _, err := f.client().Enroll(ctx, m.evidence(f.addDevice()), m.activate); err != nil {
		t.Fatal(err)
	}
	f.must("POST", "/v1/devices/"+testDevice+"/approve", &kekproto.Approval{EKName: f.device().EKName}, nil)
	slice := f.addSlice(1)
	f.addImage(measure.RoleServer, measure.FormEFIKernel, m.boot(serverImage, slice))
	f.addImage(measure.RoleDebug, measure.FormEFIKernel, m.boot(debugImage, slice))
	f.addImage(measure.RoleFactory, measure.FormEFIKernel, m.boot(factoryImage, slice))
	kek, err := f.client().CreateKEK(ctx, m, 1)
	if err != nil {
		t.Fatal(err)
	}
	kek.Key.Wipe()
	if err := f.client().Sealed(ctx, m, 1); err != nil {
		t.Fatal(err)
	}
	return f, m, slice
}

func wantCode(t testing.TB, what string, err error, want report.Code) {
	t.Helper()
	var problem *report.Problem
	if !errors.As(err, &problem) || problem.Code != want {
		t.Errorf("%s: %v, want %s", what, err, want)
	}
}

func TestLifeOfADevice(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)

	a, b, err := f.client().Auths(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	a2, b2, err := f.client().Auths(ctx, m)
	if err != nil || !a.Equal(a2) || !b.Equal(b2) || a.Equal(b) || a.Len() != 32 {
		t.Fatalf("authorizations are not the same each time, or not two: %v", err)
	}
	kek, err := f.client().CreateKEK(ctx, m, 1)
	if err != nil {
		t.Fatal(err)
	}

	// Acceptance test while building, then the journey.
	m.boot(serverImage, slice)
	release := func(what string, want report.Code) {
		t.Helper()
		r, err := f.client().Release(ctx, m, 1)
		if want != "" {
			wantCode(t, what, err, want)
			return
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		defer r.Close()
		if !r.KEK.Key.Equal(kek.Key) || r.KEK.ID != kek.ID || r.KEK.Generation != 1 || r.Member != testMember {
			t.Errorf("%s: another KEK was released", what)
		}
		if _, err := r.Report(ctx, []byte(`{"verdict":"ok"}`)); err != nil {
			t.Errorf("%s: report: %v", what, err)
		}
	}
	release("acceptance test", "")
	if info := f.device(); info.Seen == nil || info.Sealed != 1 || info.Report != `{"verdict":"ok"}` {
		t.Errorf("device record after the acceptance test: %+v", info)
	}
	f.must("POST", "/v1/region/ship", nil, nil)
	release("in transit", report.KeyState)
	if status, body := f.receive(f.status().Shipment, "alice"); status == 200 {
		t.Errorf("one agent of two made the region received: %s", body)
	}
	if status, body := f.receive(f.status().Shipment, "alice", "bob"); status != 200 {
		t.Fatalf("received: %d %s", status, body)
	}
	release("received", report.KeyState)
	f.must("POST", "/v1/region/live", nil, nil)
	release("live", "")

	f.must("POST", "/v1/devices/"+testDevice+"/suspend", &kekproto.Reason{Reason: "crate was opened"}, nil)
	release("suspended", report.KeySuspended)
	if info := f.device(); info.Refuse == nil || info.Refuse.Code != string(report.KeySuspended) {
		t.Errorf("last refusal: %+v", info.Refuse)
	}
	f.must("POST", "/v1/devices/"+testDevice+"/resume", nil, nil)
	release("resumed", "")

	// A restart of the member changes nothing.
	f.stop()
	f.start()
	release("after a restart", "")
	if st := f.status(); st.State != kekproto.StateLive || st.Released != 1 || st.Sealed != 1 {
		t.Errorf("status after a restart: %+v", st)
	}
}

func TestReleaseRefusals(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	older := slices.Clone(slice)
	release := func(what string, want report.Code) {
		t.Helper()
		r, err := f.client().Release(ctx, m, 1)
		if err == nil {
			r.Close()
		}
		wantCode(t, what, err, want)
	}
	m.boot(factoryImage, slice)
	release("factory image asks for a release", report.KeyImage)
	m.boot(debugImage, slice)
	release("debug image", report.KeyImage)
	m.boot("x", slice)
	release("unknown image", report.KeyImage)
	m.boot(serverImage, slice)
	m.extend(measure.CapPCR, measure.CapDigest())
	release("capped", report.KeyImage)
	m.boot(serverImage, nil)
	release("no slice measured", report.KeySliceNew)
	m.boot(serverImage, make([]byte, 32))
	release("another slice measured", report.KeySliceNew)

	// Each refusal is explained and counted, and none of them named a KEK.
	if st := f.status(); len(st.Refused) != 1 || st.Refused[0].Refuse.Count < 6 || !st.Refused[0].Enrolled || !st.Refused[0].Approved {
		t.Errorf("refusals in the status: %+v", st.Refused)
	}
	f.addSlice(2)
	m.boot(serverImage, older)
	release("older slice", report.KeySliceOld)
	for _, op := range []kekproto.Op{kekproto.OpAuths, kekproto.OpKEK, kekproto.OpSealed} {
		m.boot(serverImage, slice)
		wantCode(t, "server image asks for "+string(op), factoryOp(ctx, f, m, op), report.KeyImage)
	}
	f.must("POST", "/v1/region/ship", nil, nil)
	m.boot(factoryImage, slice)
	for _, op := range []kekproto.Op{kekproto.OpAuths, kekproto.OpKEK, kekproto.OpSealed} {
		wantCode(t, string(op)+" in transit", factoryOp(ctx, f, m, op), report.KeyState)
	}
	if status, body := f.receive(f.status().Shipment, "alice", "bob"); status != 200 {
		t.Fatal(body)
	}
	f.must("POST", "/v1/region/live", nil, nil)
	for _, op := range []kekproto.Op{kekproto.OpAuths, kekproto.OpKEK, kekproto.OpSealed} {
		wantCode(t, string(op)+" when live", factoryOp(ctx, f, m, op), report.KeyState)
	}
	release("factory image when live", report.KeyImage)
}

func factoryOp(ctx context.Context, f *region, q kekclient.Quoter, op kekproto.Op) error {
	switch op {
	case kekproto.OpAuths:
		_, _, err := f.client().Auths(ctx, q)
		return err
	case kekproto.OpKEK:
		_, err := f.client().CreateKEK(ctx, q, 1)
		return err
	default:
		return f.client().Sealed(ctx, q, 1)
	}
}

func TestQuoteRefusals(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	m.boot(serverImage, slice)
	var kept kekproto.Quote
	keep := kekclient.QuoterFunc(func(q []byte) (kekproto.Quote, error) {
		var err error
		kept, err = m.Quote(q)
		return kept, err
	})
	r, err := f.client().Release(ctx, keep, 1)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	other := newMachine(t)
	other.boot(serverImage, slice)
	for name, q := range map[string]kekclient.QuoterFunc{
		"replayed over another connection": func([]byte) (kekproto.Quote, error) { return kept, nil },
		"for other data": func(q []byte) (kekproto.Quote, error) {
			q = bytes.Clone(q)
			q[0] ^= 1
			return m.Quote(q)
		},
		"by another TPM": other.Quote,
		"with a value changed": func(q []byte) (kekproto.Quote, error) {
			out, err := m.Quote(q)
			out.PCRs = maps.Clone(out.PCRs)
			out.PCRs[4] = make([]byte, 32)
			return out, err
		},
		"with the capped PCR left out": func(q []byte) (kekproto.Quote, error) {
			pcrs, err := m.sim.TPM().ReadPCRs()
			if err != nil {
				return kekproto.Quote{}, err
			}
			delete(pcrs, measure.CapPCR)
			return m.sim.TPM().Quote(q, pcrs)
		},
	} {
		r, err := f.client().Release(ctx, q, 1)
		if err == nil {
			r.Close()
		}
		wantCode(t, name, err, report.KeyQuote)
	}
}

// A TPM whose reset count went back is a cleared one, or an old copy.
func TestResetCountGoesBack(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	copied := &machine{t: t, sim: m.sim.Clone(t), keys: m.keys}
	for range 3 {
		m.boot(serverImage, slice)
	}
	r, err := f.client().Release(ctx, m, 1)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	copied.boot(serverImage, slice)
	_, err = f.client().Release(ctx, copied, 1)
	wantCode(t, "an older copy of the TPM", err, report.KeyQuote)
	f.stop()
	f.start()
	_, err = f.client().Release(ctx, copied, 1)
	wantCode(t, "an older copy of the TPM, after a restart of the member", err, report.KeyQuote)
}

type quoterFunc = kekclient.QuoterFunc

// roots writes the CA of the TPM emulator into one PEM file.
func (m *machine) roots() string {
	m.t.Helper()
	var text []byte
	for _, name := range []string{"swtpm-localca-rootca-cert.pem", "issuercert.pem"} {
		data, err := os.ReadFile(filepath.Join(m.sim.StateDir(), "..", "ca", name))
		if err != nil {
			m.t.Fatal(err)
		}
		text = append(text, data...)
	}
	path := filepath.Join(m.t.TempDir(), "roots.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// encodings are how a secret could have got into a text.
func encodings(b []byte) []string {
	return []string{string(b), hex.EncodeToString(b), base64.StdEncoding.EncodeToString(b)[:40], base64.RawURLEncoding.EncodeToString(b)[:40]}
}

package kekserver_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// What a device quoted and said with its old AK is gone once it enrolled with
// another one; what its TPM counts stays.
func TestRenewedDeviceLeavesNoEvidence(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	m.boot("x", slice)
	f.refusedWith(t, m, []byte("log"))
	evidence := func() int {
		status, _ := f.as("alice", "GET", "/v1/devices/"+testDevice+"/evidence", nil, nil)
		return status
	}
	again := func() {
		t.Helper()
		var token kekproto.NewToken
		f.must("POST", "/v1/devices", &kekproto.NewDevice{Device: testDevice, Again: true}, &token)
		if _, err := f.client().Enroll(ctx, m.evidence(secret.Take([]byte(token.Token))), m.activate); err != nil {
			t.Fatal(err)
		}
	}
	again()
	if got := evidence(); got != http.StatusOK || f.device().Refuse == nil {
		t.Errorf("the same AK again: evidence has status %d", got)
	}
	m.otherAK()
	var token kekproto.NewToken
	f.must("POST", "/v1/devices", &kekproto.NewDevice{Device: testDevice, Again: true}, &token)
	_, err := f.client().Enroll(ctx, m.evidence(secret.Take([]byte(token.Token))), func(credential, encrypted []byte) ([]byte, error) {
		f.must("POST", "/v1/devices/"+testDevice+"/suspend", &kekproto.Reason{Reason: "who is that"}, nil)
		return m.activate(credential, encrypted)
	})
	wantCode(t, "another AK, and the record was changed meanwhile", err, report.KeyFleet)
	if got := evidence(); got != http.StatusOK || f.device().Refuse == nil {
		t.Errorf("an enrolment that failed: evidence has status %d, last refusal %+v", got, f.device().Refuse)
	}
	f.must("POST", "/v1/devices/"+testDevice+"/resume", nil, nil)
	again()
	if got := evidence(); got != http.StatusNotFound || f.device().Refuse != nil {
		t.Errorf("another AK: evidence has status %d, last refusal %+v", got, f.device().Refuse)
	}
}

// otherAK puts another key of the same form in the AK's place.
func (m *machine) otherAK() {
	m.t.Helper()
	check := func(err error) {
		m.t.Helper()
		if err != nil {
			m.t.Fatal(err)
		}
	}
	const handle = tpm2.TPMHandle(0x81010100)
	wire := m.sim.Bus()
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	old, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(wire)
	check(err)
	_, err = tpm2.EvictControl{Auth: owner, ObjectHandle: &tpm2.NamedHandle{Handle: handle, Name: old.Name}, PersistentHandle: handle}.Execute(wire)
	check(err)
	template, err := old.OutPublic.Contents()
	check(err)
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: bytes.Repeat([]byte{1}, 32)}})
	fresh, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(*template)}.Execute(wire)
	check(err)
	_, err = tpm2.EvictControl{Auth: owner, ObjectHandle: &tpm2.NamedHandle{Handle: fresh.ObjectHandle, Name: fresh.Name}, PersistentHandle: handle}.Execute(wire)
	check(err)
	_, err = tpm2.FlushContext{FlushHandle: fresh.ObjectHandle}.Execute(wire)
	check(err)
	m.keys, err = m.sim.Restart().CreateKeys()
	check(err)
}

// A minimum that is no version would be lower than each: nothing is released
// until it is set again.
func TestMinimumThatIsNoVersion(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	m.boot(serverImage, slice)
	f.stop()
	folder := filepath.Join(f.dir, "members", testMember)
	key, err := kekstore.FileUnsealer{Path: filepath.Join(folder, "barrier.key")}.BarrierKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	store, err := kekstore.OpenBolt(filepath.Join(folder, "store.db"), key)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Swap(ctx, "minimum/server", 0, []byte(`{"version":"latest"}`))
	if err := errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	f.start()
	f.released("by a minimum that is no version", m, 1, report.KeyFleet)
	f.must("POST", "/v1/manifests/minimum", &kekproto.Minimum{Role: "server", Version: "1"}, nil)
	f.released("after it was set again", m, 1, "")
}

// Who is refused a turn does not hold the connection open with the rest of an
// event log.
func TestRefusedEvidenceIsNotWaitedFor(t *testing.T) {
	f, m, slice := sealedDevice(t)
	m.boot(serverImage, slice)
	conn, body := f.attestedConn(m)
	defer func() { _ = conn.Close() }()
	r := bufio.NewReader(conn)
	post := func(path string, length int, body string) *http.Response {
		t.Helper()
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, length, body); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if resp := post(kekproto.OpRelease.Path(), len(body), string(body)); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	resp := post(kekproto.OpEvidence.Path(), 1000, "{")
	if resp.StatusCode != http.StatusForbidden {
		t.Error(resp.Status)
	}
	// A request's time, which the member does not grant, is 15 s.
	if err := conn.SetReadDeadline(time.Now().Add(12 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := r.ReadByte()
	var slow net.Error
	if err == nil || (errors.As(err, &slow) && slow.Timeout()) {
		t.Errorf("the connection did not end: %v", err)
	}
	if !strings.Contains(f.log.String(), "evidence") {
		t.Error("the member logged nothing about it")
	}
}

// What is offered as an SRK must be one, or the slice would be made for it.
func TestEnrolmentWithoutSRK(t *testing.T) {
	ctx := context.Background()
	f, m := newFleet(t, fleetdir.Options{EKPolicy: "record"}), newMachine(t)
	token := f.addDevice()
	for what, srk := range map[string][]byte{"nothing": nil, "the AK": m.keys.AK, "the EK": m.keys.EK} {
		e := m.evidence(token)
		e.SRKPublic = srk
		_, err := f.client().Enroll(ctx, e, m.activate)
		wantCode(t, what+" as the SRK", err, report.KeyEnroll)
	}
	if _, err := f.client().Enroll(ctx, m.evidence(token), m.activate); err != nil {
		t.Errorf("with the SRK: %v", err)
	}
}

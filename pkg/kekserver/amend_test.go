package kekserver_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// released asks for a release with a slice's generation.
func (f *region) released(what string, m *machine, slice uint64, want report.Code) {
	f.t.Helper()
	r, err := f.client().Release(context.Background(), m, slice)
	if err == nil {
		r.Close()
	}
	if want != "" {
		wantCode(f.t, what, err, want)
	} else if err != nil {
		f.t.Errorf("%s: %v", what, err)
	}
}

// A device that holds fetches the amendments of its slice, measures them behind
// the first one, and gets its key by the newest one only.
func TestAmendmentsAreFetchedAndMeasured(t *testing.T) {
	ctx := context.Background()
	f, m, one := sealedDevice(t)
	news := func(what string, inUse uint64, want []byte) {
		t.Helper()
		got, err := f.client().News(ctx, m, inUse, nil)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes and %v, want %d bytes", what, len(got), err, len(want))
		}
	}
	add := func(generation uint64) (note, digest []byte) {
		t.Helper()
		note, digest = f.slice(generation)
		f.must("POST", "/v1/slices", &kekproto.Document{Note: note}, nil)
		return note, digest
	}
	m.boot(serverImage, one)
	news("nothing newer", 1, nil)
	note, two := add(2)
	f.released("with the old slice", m, 1, report.KeySliceOld)
	news("the first amendment", 1, note)
	m.extend(measure.SlicePCR, two)
	f.released("behind the first slice", m, 2, "")
	news("after it", 2, nil)

	note, three := add(3)
	f.released("outgrown in the same boot", m, 2, report.KeySliceOld)
	news("the second amendment", 2, note)
	m.extend(measure.SlicePCR, three)
	f.released("behind the first two", m, 3, "")

	note, four := add(4)
	_, err := f.client().News(ctx, m, 3, nil)
	wantCode(t, "a fourth slice in one boot", err, report.SliceAmendment)
	f.stop()
	f.start() // the history is in the store
	m.boot(serverImage, one)
	f.released("restarted with the first one", m, 1, report.KeySliceOld)
	news("all at once", 1, note)
	m.extend(measure.SlicePCR, four)
	f.released("behind the first slice", m, 4, "")
	m.boot(serverImage, four)
	f.released("alone", m, 4, "")
	m.extend(measure.SlicePCR, one)
	f.released("an old slice behind the newest", m, 4, report.KeySliceNew)
	_, err = f.client().News(ctx, m, 1, nil)
	wantCode(t, "news behind slices in a wrong order", err, report.KeySliceOld)
	m.boot(serverImage, two)
	m.extend(measure.SlicePCR, three)
	f.released("two old ones", m, 4, report.KeySliceOld) // whatever it says
	m.boot(serverImage, one)
	m.extend(measure.SlicePCR, make([]byte, 32))
	_, err = f.client().News(ctx, m, 4, nil)
	wantCode(t, "news behind an unknown slice", err, report.KeySliceNew)
	if n := f.auditLines("slice-sent"); n < 3 || n > 5 {
		t.Errorf("%d audit lines of slices that were sent", n)
	}
}

// Repeating a question writes no further line.
func TestNewsFillNothing(t *testing.T) {
	f, m, one := sealedDevice(t)
	f.addSlice(2)
	m.boot(serverImage, one)
	for range 5 {
		if _, err := f.client().News(context.Background(), m, 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.auditLines("slice-sent"); n != 1 {
		t.Errorf("%d audit lines of one slice that was sent, want 1", n)
	}
}

// Slices go to accepted images of three roles, of which only the server's gets a
// KEK, and not while the region travels.
func TestWhoGetsSlices(t *testing.T) {
	ctx := context.Background()
	f, m, one := sealedDevice(t)
	const keyserverImage = "keyserver"
	f.addImage(measure.RoleKeyserver, measure.FormEFIKernel, m.boot(keyserverImage, one))
	f.addSlice(2)
	ask := func(what, image string, slice []byte, want report.Code) {
		t.Helper()
		m.boot(image, slice)
		got, err := f.client().News(ctx, m, 1, nil)
		switch {
		case want != "":
			wantCode(t, what, err, want)
		case err != nil || len(got) == 0:
			t.Errorf("%s: %d bytes, %v", what, len(got), err)
		}
	}
	ask("server", serverImage, one, "")
	// What a server measured counts, not what it says.
	if got, err := f.client().News(ctx, m, 2, nil); err != nil || len(got) == 0 {
		t.Errorf("a server that claims the newest slice and measured another: %d bytes, %v", len(got), err)
	}
	ask("keyserver", keyserverImage, one, "")
	// A device that stays uses slices that it does not measure.
	if got, err := f.client().News(ctx, m, 2, nil); err != nil || got != nil {
		t.Errorf("a device that stays is sent what it uses: %d bytes, %v", len(got), err)
	}
	f.released("keyserver", m, 1, report.KeyImage)
	for _, op := range []kekproto.Op{kekproto.OpAuths, kekproto.OpKEK, kekproto.OpSealed} {
		wantCode(t, "keyserver image asks for "+string(op), factoryOp(ctx, f, m, op), report.KeyImage)
	}
	ask("factory", factoryImage, one, "")
	ask("factory before there is a slice", factoryImage, nil, "")
	ask("server without a slice", serverImage, nil, report.KeySliceOld)
	ask("debug", debugImage, one, report.KeyImage)
	ask("unknown", "x", one, report.KeyImage)
	m.boot(serverImage, one)
	m.extend(measure.CapPCR, measure.CapDigest())
	_, err := f.client().News(ctx, m, 1, nil)
	wantCode(t, "production", err, report.KeyImage)
	other := newMachine(t)
	other.boot(serverImage, one)
	_, err = f.client().News(ctx, other, 1, nil)
	wantCode(t, "another TPM", err, report.KeyQuote)
	f.must("POST", "/v1/devices/"+testDevice+"/suspend", &kekproto.Reason{Reason: "crate was opened"}, nil)
	ask("suspended", serverImage, one, report.KeySuspended)
	f.must("POST", "/v1/devices/"+testDevice+"/resume", nil, nil)

	f.must("POST", "/v1/region/ship", nil, nil)
	ask("in transit", serverImage, one, report.KeyState)
	if status, body := f.receive(f.status().Shipment, "alice", "bob"); status != http.StatusOK {
		t.Fatal(body)
	}
	ask("received", serverImage, one, "")
	ask("received", factoryImage, one, report.KeyState)
	f.must("POST", "/v1/region/live", nil, nil)
	ask("live", keyserverImage, one, "")
	ask("live", factoryImage, one, report.KeyState)
}

// An amendment replaces the slice that it was made from, or nothing.
func TestAmendmentReplacesTheRecordedSlice(t *testing.T) {
	f, _, one := sealedDevice(t)
	amends := func(generation uint64, replaces string) (int, string) {
		note, _ := f.slice(generation, func(s *snapshot.Slice) {
			s.Amendment = &snapshot.Amendment{Replaces: replaces, Reason: "a new NIC"}
		})
		return f.as("alice", "POST", "/v1/slices", &kekproto.Document{Note: note}, nil)
	}
	if status, body := amends(2, strings.Repeat("0", 64)); status != http.StatusConflict || !strings.Contains(body, "amends another slice") {
		t.Errorf("an amendment of another slice: %d %s", status, body)
	}
	if status, body := amends(2, hex.EncodeToString(one)); status != http.StatusOK {
		t.Errorf("an amendment: %d %s", status, body)
	}
	if status, body := amends(3, hex.EncodeToString(one)); status != http.StatusConflict || !strings.Contains(body, "generation 2") {
		t.Errorf("a second amendment of the first slice: %d %s", status, body)
	}
	if got := f.device().Slice; got != 2 {
		t.Errorf("recorded is generation %d", got)
	}
}

// A region may demand an agent's signature of each amendment.
func TestAmendmentIsCountersigned(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record", Countersign: true})
	m := newMachine(t)
	if _, err := f.client().Enroll(context.Background(), m.evidence(f.addDevice()), m.activate); err != nil {
		t.Fatal(err)
	}
	f.addSlice(1) // no amendment
	note, _ := f.slice(2)
	add := func(note []byte) int {
		status, _ := f.as("alice", "POST", "/v1/slices", &kekproto.Document{Note: note}, nil)
		return status
	}
	if got := add(note); got != http.StatusBadRequest {
		t.Errorf("signed by the region root alone: %d", got)
	}
	verifier, err := signed.ParseVerifier(f.file("public/root.pub"))
	if err != nil {
		t.Fatal(err)
	}
	slice, _, err := snapshot.OpenSlice(note, verifier)
	if err != nil {
		t.Fatal(err)
	}
	root, bob := f.signer("offline/root.key"), f.signer("agents/bob/note.key")
	if alone, err := signed.Sign(slice, bob); err != nil || add(alone) != http.StatusBadRequest {
		t.Errorf("signed by an agent alone: taken, or %v", err)
	}
	if both, err := snapshot.SignSlice(slice, root, bob); err != nil || add(both) != http.StatusOK {
		t.Errorf("signed by both: refused, or %v", err)
	}
}

// The slice of a device that serves the addresses of a large region arrives.
func TestLargeSlice(t *testing.T) {
	f, m, one := sealedDevice(t)
	note := f.largeSlice()
	f.must("POST", "/v1/slices", &kekproto.Document{Note: note}, nil)
	m.boot(serverImage, one)
	got, err := f.client().News(context.Background(), m, 1, nil)
	if err != nil || !bytes.Equal(got, note) {
		t.Errorf("%d bytes, %v; want %d bytes", len(got), err, len(note))
	}
}

// Who reads its slice slowly keeps no operator waiting.
func TestSlowSlice(t *testing.T) {
	f, m, one := sealedDevice(t)
	f.must("POST", "/v1/slices", &kekproto.Document{Note: f.largeSlice()}, nil)
	m.boot(serverImage, one)
	conn, body := f.attestedConnFor(m, kekproto.Request{Op: kekproto.OpSlice, Slice: 1})
	defer func() { _ = conn.Close() }()
	if err := conn.NetConn().(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", kekproto.OpSlice.Path(), len(body), body); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 100)); err != nil { // it is being written
		t.Fatal(err)
	}
	start := time.Now()
	f.must("POST", "/v1/devices/"+testDevice+"/suspend", &kekproto.Reason{Reason: "x"}, nil)
	// Who waits for the reader waits for the server's write timeout: a minute.
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("a suspension took %v", took)
	}
}

// Who asks for keys and reads none holds up an operator for a moment only.
func TestReleasesThatNobodyReads(t *testing.T) {
	f, m, one := sealedDevice(t)
	m.boot(serverImage, one)
	conn, body := f.attestedConn(m)
	defer func() { _ = conn.Close() }()
	if err := conn.NetConn().(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", kekproto.OpRelease.Path(), len(body), body)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		for range 3000 { // the same request on the same connection is no other one
			if _, err := conn.Write(request); err != nil {
				return
			}
		}
	}()
	for last := -1; last != f.auditLines("release"); time.Sleep(300 * time.Millisecond) {
		last = f.auditLines("release")
	}
	start := time.Now()
	f.must("POST", "/v1/devices/"+testDevice+"/suspend", &kekproto.Reason{Reason: "x"}, nil)
	// As above: without a time for answers it would be a minute.
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("a suspension took %v", took)
	}
	<-asked
}

// largeSlice is a slice of generation 2 that lends thousands of addresses.
func (f *region) largeSlice() []byte {
	f.t.Helper()
	note, _ := f.slice(2, func(s *snapshot.Slice) {
		s.Device.Roles = []snapshot.Role{snapshot.RoleDHCP}
		s.DHCP = new(snapshot.DHCP)
		for i := range 8000 {
			s.DHCP.Leases = append(s.DHCP.Leases, snapshot.Lease{Device: fmt.Sprintf("r%02d-u%02d", i/80, i%80), Interface: "eth0",
				MAC: fmt.Sprintf("52:54:01:00:%02x:%02x", i>>8, i&0xff), Addresses: []string{fmt.Sprintf("10.1.%d.%d/16", i>>8, i&0xff)}})
		}
	})
	if len(note) < 1<<20 {
		f.t.Fatalf("a slice of %d bytes", len(note))
	}
	return note
}

// A quote over one request serves no other.
func TestQuoteOfAnotherOperation(t *testing.T) {
	f, m, one := sealedDevice(t)
	f.addSlice(2)
	m.boot(serverImage, one)
	var kept kekproto.Quote
	if _, err := f.client().News(context.Background(), kekclient.QuoterFunc(func(q []byte) (kekproto.Quote, error) {
		var err error
		kept, err = m.Quote(q)
		return kept, err
	}), 1, nil); err != nil {
		t.Fatal(err)
	}
	_, err := f.client().News(context.Background(), kekclient.QuoterFunc(func([]byte) (kekproto.Quote, error) { return kept, nil }), 1, nil)
	wantCode(t, "a replayed quote", err, report.KeyQuote)
}

package kekserver_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/attest/attesttest"
	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/eventlog"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
)

// realLog is the event log of a UKI that OVMF started from a disk.
func realLog(t testing.TB) ([]byte, []measure.Event) {
	t.Helper()
	raw, err := os.ReadFile("../eventlog/testdata/uki-disk.bin")
	if err != nil {
		t.Fatal(err)
	}
	events, err := eventlog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return raw, events
}

// bootLog power-cycles the machine and measures what a log says, and a slice.
func (m *machine) bootLog(events []measure.Event, slice []byte) {
	m.t.Helper()
	m.sim.Restart()
	for _, e := range events {
		m.extend(e.PCR, e.Digest)
	}
	m.extend(measure.SlicePCR, slice)
}

// imageEvents are those of a log that an image's manifest holds; edit changes
// the first one of a PCR that is described like this.
func imageEvents(t testing.TB, log []measure.Event, pcr int, what string) []measure.Event {
	t.Helper()
	var out []measure.Event
	edited := false
	for _, e := range log {
		if !slices.Contains(measure.ImagePCRs(), e.PCR) {
			continue
		}
		if e.PCR == pcr && strings.HasPrefix(e.What, what) && !edited {
			e.Digest, edited = bytes.Repeat([]byte{7}, measure.Size), true
		}
		out = append(out, e)
	}
	if pcr > 0 && !edited {
		t.Fatalf("no event of PCR %d is described as %q: %v", pcr, what, out)
	}
	return out
}

func (f *region) addEvents(version string, form measure.Form, events []measure.Event) {
	f.t.Helper()
	m := manifestOf("landfall-server", version, measure.RoleServer, form, measure.Replay(events))
	m.Events = events
	f.addSigned(m)
}

// refusedWith asks for a release that is refused for the image, with an event
// log, and returns the refusal's words.
func (f *region) refusedWith(t *testing.T, m *machine, log []byte) string {
	t.Helper()
	c := f.client()
	c.Evidence = func() ([]byte, error) { return log, nil }
	c.Logf = t.Logf
	r, err := c.Release(context.Background(), m, 1)
	if err == nil {
		r.Close()
		t.Fatal("released")
	}
	wantCode(t, "refusal with an event log", err, report.KeyImage)
	return err.Error()
}

// A device that is refused for its image sends its event log, and device,
// operator and audit log read which component differs from the newest image in
// the form that was meant.
func TestEvidenceNamesTheComponent(t *testing.T) {
	f, m, slice := sealedDevice(t)
	log, events := realLog(t)
	f.addEvents("2.0", measure.FormUKI, imageEvents(t, events, 9, "initrd"))
	f.addEvents("2.1", measure.FormUKI, imageEvents(t, events, 11, "section .cmdline"))
	f.addEvents("2.1", measure.FormUKIiPXE, imageEvents(t, events, 11, "section .linux"))
	f.addEvents("2.2", measure.FormUKI, imageEvents(t, events, 4, "EFI application"))
	f.must("POST", "/v1/manifests/revoke", &kekproto.Revocation{Image: "landfall-server", Version: "2.2", Reason: "x"}, nil)
	m.bootLog(events, slice)

	why := f.refusedWith(t, m, log)
	for _, want := range []string{"PCRs [11] differ from image landfall-server 2.1", "; PCR 11: "} {
		if !strings.Contains(why, want) {
			t.Errorf("the device reads %q, want %q", why, want)
		}
	}
	for range 2 {
		r := f.device().Refuse
		if r == nil || len(r.Differences) != 1 || !strings.HasPrefix(r.Differences[0], "PCR 11: ") || !strings.Contains(why, r.Differences[0]) {
			t.Errorf("last refusal: %+v", r)
		}
		f.stop()
		f.start()
	}
	var e kekproto.Evidence
	f.must("GET", "/v1/devices/"+testDevice+"/evidence", nil, &e)
	if !bytes.Equal(e.Log, log) || e.Device != testDevice || e.Op != kekproto.OpRelease || !strings.HasPrefix(e.Image, "landfall-server 2.1 (uki") || e.Time.IsZero() {
		t.Errorf("evidence %+v", e)
	}
	quoted, err := m.sim.TPM().ReadPCRs()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(quoted, e.PCRs); diff != "" {
		t.Errorf("quoted values: %s", diff)
	}
	path := filepath.Join(f.dir, "members", testMember, "evidence", testDevice+".json")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("evidence file: %v, %v", info, err)
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
		t.Errorf("evidence folder: %v, %v", files, err)
	}
	found := 0
	if _, _, err := audit.Verify(f.file("members/ks1/audit.jsonl"), func(r audit.Record) error {
		if r.Event == "evidence" && r.Device == testDevice && strings.HasPrefix(r.Detail, "PCR 11: ") && r.Image == e.Image && r.Digest != "" {
			found++
		}
		return nil
	}); err != nil || found != 1 {
		t.Errorf("%d audit lines tell of the evidence, want 1; %v", found, err)
	}

	// What the log says is believed only where it replays to the quote.
	m.extend(11, bytes.Repeat([]byte{9}, measure.Size))
	if why := f.refusedWith(t, m, log); !strings.Contains(why, "PCR 11: ") || !strings.Contains(why, "log") {
		t.Errorf("with a log that is not of this boot: %q", why)
	}
	if why := f.refusedWith(t, m, []byte("junk")); !strings.Contains(why, "event log cannot be read") || !strings.Contains(why, "PCR 11: ") {
		t.Errorf("with junk for a log: %q", why)
	}
}

// With several versions accepted, the one that was edited is found by the log,
// and named.
func TestEvidenceFindsTheVersion(t *testing.T) {
	f, m, slice := sealedDevice(t)
	log, events := realLog(t)
	other := imageEvents(t, events, 0, "")
	for i := range other {
		if other[i].PCR == 11 {
			other[i].Digest = bytes.Repeat([]byte{5}, measure.Size)
		}
	}
	f.addEvents("2.0", measure.FormUKI, imageEvents(t, events, 11, "section .linux"))
	f.addEvents("3.0", measure.FormUKI, other) // as far away, and newer
	m.bootLog(events, slice)
	why := f.refusedWith(t, m, log)
	for _, want := range []string{"PCRs [11] differ from image landfall-server 3.0", "; by its event log it is nearer to landfall-server 2.0 (uki); PCR 11: ", ".linux"} {
		if !strings.Contains(why, want) {
			t.Errorf("the device reads %q, want %q", why, want)
		}
	}
	if strings.Contains(why, ".cmdline") {
		t.Errorf("compared with the wrong version: %q", why)
	}
	// Without a log, with the one that the refusal names.
	if why := f.refusedWith(t, m, []byte("junk")); strings.Contains(why, "server 2.0") {
		t.Errorf("without a log: %q", why)
	}
}

// A known image that is refused for what it is differs in nothing.
func TestEvidenceOfAKnownImage(t *testing.T) {
	f, m, slice := sealedDevice(t)
	log, events := realLog(t)
	f.addEvents("2.0", measure.FormUKI, imageEvents(t, events, 0, ""))
	f.must("POST", "/v1/manifests/revoke", &kekproto.Revocation{Image: "landfall-server", Version: "2.0", Reason: "kernel hole"}, nil)
	m.bootLog(events, slice)
	if why := f.refusedWith(t, m, log); !strings.HasPrefix(why, "LF-KEY-06: landfall-server 2.0 (uki) was revoked: kernel hole") || strings.Contains(why, "PCR") {
		t.Errorf("a revoked image: %q", why)
	}
}

// One account of itself is recorded once, and a device that makes up new ones
// writes a few lines, not one for each.
func TestEvidenceFillsNothing(t *testing.T) {
	f, m, slice := sealedDevice(t)
	m.boot("x", slice)
	for i := range 20 {
		f.refusedWith(t, m, []byte("same"))
		f.refusedWith(t, m, bytes.Repeat([]byte{'x'}, i+1))
	}
	if n := f.auditLines("evidence"); n < 1 || n > 8 {
		t.Errorf("%d audit lines of evidence", n)
	}
	if n := f.auditLines("refuse"); n != 1 {
		t.Errorf("%d audit lines of refusals, want 1", n)
	}
	files, err := os.ReadDir(filepath.Join(f.dir, "members", testMember, "evidence"))
	if err != nil || len(files) != 1 {
		t.Errorf("evidence files: %v, %v", files, err)
	}
	if why := f.refusedWith(t, m, bytes.Repeat([]byte{1}, kekproto.MaxEventLog)); !strings.Contains(why, "PCR") {
		t.Errorf("the longest log: %q", why)
	}
	if why := f.refusedWith(t, m, bytes.Repeat([]byte{1}, kekproto.MaxEventLog+1)); !strings.Contains(why, "LF-KEY-06") {
		t.Errorf("a log that is too long: %q", why)
	}
}

// Nobody writes evidence without a quote of that device on the connection, nor
// twice, nor after another refusal, nor for another device.
func TestEvidenceNeedsItsRefusal(t *testing.T) {
	f, m, slice := sealedDevice(t)
	body := func(device string) []byte {
		log, err := json.Marshal(&kekproto.EventLog{Log: []byte("made up")})
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(&kekproto.Request{Protocol: kekproto.Version, Op: kekproto.OpEvidence, Device: device, Body: log})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if status, answer := f.device1(kekproto.OpEvidence.Path(), body(testDevice)); status != http.StatusForbidden {
		t.Errorf("nobody's event log: %d %s", status, answer)
	}
	pcrs := m.boot("x", slice)
	if got, want := f.rawRelease(m, body("r01-u02"), body(testDevice)), []int{403, 403, 403}; !slices.Equal(got, want) {
		t.Errorf("another device's log takes the turn: %v, want %v", got, want)
	}
	if got, want := f.rawRelease(m, body(testDevice), body(testDevice)), []int{403, 200, 403}; !slices.Equal(got, want) {
		t.Errorf("two logs after one refusal: %v, want %v", got, want)
	}
	if err := os.RemoveAll(filepath.Join(f.dir, "members", testMember, "evidence")); err != nil {
		t.Fatal(err)
	}
	lines := f.status().AuditLines
	if got, want := f.rawRelease(attesttest.New(t, pcrs), body(testDevice)), []int{403, 403}; !slices.Equal(got, want) {
		t.Errorf("a log after a stranger's quote: %v, want %v", got, want)
	}
	m.boot(serverImage, nil)
	if got, want := f.rawRelease(m, body(testDevice)), []int{403, 403}; !slices.Equal(got, want) {
		t.Errorf("a log after a refusal for the slice: %v, want %v", got, want)
	}
	m.boot(serverImage, slice)
	if got, want := f.rawRelease(m, body(testDevice)), []int{200, 403}; !slices.Equal(got, want) {
		t.Errorf("a log after a release: %v, want %v", got, want)
	}
	if r := f.device().Refuse; r != nil {
		t.Errorf("a log that was not taken shows as the device's refusal: %+v", r)
	}
	if status, answer := f.as("alice", "GET", "/v1/devices/"+testDevice+"/evidence", nil, nil); status != http.StatusNotFound {
		t.Errorf("evidence was kept: %d %s", status, answer)
	}
	if got := f.status().AuditLines; got > lines+2 { // the refused slice, the release
		t.Errorf("%d audit lines for logs that were refused", got-lines)
	}
}

// rawRelease asks for a release and then posts these bodies as evidence, on one
// connection, and returns the statuses.
func (f *region) rawRelease(q kekclient.Quoter, evidence ...[]byte) (statuses []int) {
	f.t.Helper()
	conn, first := f.attestedConn(q)
	tr := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	defer tr.CloseIdleConnections()
	for i, body := range append([][]byte{first}, evidence...) {
		path := kekproto.OpEvidence.Path()
		if i == 0 {
			path = kekproto.OpRelease.Path()
		}
		resp, err := (&http.Client{Transport: tr}).Post("https://"+f.devices+path, "application/json", bytes.NewReader(body))
		if err != nil {
			f.t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			f.t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			f.t.Fatal(err)
		}
		statuses = append(statuses, resp.StatusCode)
	}
	return statuses
}

// attestedConn returns a connection and a request for a release that is quoted
// over it.
func (f *region) attestedConn(q kekclient.Quoter) (*tls.Conn, []byte) {
	f.t.Helper()
	return f.attestedConnFor(q, kekproto.Request{Op: kekproto.OpRelease, Slice: 1})
}

func (f *region) attestedConnFor(q kekclient.Quoter, r kekproto.Request) (*tls.Conn, []byte) {
	f.t.Helper()
	config, err := kekclient.TLSConfig(f.ca(), testMember)
	if err != nil {
		f.t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", f.devices, config)
	if err != nil {
		f.t.Fatal(err)
	}
	state := conn.ConnectionState()
	exporter, err := state.ExportKeyingMaterial(kekproto.ExporterLabel, nil, kekproto.ExporterLength)
	if err != nil {
		f.t.Fatal(err)
	}
	pair, err := kekproto.NewKeyPair()
	if err != nil {
		f.t.Fatal(err)
	}
	defer pair.Wipe()
	r.Protocol, r.Device = kekproto.Version, testDevice
	if r.Op.Secret() {
		r.HPKEPublic = pair.Public()
	}
	raw, err := json.Marshal(&r)
	if err != nil {
		f.t.Fatal(err)
	}
	quote, err := q.Quote(attest.Qualify(r.Op.Label(), exporter, raw))
	if err != nil {
		f.t.Fatal(err)
	}
	body, err := json.Marshal(&kekproto.Attested{Request: raw, Quote: quote})
	if err != nil {
		f.t.Fatal(err)
	}
	return conn, body
}

// refusedConn returns a connection on which a release was just refused.
func (f *region) refusedConn(q kekclient.Quoter) *tls.Conn {
	f.t.Helper()
	conn, body := f.attestedConn(q)
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", kekproto.OpRelease.Path(), len(body), body); err != nil {
		f.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusForbidden {
		f.t.Fatalf("status %d, %v", resp.StatusCode, err)
	}
	return conn
}

// Who sends its log slowly waits for itself, and keeps nobody else waiting for
// long.
func TestSlowEvidence(t *testing.T) {
	f, m, slice := sealedDevice(t)
	m.boot("x", slice)
	for range 3 { // each takes the device's turn, one after the other
		conn := f.refusedConn(m)
		defer func() { _ = conn.Close() }()
		if _, err := conn.Write([]byte("POST /v1/device/evidence HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")); err != nil {
			t.Fatal(err)
		}
	}
	// Who has waited too long for its turn is told nothing of its log.
	if why := f.refusedWith(t, m, []byte("log")); !strings.Contains(why, "event log cannot be read") {
		t.Errorf("no answer about the log: %q", why)
	}
}

package kekserver_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/landfall-project/landfall/pkg/attest/attesttest"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// onConnection posts bodies on one connection, and returns status and code of
// the last answer.
func (f *region) onConnection(conn *tls.Conn, ops []kekproto.Op, bodies ...[]byte) (status int, code string) {
	f.t.Helper()
	tr := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	defer tr.CloseIdleConnections()
	for i, body := range bodies {
		resp, err := (&http.Client{Transport: tr}).Post("https://"+f.devices+ops[i].Path(), "application/json", bytes.NewReader(body))
		if err != nil {
			f.t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			f.t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			f.t.Fatal(err)
		}
		var refusal kekproto.Refusal
		if err := json.Unmarshal(answer, &refusal); err != nil {
			f.t.Fatal(err)
		}
		status, code = resp.StatusCode, refusal.Code
	}
	return status, code
}

// A boot report counts only on the connection that released a key to that
// device: anybody can write one.
func TestReportNeedsItsRelease(t *testing.T) {
	f, m, slice := sealedDevice(t)
	m.boot(serverImage, slice)
	boot, err := json.Marshal(&report.BootReport{Type: report.BootType, Device: testDevice, Slice: 1, Volumes: []report.BootVolume{{Name: "root", Opened: true}}})
	if err != nil {
		t.Fatal(err)
	}
	of := func(device string) []byte {
		b, err := json.Marshal(kekproto.Request{Protocol: kekproto.Version, Op: kekproto.OpReport, Device: device, Body: boot})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	pcrs, err := m.sim.TPM().ReadPCRs()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		quoter kekclient.Quoter
		before kekproto.Op // asked on the same connection; "": nothing
		device string
		status int
		code   report.Code
	}{
		{"before anything", m, "", testDevice, http.StatusForbidden, report.KeyQuote},
		{"of nobody, before anything", m, "", "", http.StatusForbidden, report.KeyProtocol},
		{"after a release that was refused", attesttest.New(t, pcrs), kekproto.OpRelease, testDevice, http.StatusForbidden, report.KeyQuote},
		{"after a slice", m, kekproto.OpSlice, testDevice, http.StatusForbidden, report.KeyQuote},
		{"of another device", m, kekproto.OpRelease, "r01-u02", http.StatusForbidden, report.KeyQuote},
		{"after its release", m, kekproto.OpRelease, testDevice, http.StatusOK, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			lines, accepted := f.auditLines("report"), f.device().Accepted
			op := tt.before
			if op == "" {
				op = kekproto.OpRelease // only its connection is used
			}
			conn, first := f.attestedConnFor(tt.quoter, kekproto.Request{Op: op, Slice: 1})
			ops, bodies := []kekproto.Op{op, kekproto.OpReport}, [][]byte{first, of(tt.device)}
			if tt.before == "" {
				ops, bodies = ops[1:], bodies[1:]
			}
			status, code := f.onConnection(conn, ops, bodies...)
			if status != tt.status || code != string(tt.code) {
				t.Errorf("got %d %s, want %d %s", status, code, tt.status, tt.code)
			}
			if got := f.auditLines("report") - lines; (got == 1) != (tt.status == http.StatusOK) {
				t.Errorf("%d audit lines", got)
			}
			if got := f.device().Accepted; tt.status != http.StatusOK && got != accepted {
				t.Errorf("it is accepted under generation %d", got)
			}
		})
	}
}

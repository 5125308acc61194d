package kekserver_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// released is a fleet and what it released to the device d0.
func released(t *testing.T) (*region, *kekclient.Released) {
	t.Helper()
	l, dir := newLoad(t, "https://127.0.0.1:7443")
	f := &region{t: t, dir: dir}
	f.start()
	l.members[0].URL = "https://" + f.devices
	client := &kekclient.Client{Members: l.members, CA: l.ca, Device: "d0"}
	r, err := client.Release(context.Background(), l.aks["d0"], 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return f, r
}

// A report counts only where the device may boot now, however good the
// connection was that released its key.
func TestReportOfOneWhoMayNotBoot(t *testing.T) {
	ctx := context.Background()
	f, r := released(t)
	if _, err := r.Report(ctx, []byte(`{}`)); err != nil {
		t.Errorf("a live region: %v", err)
	}
	for _, reason := range []string{"", "two\nlines", "turned\u202edenrut", "red\u009b31m", "tab\t"} {
		if status, _ := f.as("alice", "POST", "/v1/devices/d0/suspend", &kekproto.Reason{Reason: reason}, nil); status != http.StatusBadRequest {
			t.Errorf("suspended for %q: %d", reason, status)
		}
	}
	f.must("POST", "/v1/devices/d0/suspend", &kekproto.Reason{Reason: "stolen"}, nil)
	_, err := r.Report(ctx, []byte(`{}`))
	wantCode(t, "suspended", err, report.KeySuspended)
	if n := f.auditLines("report"); n != 1 {
		t.Errorf("%d reports in the audit log, want 1", n)
	}
}

// So it is with a region that was shipped meanwhile.
func TestReportInTransit(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	m.boot(serverImage, slice)
	r, err := f.client().Release(ctx, m, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f.must("POST", "/v1/region/ship", nil, nil)
	_, err = r.Report(ctx, []byte(`{}`))
	wantCode(t, "in transit", err, report.KeyState)
	if n := f.auditLines("report"); n != 0 {
		t.Errorf("%d reports in the audit log, want none", n)
	}
}

// Who released no key on this connection reports nothing: not with a genuine
// quote for something else, and not of another device.
func TestReportWithoutRelease(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	body := []byte(`{"protocol":1,"op":"report","device":"` + testDevice + `","body":"e30="}`)
	if status, answer := f.device1(kekproto.OpReport.Path(), body); status != http.StatusForbidden || !strings.Contains(string(answer), string(report.KeyQuote)) {
		t.Errorf("on a fresh connection: %d %s", status, answer)
	}
	if n := f.auditLines("report"); n != 0 {
		t.Errorf("%d reports in the audit log, want none", n)
	}
}

// A connection that released a key reports of its own device alone.
func TestReportOfAnotherDevice(t *testing.T) {
	f, m, slice := sealedDevice(t)
	m.boot(serverImage, slice)
	conn, release := f.attestedConn(m)
	defer conn.Close()
	r := bufio.NewReader(conn)
	post := func(path string, body []byte) (int, string) {
		t.Helper()
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(answer)
	}
	reportOf := func(device string) []byte {
		return []byte(`{"protocol":1,"op":"report","device":"` + device + `","body":"e30="}`)
	}
	if status, answer := post(kekproto.OpRelease.Path(), release); status != http.StatusOK {
		t.Fatal(status, answer)
	}
	if status, answer := post(kekproto.OpReport.Path(), reportOf("r01-u02")); status != http.StatusForbidden || !strings.Contains(answer, string(report.KeyQuote)) {
		t.Errorf("another device's report: %d %s", status, answer)
	}
	if status, answer := post(kekproto.OpReport.Path(), reportOf(testDevice)); status != http.StatusOK {
		t.Errorf("its own report: %d %s", status, answer)
	}
	if n := f.auditLines("report"); n != 1 {
		t.Errorf("%d reports in the audit log, want 1", n)
	}
}

// A device that reports without end is heard, and fills nothing.
func TestReportsFillNothing(t *testing.T) {
	ctx := context.Background()
	f, r := released(t)
	now := time.Now()
	f.server.SetClock(func() time.Time { return now })
	post := func(last string) {
		t.Helper()
		if _, err := r.Report(ctx, []byte(`{"why":"`+strings.Repeat("x", 7000)+last+`"}`)); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		post("")
	}
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{{0, 8}, {29 * time.Second, 8}, {time.Second, 9}, {0, 9}, {time.Hour, 10}} {
		now = now.Add(tt.after)
		post("\u009b31m the last")
		if n := f.auditLines("report"); n != tt.want {
			t.Errorf("%v later: %d reports in the audit log, want %d", tt.after, n, tt.want)
		}
	}
	var info kekproto.DeviceInfo
	f.must("GET", "/v1/devices/d0", nil, &info)
	if !strings.Contains(info.Report, "?31m the last") {
		t.Errorf("the last report is shown as …%.40q", info.Report[max(0, len(info.Report)-40):])
	}
}

package kekserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// linkReport is a device's report of two required links; those that are wrong
// are on another port.
func linkReport(t testing.TB, device string, slice uint64, wrong ...string) []byte {
	t.Helper()
	r := &report.LinkReport{Device: device, Slice: slice, Required: 2, Proved: 2 - len(wrong)}
	for _, name := range []string{"eth1", "eth2"} {
		r.Links = append(r.Links, report.LinkVerdict{Interface: name, Peer: "r01-u02", PeerInterface: name, Required: true, Verdict: "proved"})
	}
	for i, seen := range wrong {
		r.Links[i].Verdict, r.Links[i].Code, r.Links[i].Seen, r.Links[i].What = "wrong-port", report.LinkWrongPort, seen, "another port answers"
	}
	text, err := r.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (f *region) links(query string) []kekproto.LinksInfo {
	f.t.Helper()
	var all []kekproto.LinksInfo
	f.must("GET", "/v1/links"+query, nil, &all)
	return all
}

// releaseWith asks for a release with a link report.
func (f *region) releaseWith(what string, m *machine, links []byte, want report.Code) string {
	f.t.Helper()
	c := f.client()
	c.Links = links
	r, err := c.Release(context.Background(), m, 1)
	switch {
	case err == nil && want == "":
		r.Close()
		return ""
	case want == "":
		f.t.Errorf("%s: %v", what, err)
		return ""
	case err == nil:
		r.Close()
	}
	wantCode(f.t, what, err, want)
	return fmt.Sprint(err)
}

// Under the demand for clean links only a device gets its key whose report says
// that all of its required links are proved, by the recorded slice.
func TestLinkDemand(t *testing.T) {
	f, m, slice := sealedDevice(t)
	m.boot(serverImage, slice)
	good, bad := linkReport(t, testDevice, 1), linkReport(t, testDevice, 1, "r01-u03 eth1")
	if got := f.status().LinkReport; got != kekproto.DemandNone {
		t.Errorf("a new region demands %q", got)
	}
	f.releaseWith("nothing demanded, nothing sent", m, nil, "")
	f.releaseWith("nothing demanded, a link wrong", m, bad, "")
	var st kekproto.Status
	f.must("POST", "/v1/region/links", &kekproto.SetLinkDemand{Demand: kekproto.DemandClean}, &st)
	if st.LinkReport != kekproto.DemandClean || st.LinksBroken != 1 {
		t.Errorf("status after the demand: %+v", st)
	}
	f.releaseWith("no report", m, nil, report.LinkDemand)
	why := f.releaseWith("a link wrong", m, bad, report.LinkDemand)
	for _, want := range []string{"1 of the 2 links", "LF-LINK-03 eth1 to r01-u02 eth1: wrong-port, seen r01-u03 eth1"} {
		if !strings.Contains(why, want) {
			t.Errorf("the device reads %q, want %q", why, want)
		}
	}
	f.releaseWith("by another slice", m, linkReport(t, testDevice, 2), report.LinkDemand)
	f.releaseWith("all proved", m, good, "")
	f.stop()
	f.start()
	f.releaseWith("after a restart", m, nil, report.LinkDemand)
	f.must("POST", "/v1/region/links", &kekproto.SetLinkDemand{Demand: kekproto.DemandNone}, nil)
	f.releaseWith("no longer demanded", m, bad, "")
	if status, body := f.as("alice", "POST", "/v1/region/links", &kekproto.SetLinkDemand{Demand: "perfect"}, nil); status != http.StatusBadRequest {
		t.Errorf("another demand: %d %s", status, body)
	}
	f.must("POST", "/v1/devices/"+testDevice+"/suspend", &kekproto.Reason{Reason: "crate was opened"}, nil)
	f.releaseWith("suspended, with clean links", m, good, report.KeySuspended)
}

// A report is a device's own word about itself, in an accepted image; it does
// not touch another's, and its summary outlives the member.
func TestLinkReportsAreKept(t *testing.T) {
	f, m, slice := sealedDevice(t)
	other := f.another("r01-u09")
	m.boot(serverImage, slice)
	if all := f.links(""); len(all) != 2 || !all[0].Time.IsZero() || !all[1].Time.IsZero() {
		t.Errorf("before any report: %+v", all)
	}
	f.releaseWith("another device's report", m, linkReport(t, "r01-u09", 1), report.KeyProtocol)
	f.releaseWith("no report at all", m, []byte(`{"verdict":"ok"}`), report.KeyProtocol)
	f.releaseWith("escapes", m, bytes.Replace(linkReport(t, testDevice, 1, "x"), []byte("another port"), []byte(`\u001b[2J`), 1), report.KeyProtocol)
	if all := f.links(""); !all[0].Time.IsZero() {
		t.Errorf("a bad report was kept: %+v", all)
	}
	bad := linkReport(t, testDevice, 1, "r01-u03 eth1")
	f.releaseWith("with a report", m, bad, "")
	first := f.links("?reports=1")[0]
	if first.Proved != 1 || first.Required != 2 || first.Slice != 1 || !bytes.Equal(first.Report, bad) || first.Wrong == "" || first.Since.IsZero() {
		t.Errorf("kept: %+v", first)
	}
	m.boot("x", slice)
	f.releaseWith("an unknown image", m, linkReport(t, testDevice, 1), report.KeyImage)
	m.boot(serverImage, slice)
	m.extend(measure.SlicePCR, slice) // not by an accepted slice, but by an accepted image
	f.releaseWith("another slice", m, bad, report.KeySliceNew)
	again := f.links("")[0]
	if !again.Time.After(first.Time) || !again.Since.Equal(first.Since) || again.Wrong != first.Wrong || again.Report != nil {
		t.Errorf("the same again: %+v, before %+v", again, first)
	}
	if err := other(linkReport(t, "r01-u09", 1)); err == nil {
		t.Error("a device without a slice got news")
	}
	if l := f.device().Links; l == nil || !bytes.Equal(l.Report, bad) {
		t.Errorf("another device's report took its place: %+v", l)
	}
	f.stop()
	f.start()
	after := f.links("?reports=1")[0]
	if after.Report != nil || after.Wrong != first.Wrong || after.Proved != 1 || after.Required != 2 || after.Slice != 1 ||
		after.Since.Sub(first.Since).Abs() > time.Minute {
		t.Errorf("after a restart: %+v, before %+v", after, first)
	}
	if all := f.links("?rack=r99"); len(all) != 0 {
		t.Errorf("of another rack: %+v", all)
	}
	m.boot(serverImage, slice)
	if _, err := f.client().News(context.Background(), m, 1, linkReport(t, testDevice, 1)); err != nil {
		t.Error(err)
	}
	if l := f.links("")[0]; l.Wrong != "" || l.Proved != 2 || !l.Since.After(first.Since) {
		t.Errorf("mended: %+v", l)
	}
	f.must("POST", "/v1/region/ship", nil, nil)
	if l := f.links("")[0]; !l.Time.IsZero() {
		t.Errorf("the factory's report is still shown after the journey began: %+v", l)
	}
}

// another enrols a further device, and asks news for it with a link report.
func (f *region) another(id string) func(links []byte) error {
	f.t.Helper()
	m := newMachine(f.t)
	var token kekproto.NewToken
	f.must("POST", "/v1/devices", &kekproto.NewDevice{Device: id}, &token)
	c := f.client()
	c.Device = id
	enrolled, err := c.Enroll(context.Background(), m.evidence(secret.Take([]byte(token.Token))), m.activate)
	if err != nil {
		f.t.Fatal(err)
	}
	f.must("POST", "/v1/devices/"+id+"/approve", &kekproto.Approval{EKName: enrolled.EKName}, nil)
	m.boot(serverImage, nil)
	return func(links []byte) error {
		c.Members[0].URL = "https://" + f.devices
		_, err := c.News(context.Background(), m, 1, links)
		return err
	}
}

// A device that says something else each time writes a few lines, not one for
// each; one that says the same, one.
func TestLinkReportsFillNothing(t *testing.T) {
	f, m, slice := sealedDevice(t)
	m.boot(serverImage, slice)
	news := func(links []byte) {
		t.Helper()
		if _, err := f.client().News(context.Background(), m, 1, links); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		news(linkReport(t, testDevice, 1, "r01-u03 eth1"))
	}
	if n := f.auditLines("links"); n != 1 {
		t.Errorf("%d audit lines of one report, want 1", n)
	}
	for i := range 20 {
		news(linkReport(t, testDevice, 1, fmt.Sprintf("r01-u03 eth%d", i)))
	}
	if n := f.auditLines("links"); n < 2 || n > 8 {
		t.Errorf("%d audit lines of link reports", n)
	}
	if status, metrics := f.as("carol", "GET", "/metrics", nil, nil); status != http.StatusOK || !strings.Contains(metrics, "landfall_devices_links_broken 1\n") {
		t.Errorf("metrics lack the broken links: %d", status)
	}
}

// The largest report that a device can write arrives.
func TestLargestLinkReport(t *testing.T) {
	f, m, slice := sealedDevice(t)
	m.boot(serverImage, slice)
	r := &report.LinkReport{Device: testDevice, Slice: 1}
	for i := range 64 {
		r.Links = append(r.Links, report.LinkVerdict{Interface: fmt.Sprintf("eth%d", i), Peer: strings.Repeat("p", 60), PeerInterface: "eth1",
			Verdict: "silent", Code: report.LinkSilent, What: strings.Repeat("<&>", 60)})
	}
	text, err := r.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.client().News(context.Background(), m, 1, text); err != nil {
		t.Errorf("%d bytes: %v", len(text), err)
	}
	if all := f.links(""); len(all[0].Wrong) == 0 || len(all[0].Wrong) > 1024 {
		t.Errorf("%d bytes of words about it", len(all[0].Wrong))
	}
}

// What a machine found out about itself is kept with its record while the region
// is being built.
func TestCapture(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	text := []byte(`{"type":"landfall.dev/capture/v1","device":"` + testDevice + `","ports":[{"name":"eth0","mac":"52:54:00:00:00:01","carrier":true}]}`)
	m.boot(factoryImage, nil)
	for range 2 {
		if err := f.client().Capture(ctx, m, text); err != nil {
			t.Fatal(err)
		}
	}
	epoch := f.status().StoreEpoch
	if err := f.client().Capture(ctx, m, text); err != nil || f.status().StoreEpoch != epoch || f.auditLines("capture") != 1 {
		t.Errorf("the same capture again: %v; epoch %d, before %d", err, f.status().StoreEpoch, epoch)
	}
	same := func(got json.RawMessage) bool {
		var a, b bytes.Buffer
		return json.Compact(&a, got) == nil && json.Compact(&b, text) == nil && bytes.Equal(a.Bytes(), b.Bytes())
	}
	if d := f.device(); !same(d.Capture) {
		t.Errorf("kept: %s", d.Capture)
	}
	var all []kekproto.DeviceInfo
	f.must("GET", "/v1/devices", nil, &all)
	if len(all[0].Capture) > 0 || all[0].SRKPublic != nil {
		t.Errorf("lists are long: %s", all[0].Capture)
	}
	f.must("GET", "/v1/devices?full=1", nil, &all)
	if !same(all[0].Capture) || all[0].SRKPublic == nil {
		t.Errorf("full lists lack the capture (%s), or the SRK", all[0].Capture)
	}
	for name, bad := range map[string]string{
		"another device's": strings.Replace(string(text), testDevice, "r01-u02", 1),
		"unknown field":    strings.Replace(string(text), `"ports"`, `"x":1,"ports"`, 1),
		"escapes":          strings.Replace(string(text), `"ports"`, `"serial":"\u001b[2J","ports"`, 1),
		"no capture":       `{}`,
	} {
		wantCode(t, name, f.client().Capture(ctx, m, []byte(bad)), report.KeyProtocol)
	}
	wantCode(t, "nothing", f.client().Capture(ctx, m, nil), report.KeyProtocol)
	m.boot(serverImage, slice)
	wantCode(t, "server image", f.client().Capture(ctx, m, text), report.KeyImage)
	f.must("POST", "/v1/region/ship", nil, nil)
	m.boot(factoryImage, slice)
	wantCode(t, "in transit", f.client().Capture(ctx, m, text), report.KeyState)
	if d := f.device(); !same(d.Capture) {
		t.Errorf("kept at the end: %s", d.Capture)
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// links are three devices: one all right, one with swapped cables, one silent.
func links(t *testing.T) []kekproto.LinksInfo {
	t.Helper()
	at := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	r := &report.LinkReport{Device: "r07-u12", Slice: 3, Required: 2, Proved: 1, Links: []report.LinkVerdict{
		{Interface: "eth1", Peer: "r07-u13", PeerInterface: "eth1", Required: true, Verdict: "wrong-port", Code: report.LinkWrongPort, What: "r07-u14 eth1 answers on eth1", Seen: "r07-u14 eth1"},
		{Interface: "eth2", Peer: "r07-u11", PeerInterface: "eth2", Required: true, Verdict: "proved-ok"},
		{Interface: "eth3", Peer: "r07-u10", PeerInterface: "eth3", Verdict: "silent", Code: report.LinkSilent, Waived: "crate 4 comes later"},
	}}
	text, err := r.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return []kekproto.LinksInfo{
		{Device: "r07-u11", Rack: "r07", Time: at.Add(time.Hour), Since: at, Slice: 1, Required: 2, Proved: 2, Report: []byte(`{"device":"r07-u11"}`)},
		{Device: "r07-u12", Rack: "r07", Time: at.Add(time.Hour), Since: at, Slice: 3, Required: 2, Proved: 1, Report: text,
			Wrong: "LF-LINK-03 eth1 to r07-u13 eth1: wrong-port, seen r07-u14 eth1; LF-LINK-01 eth3 to r07-u10 eth3: silent"},
		{Device: "r07-u13", Rack: "r07"},
	}
}

// A technician reads which device is wrong, since when, and at which port, and
// finds what is wrong on a line of its own.
func TestLinksAreShown(t *testing.T) {
	all := links(t)
	got := shown(t, func(w io.Writer) { showLinks(w, all, true) })
	want := `DEVICE   PROVED  SINCE                 LAST HEARD            WHAT IS WRONG
r07-u12  1/2     2026-03-01 10:00:00Z  2026-03-01 11:00:00Z  LF-LINK-03 eth1 to r07-u13 eth1: wrong-port, seen r07-u14 eth1
                                                             LF-LINK-01 eth3 to r07-u10 eth3: silent
r07-u13  -       -                     never                 -
1 of 3 devices all right, 1 never heard of
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := shown(t, func(w io.Writer) { showLinks(w, all, false) }); !strings.Contains(got, "r07-u11  2/2") {
		t.Errorf("the device that is all right is left out:\n%s", got)
	}
	got = shown(t, func(w io.Writer) { showDeviceLinks(w, &all[1]) })
	for _, want := range []string{"1 of 2 required links proved, by its slice of generation 3", "eth1       r07-u13 eth1  wrong-port", "LF-LINK-03  r07-u14 eth1 answers on eth1",
		"silent (waived: crate 4 comes later)"} {
		if !strings.Contains(got, want) {
			t.Errorf("links of one device lack %q:\n%s", want, got)
		}
	}
	all[1].Report = nil // the member was restarted
	if got := shown(t, func(w io.Writer) { showDeviceLinks(w, &all[1]) }); !strings.Contains(got, "WRONG    LF-LINK-01 eth3") {
		t.Errorf("without the report:\n%s", got)
	}
	d := &kekproto.DeviceInfo{Device: "r07-u12", Links: &all[1]}
	if got := shown(t, func(w io.Writer) { explain(w, d) }); !strings.Contains(got, "LINKS") || !strings.Contains(got, "kekctl links r07-u12") {
		t.Errorf("explain does not tell of the links:\n%s", got)
	}
	if got := what(&audit.Record{Links: "1/2 of slice 3", Detail: "wrong"}); got != "links 1/2 of slice 3 wrong" {
		t.Errorf("audit show: %q", got)
	}
}

// --json is the array of reports, and says what it lacks.
func TestLinkReportsAsJSON(t *testing.T) {
	all := links(t)
	all[0].Report = nil
	var out, errs bytes.Buffer
	a := &app{stdout: &out, stderr: &errs, json: true}
	if err := (linkCommands{a}).reports(all, false); err != nil {
		t.Fatal(err)
	}
	var got []json.RawMessage
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got) != 1 {
		t.Fatalf("%d reports, %v:\n%s", len(got), err, out.String())
	}
	if r, err := report.ParseLinkReport(got[0]); err != nil || r.Device != "r07-u12" || len(r.Links) != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	if !strings.Contains(errs.String(), "reports of 1 device are not here") {
		t.Errorf("what is missing is not told: %q", errs.String())
	}
	out.Reset()
	if err := (linkCommands{a}).reports(nil, false); err != nil || out.String() != "[]\n" {
		t.Errorf("no reports: %q, %v", out.String(), err)
	}
}

package report

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLinkReport(t *testing.T) {
	want := &LinkReport{Type: LinkReportType, Device: "r07-u12", Slice: 3, Required: 1, Proved: 0, Links: []LinkVerdict{
		{Interface: "eth1", Peer: "r07-u13", PeerInterface: "eth1", Required: true, Verdict: "wrong-port", What: "leads to r07-u14 eth1"},
	}}
	text, err := want.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseLinkReport(text)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" || got.Clean() {
		t.Errorf("a report with an unproved required link, clean=%v:\n%s", got.Clean(), d)
	}
}

// TestLinkReportFits shows that a device with many bad links still has a report.
func TestLinkReportFits(t *testing.T) {
	r := &LinkReport{Device: "r07-u12", Required: 64}
	for range 64 {
		r.Links = append(r.Links, LinkVerdict{Interface: "eth1", Peer: "r07-u13", PeerInterface: "eth1", Required: true, Verdict: "silent",
			What: strings.Repeat("w", 500)})
	}
	text, err := r.Bytes()
	if err != nil || len(text) > MaxLinkReport {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	if _, err := ParseLinkReport(text); err != nil {
		t.Error(err)
	}
}

func TestLinkReportRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"another type", `{"type":"landfall.dev/slice/v1"}`, "its type is"},
		{"unknown field", `{"type":"landfall.dev/link-report/v1","clean":true}`, "unknown field"},
		{"trailing data", `{"type":"landfall.dev/link-report/v1"}{}`, "after the document"},
		{"more proved than required", `{"type":"landfall.dev/link-report/v1","required":0,"proved":1}`, "does not add up"},
		{"more required than links", `{"type":"landfall.dev/link-report/v1","required":1}`, "does not add up"},
		{"escape sequence", `{"type":"landfall.dev/link-report/v1","links":[{"what":"\u001b[2J"}]}`, "no console"},
		{"too long", strings.Repeat(" ", MaxLinkReport+1), "limit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseLinkReport([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

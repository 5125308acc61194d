package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
)

// A stranger's request and changed firmware stand beside the device's own
// refusal, and do not take its place.
func TestExplainTellsAlarmsApart(t *testing.T) {
	refused := func(code, message string) *kekproto.RefusalInfo {
		return &kekproto.RefusalInfo{Refusal: kekproto.Refusal{Code: code, Message: message}, Op: kekproto.OpRelease, Time: time.Unix(1, 0), Count: 3}
	}
	d := &kekproto.DeviceInfo{Device: "r01-u01", Enrolled: true, Refuse: refused("LF-KEY-06", "own refusal"), Unproved: refused("LF-KEY-08", "not its key"),
		Drift: &kekproto.Drift{PCRs: "0,7", From: "0=aa", To: "0=bb"}}
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	explain(w, d)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"own refusal", "UNPROVED", "not its key", "3 times", "ALARM", "PCR 0,7", "0=aa", "0=bb"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("explain lacks %q:\n%s", want, out.String())
		}
	}
	if got := what(&audit.Record{Changed: "7"}); !strings.Contains(got, "ALARM: PCR 7") {
		t.Errorf("audit show says %q of changed firmware", got)
	}
}

// shown is what a screen shows.
func shown(t *testing.T, show func(io.Writer)) string {
	t.Helper()
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	show(w)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// How an image differs stands wherever its refusal does, each difference on a
// line of its own where there is room.
func TestDifferencesAreShown(t *testing.T) {
	r := &kekproto.RefusalInfo{Refusal: kekproto.Refusal{Code: "LF-KEY-06", Message: "PCRs [4 11] differ"}, Op: kekproto.OpRelease, Time: time.Unix(1, 0), Count: 1,
		Differences: []string{"PCR 4: kernel differs", "PCR 11: section .linux differs"}}
	d := kekproto.DeviceInfo{Device: "r01-u01", Enrolled: true, Approved: true, Slice: 1, Sealed: 1, Refuse: r}
	const both = "PCRs [4 11] differ; PCR 4: kernel differs; PCR 11: section .linux differs"
	for name, x := range map[string]struct {
		got  string
		want []string
	}{
		"explain": {shown(t, func(w io.Writer) { explain(w, &d) }),
			[]string{"DIFFERS  PCR 4: kernel differs\n", "DIFFERS  PCR 11: section .linux differs\n", "release, 1 time since", "kekctl evidence r01-u01"}},
		"device": {refusal(&d), []string{both, "(1 time)"}},
		"status": {shown(t, func(w io.Writer) {
			showStatus(w, &kekproto.Status{State: kekproto.StateLive, Sealed: 1, Refused: []kekproto.DeviceInfo{d},
				Images: kekproto.Images{Manifests: []kekproto.ManifestInfo{{Role: "server", State: kekproto.ManifestAccepted}}}})
		}), []string{both, "1 device is refused"}},
	} {
		for _, want := range x.want {
			if !strings.Contains(x.got, want) {
				t.Errorf("%s lacks %q:\n%s", name, want, x.got)
			}
		}
	}
}

// No verdict of released keys while there is none to release, and no line about
// a report that was not made.
func TestNothingIsClaimed(t *testing.T) {
	accepted := kekproto.Images{Manifests: []kekproto.ManifestInfo{{Role: "server", State: kekproto.ManifestAccepted}}}
	revoked := kekproto.Images{Manifests: []kekproto.ManifestInfo{{Role: "server", State: kekproto.ManifestRevoked}}}
	for want, st := range map[string]*kekproto.Status{
		"keys are released":           {State: kekproto.StateLive, Sealed: 1, Images: accepted},
		"no device is sealed yet":     {State: kekproto.StateLive, Images: accepted},
		"DARK: no server image is ac": {State: kekproto.StateLive, Sealed: 1, Images: revoked},
	} {
		if got := verdict(st); !strings.HasPrefix(got, want) {
			t.Errorf("verdict %q, want %q", got, want)
		}
	}
	if got := shown(t, func(w io.Writer) { explain(w, &kekproto.DeviceInfo{Device: "r01-u01"}) }); strings.Contains(got, "report") {
		t.Errorf("explain tells of a report:\n%s", got)
	}
}

package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
	"unicode/utf8"

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
	w := &layout{out: &out}
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

// A suspended device gets no key, whatever it was answered before.
func TestExplainSuspended(t *testing.T) {
	for name, seen := range map[string]*kekproto.Seen{"was answered": {Image: "landfall-server 1.0"}, "never heard of": nil} {
		got := screen(t, func(w io.Writer) {
			explain(w, &kekproto.DeviceInfo{Device: "r01-u01", Enrolled: true, Suspended: true, Reason: "stolen?", Sealed: 1, Seen: seen})
		})
		if !strings.Contains(got, "SUSPENDED: stolen?") || !strings.Contains(got, "`kekctl resume r01-u01`") || strings.Contains(got, "OK") || strings.Contains(got, "NEVER") {
			t.Errorf("%s: explain says\n%s", name, got)
		}
	}
}

// shown is what a table shows.
func shown(t *testing.T, show func(io.Writer)) string {
	t.Helper()
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, gap, ' ', 0)
	show(w)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// screen is what a screen shows, which fits its width.
func screen(t *testing.T, show func(io.Writer)) string {
	t.Helper()
	var out bytes.Buffer
	w := &layout{out: &out}
	show(w)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(l) - 1; n > screenWidth {
			t.Errorf("a line of %d columns: %q", n, l)
		}
	}
	return out.String()
}

// joined undoes the breaks of lines.
func joined(s string) string { return strings.Join(strings.Fields(s), " ") }

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
		"explain": {screen(t, func(w io.Writer) { explain(w, &d) }),
			[]string{"DIFFERS  PCR 4: kernel differs\n", "DIFFERS  PCR 11: section .linux differs\n", "release, 1 time since", "kekctl evidence r01-u01"}},
		"device": {refusal(&d), []string{both, "(1 time)"}},
		"status": {screen(t, func(w io.Writer) {
			showStatus(w, &kekproto.Status{State: kekproto.StateLive, Sealed: 1, Refused: []kekproto.DeviceInfo{d},
				Images: kekproto.Images{Manifests: []kekproto.ManifestInfo{{Role: "server", State: kekproto.ManifestAccepted}}}})
		}), []string{both, "1 device is refused"}},
	} {
		for _, want := range x.want {
			if !strings.Contains(joined(x.got), joined(want)) {
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
		"released keys are released":                  {State: kekproto.StateLive, Sealed: 1, Images: accepted},
		"unsealed no device is sealed yet":            {State: kekproto.StateLive, Images: accepted},
		"dark DARK: no server image is accepted":      {State: kekproto.StateLive, Sealed: 1, Images: revoked},
		"dark DARK: no server image is accepted;":     {State: kekproto.StateBuilding, Sealed: 1, Images: revoked},
		"no-image no server image is accepted yet":    {State: kekproto.StateBuilding, Images: revoked},
		"dark DARK: the audit log cannot be written,": {State: kekproto.StateInTransit, AuditError: "x", Images: accepted},
		"in-transit dark as it should be":             {State: kekproto.StateInTransit, Sealed: 1, Images: accepted},
		"received dark: received":                     {State: kekproto.StateReceived, Sealed: 1, Images: accepted},
		"refused 1 device is refused":                 {State: kekproto.StateLive, Sealed: 1, Images: accepted, Refused: make([]kekproto.DeviceInfo, 1)},
	} {
		if word, why := verdict(st); !strings.HasPrefix(string(word)+" "+why, want) {
			t.Errorf("verdict %q %q, want %q", word, why, want)
		}
	}
	if got := screen(t, func(w io.Writer) { explain(w, &kekproto.DeviceInfo{Device: "r01-u01"}) }); strings.Contains(got, "REPORT") {
		t.Errorf("explain tells of a report:\n%s", got)
	}
}

// A screen of long things fits 80 columns, and loses none of them.
func TestScreensFit(t *testing.T) {
	long := strings.Repeat("a word ", 30)
	r := &kekproto.RefusalInfo{Refusal: kekproto.Refusal{Code: "LF-KEY-06", Message: long, Repair: long}, Op: kekproto.OpRelease, Time: time.Unix(1, 0), Count: 1, Differences: []string{long}}
	d := kekproto.DeviceInfo{Device: "a-device-with-a-name-of-forty-characters", Enrolled: true, Approved: true, Refuse: r, Unproved: r, Seen: &kekproto.Seen{Image: "landfall-server 1.0"}}
	report := `{"type":"landfall.dev/boot-report/v1","device":"x","slice":3,"member":"ks1","kernel":"Debian (/vmlinuz)","uptime":15.1,"steps":[],` +
		`"volumes":[{"name":"data0","opened":false,"code":"LF-DISK-01"}],"warnings":[{"code":"LF-NET-04","what":"` + long + `"}]}`
	st := &kekproto.Status{Region: "north", State: kekproto.StateLive, Member: "ks1", AuditHead: strings.Repeat("0", 64), AuditLines: 12, LinksBroken: 3, Refused: []kekproto.DeviceInfo{d},
		Images: kekproto.Images{Manifests: []kekproto.ManifestInfo{{Image: "landfall-server", Version: "1.0", Role: "server", State: kekproto.ManifestAccepted}}}}
	words := joined(long)
	for name, x := range map[string]struct {
		got, want string
	}{
		"status":  {screen(t, func(w io.Writer) { showStatus(w, st) }), words},
		"explain": {screen(t, func(w io.Writer) { explain(w, &d) }), words},
		"report": {screen(t, func(w io.Writer) { explain(w, &kekproto.DeviceInfo{Device: "x", Sealed: 1, Report: report}) }),
			"REPORT slice 3, key by ks1, Debian (/vmlinuz) started 15.1 s after the kernel volume data0 was not opened: LF-DISK-01 warning LF-NET-04: " + words},
		"list": {screen(t, func(w io.Writer) { showDevices(w, []kekproto.DeviceInfo{d}) }), "LF-KEY-06 1970-01-01 00:00:01Z"},
	} {
		if !strings.Contains(joined(x.got), x.want) {
			t.Errorf("%s lacks %q:\n%s", name, x.want, x.got)
		}
	}
}

// Devices that were last seen on an image that a minimum outgrew are named.
func TestOutgrown(t *testing.T) {
	seen := func(id, image string) kekproto.DeviceInfo {
		return kekproto.DeviceInfo{Device: id, Seen: &kekproto.Seen{Image: image}}
	}
	all := &kekproto.Images{Manifests: []kekproto.ManifestInfo{
		{Image: "landfall-server", Version: "1.0", State: kekproto.ManifestTooOld}, {Image: "landfall-server", Version: "1.1", State: kekproto.ManifestAccepted}}}
	got := outgrown([]kekproto.DeviceInfo{seen("old", "landfall-server 1.0"), seen("new", "landfall-server 1.1"), {Device: "never"}}, all)
	if len(got) != 1 || got[0].Device != "old" {
		t.Errorf("got %+v, want old alone", got)
	}
}

package main

import (
	"bytes"
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

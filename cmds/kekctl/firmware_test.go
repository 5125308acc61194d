package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/kekproto"
)

// The first step shows what changed and names it; other firmware has another name.
func TestShowHeld(t *testing.T) {
	d := &kekproto.Drift{PCRs: "0,7", From: "0=aa 2=bb 7=cc", To: "0=a1 2=bb 7=c1"}
	var out strings.Builder
	showHeld(&out, "r07-u12", d)
	want := []string{
		"r07-u12\tits release was refused at 0001-01-01 00:00:00Z: PCR 0,7 changed",
		"PCR 0\twas aa", "\tis  a1", "PCR 2\tas it was", "PCR 7\twas cc", "\tis  c1",
		"DO\tif this change is yours: kekctl device firmware accept r07-u12 --yes " + digestOf(d),
		"\tif it is not: leave it held, and look at the machine", "",
	}
	got := strings.Split(out.String(), "\n")
	got[0] = want[0] // how a time is written is another test's matter
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	other := *d
	other.To = "0=a1 2=bb 7=c2"
	if digestOf(d) == digestOf(&other) {
		t.Error("two firmwares have one name")
	}
}

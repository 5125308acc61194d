package disk

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// TestMarkOutlives: the mark of a cut-off format is not believed once somebody
// has put a filesystem on the disk.
func TestMarkOutlives(t *testing.T) {
	f := newTree(t)
	f.addExt("vda", "DISK-A", 100, 128)
	v := volume("data0", snapshot.WayFormat, "DISK-A", 0)
	if err := markBlank(Device{Path: f.path("vda"), Size: 128 << 20}, v.UUID); err != nil {
		t.Fatal(err)
	}
	jobs, err := newMaker(t, f).Plan(context.Background(), []snapshot.Volume{v})
	if err == nil || !strings.Contains(err.Error(), "which formatting would destroy") {
		t.Errorf("Plan = %v, %v: data would be formatted", jobs, err)
	}
}

// TestWiped: what the refusal says to do helps.
func TestWiped(t *testing.T) {
	f := newTree(t)
	f.addExt("vda", "DISK-A", 100, 128)
	v, m := volume("data0", snapshot.WayFormat, "DISK-A", 0), newMaker(t, f)
	_, err := m.Plan(context.Background(), []snapshot.Volume{v})
	var refused *RefusedError
	if !errors.As(err, &refused) {
		t.Fatal(err)
	}
	_, do, _ := strings.Cut(refused.Do, ": ")
	wipe, dd, _ := strings.Cut(do, ", then ")
	command0(t, "sh", "-c", "/usr/sbin/"+wipe+" "+f.path("vda")+" && "+dd+" conv=notrunc")
	if _, err := m.Plan(context.Background(), []snapshot.Volume{v}); err != nil {
		t.Errorf("after %q: %v", do, err)
	}
}

// TestUnfinishedStaysSo: a volume that was being made anew is not sealed by a
// plan that says meanwhile that it is encrypted in place.
func TestUnfinishedStaysSo(t *testing.T) {
	f := newTree(t)
	f.disk("vda", "DISK-A", 256<<20)
	dek, v, m := testDEK("dek"), volume("data0", snapshot.WayFormat, "DISK-A", 0), newMaker(t, f)
	jobs, err := m.Plan(context.Background(), []snapshot.Volume{v})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.luksFormat(context.Background(), dek, jobs[0]); err != nil { // and cut off
		t.Fatal(err)
	}
	v.Factory.Way = snapshot.WayInPlace
	if err = seal(context.Background(), m, dek, v); err == nil || !strings.Contains(err.Error(), "being made anew") {
		t.Errorf("seal: %v", err)
	}
	v.Factory.Way = snapshot.WayFormat
	if err := seal(context.Background(), m, dek, v); err != nil {
		t.Errorf("with the plan of before: %v", err)
	}
}

// TestNeedsPart: one disk to be replaced is enough, whatever else is wrong.
func TestNeedsPart(t *testing.T) {
	mendable, part := &RefusedError{Why: "mounted"}, &RefusedError{Why: "read-only", Part: true}
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{mendable, false},
		{refusals([]error{mendable}), false},
		{refusals([]error{part}), true},
		{refusals([]error{mendable, part}), true},
		{errors.New("other"), false},
	} {
		if got := NeedsPart(tc.err); got != tc.want {
			t.Errorf("NeedsPart(%v) = %v, want %v", tc.err, got, tc.want)
		}
	}
}

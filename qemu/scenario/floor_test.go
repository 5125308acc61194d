package scenario

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestFloor shows that the yardstick really unlocks and mounts.
func TestFloor(t *testing.T) {
	t.Parallel()
	steps, at := New(t).NewFloor().Boot()
	var names []string
	for _, s := range steps {
		names = append(names, s.Name)
	}
	if diff := cmp.Diff([]string{"modules", "lease", "key", "keyslot", "dm", "mounted"}, names); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	t.Logf("mounted %.2f s after QEMU's start\n%s", at.At.Seconds(), Table(steps))
}

func TestSteps(t *testing.T) {
	got := Steps("x\r\n[   1.0] landfall: step lease (4/11): done, 0.12s at 3.41s\r\nlandfall: step a: done, 1s\nlandfall: step b (1/2): held\n")
	want := []Step{
		{Name: "lease", Took: 120 * time.Millisecond, At: 3410 * time.Millisecond},
		{Name: "a", Took: time.Second},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

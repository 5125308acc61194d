package disk

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// TestShrinkRepairs: a filesystem with errors that no shrink of ours left is
// refused, and a superblock that e2fsck was cut off in goes on. What a shrink
// leaves is the subject of TestCutsShrink.
func TestShrinkRepairs(t *testing.T) {
	before, want := fullExtDisk(t, 128)
	v := volume("root", "in-place", "DISK-A", 0)
	for _, tc := range []struct {
		name   string
		damage func(b []byte)
		ok     bool
	}{
		{"sound", func([]byte) {}, true},
		{"time of the last check without its checksum", func(b []byte) { b[superblockAt+0x40] ^= 1 }, true},
		{"no group descriptors", func(b []byte) { clear(b[2048:3072]) }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newTree(t)
			f.disk("vda", "DISK-A", 128<<20)
			b := bytes.Clone(before)
			tc.damage(b)
			f.write(f.path("vda"), string(b))
			m := newMaker(t, f)
			jobs, err := m.Plan(context.Background(), []snapshot.Volume{v})
			if err != nil {
				t.Fatal(err)
			}
			err = m.shrink(context.Background(), jobs[0])
			var refused *RefusedError
			if !tc.ok {
				if !errors.As(err, &refused) {
					t.Errorf("shrink: %v, want a refusal", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := extTree(f.path("vda"), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the files differ (-want +got):\n%s", diff)
			}
			// The mark stays until the filesystem is mounted.
			head := readFile(t, f.path("vda"))[:4096]
			if !halfShrunk(head) || halfShrunk(before[:4096]) {
				t.Error("the mark is missing, or was there before")
			}
		})
	}
}

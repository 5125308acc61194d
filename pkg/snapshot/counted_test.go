//go:build !race

package snapshot

import (
	"bytes"
	"testing"

	"github.com/landfall-project/landfall/qemu/perfpage"
)

// TestCountedAllocations compares the allocations of what a boot reads with
// docs/performance.md.
func TestCountedAllocations(t *testing.T) {
	_, root := testKeys(t, "root")
	slice, part := readTestdata(t, "slice-v1.note"), readTestdata(t, "part-v1.img")
	for figure, read := range map[string]func() error{
		perfpage.OpenSlice: func() error { _, _, err := OpenSlice(slice, root); return err },
		perfpage.ReadPart:  func() error { _, err := ReadPart(bytes.NewReader(part), int64(len(part))); return err },
	} {
		n := testing.AllocsPerRun(100, func() {
			if err := read(); err != nil {
				t.Error(err)
			}
		})
		if err := perfpage.Check(figure, perfpage.Count{Numbers: []int64{int64(n)}}); err != nil {
			t.Error(err)
		}
	}
}

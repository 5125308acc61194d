//go:build !race

package luks2

import (
	"testing"

	"github.com/landfall-project/landfall/qemu/perfpage"
)

// TestCountedAllocations compares the allocations of reading a header with
// docs/performance.md.
func TestCountedAllocations(t *testing.T) {
	disk := frozen(t, "inplace-512-pbkdf2", 33*mib)
	n := testing.AllocsPerRun(100, func() {
		if _, err := disk.read(); err != nil {
			t.Error(err)
		}
	})
	if err := perfpage.Check(perfpage.ReadHeader, perfpage.Count{Numbers: []int64{int64(n)}}); err != nil {
		t.Error(err)
	}
}

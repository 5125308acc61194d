package scenario

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/vm"
)

// TestOptionalDiskDead: a data disk that answers with errors does not stop a
// server. The warning names it, on the console and to the fleet. (TestHolds has
// one that is not there.)
func TestOptionalDiskDead(t *testing.T) {
	t.Parallel()
	l := delivered(t)
	dead := l.Path("dead.raw")
	l.Check(os.WriteFile(dead, nil, 0o600))
	l.Check(os.Truncate(dead, dataSize))
	m := l.Start(builder.Server, func(c *vm.Config) {
		c.Disks = slices.Clone(c.Disks)
		c.Disks[2] = vm.Disk{Path: dead, Serial: dataSerial, Broken: true}
	})
	m.Expect(`landfall: warning LF-DISK-08 .*data0`)
	m.Expect(unlocked)
	if out := l.Region.Kekctl("device", "show", Device, "--json"); !strings.Contains(out, "LF-DISK-08") {
		t.Errorf("the fleet was not told:\n%s", out)
	}
}

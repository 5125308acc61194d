package scenario

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/vm"
)

// TestOptionalDiskDead: one dead data disk does not stop a server. The warning
// names it, on the console and to the fleet.
func TestOptionalDiskDead(t *testing.T) {
	t.Parallel()
	l := delivered(t)
	dead := l.Path("dead.raw")
	l.Check(os.WriteFile(dead, nil, 0o600))
	l.Check(os.Truncate(dead, dataSize))
	for _, x := range []struct {
		name   string
		change func(*vm.Config)
	}{
		{"answers with errors", func(c *vm.Config) { c.Disks[2] = vm.Disk{Path: dead, Serial: dataSerial, Broken: true} }},
		{"is not there", func(c *vm.Config) { c.Disks = c.Disks[:2] }},
	} {
		m := l.Start(builder.Server, func(c *vm.Config) {
			c.Disks = append([]vm.Disk(nil), c.Disks...)
			x.change(c)
		})
		m.Expect(`landfall: warning LF-DISK-08 .*data0`, 2*time.Minute)
		m.Expect(`landfall: kexec at`, 2*time.Minute)
		l.Check(m.Off())
		if out := l.Region.Kekctl("device", "show", Device, "--json"); !strings.Contains(out, "LF-DISK-08") {
			t.Errorf("data disk that %s: the fleet was not told:\n%s", x.name, out)
		}
	}
}

// TestRootDiskLate: a server whose root disk is missing holds, and goes on by
// itself when the disk is plugged in.
func TestRootDiskLate(t *testing.T) {
	t.Parallel()
	l := delivered(t)
	root := l.Config.Disks[1]
	m := l.Start(builder.Server, func(c *vm.Config) {
		c.Disks, c.HotplugPorts = []vm.Disk{c.Disks[0], c.Disks[2]}, 1
	})
	m.Expect(`LF-DISK-01`, 3*time.Minute)
	if strings.Contains(m.Console(0).Output(), "landfall: kexec at") {
		t.Error("left without its root disk")
	}
	l.Check(m.AddDisk(t.Context(), 0, root))
	m.Expect(`landfall: kexec at`, 3*time.Minute)
}

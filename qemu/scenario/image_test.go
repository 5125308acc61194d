package scenario

import (
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/vm"
)

// TestServerImageHoldsWithoutSlice boots the real server image on a machine
// that was never in a factory: it must say so on every console that is active, and no key
// press may bring a shell.
func TestServerImageHoldsWithoutSlice(t *testing.T) {
	t.Parallel()
	l := New(t)
	img := l.Image(builder.Server, l.Kernel(), nil, nil)
	m := l.Boot(vm.Config{
		Name: "bare", Firmware: vm.Qboot, Kernel: l.Kernel().Image, Initrd: img.Path,
		// tty0 becomes /dev/console: what ttyS0 shows comes by the list of active consoles.
		Append: "console=tty0 uroot.uinitargs=-shell init=/bin/sh systemd.unit=rescue.target",
	}, l.NewTPM("a"))
	m.Expect(`HOLD .*LF-[A-Z]+-\d\d`)
	for _, key := range []string{"\x03", "\x04", "\x1c", "\x1a", "sh", "id"} {
		m.Type(key)
	}
	time.Sleep(3 * time.Second)
	if out := m.Console(0).Output(); strings.Contains(out, "uid=") || strings.Contains(out, "Kernel panic") {
		t.Errorf("keys at the console did something:\n%s", m.Console(0).Tail(40))
	}
	l.Check(m.Pause(t.Context()))
	l.Check(m.Resume(t.Context())) // it still runs
}

package scenario

import (
	"testing"
	"time"

	"github.com/landfall-project/landfall/qemu/vm"
)

func TestPhases(t *testing.T) {
	at := func(s float64, text string) vm.Line {
		return vm.Line{At: time.Duration(s * float64(time.Second)), Text: text}
	}
	boot := []vm.Line{
		at(7, "BdsDxe: starting Boot0001"), at(7, "landfall: uinit starts at 2.0s, version 1"),
		at(10.5, "landfall: step hardware (1/12): done, 0.35s at 2.5s"), at(11, "landfall: step slice (2/12): done, 0.21s at 3.0s"),
		at(15, "landfall: kexec at 7.0s"), at(17.5, "[    0.000000] Linux version 6.1"), at(50, "r07-u12 login: "), at(70, "root@r07-u12:~#"),
	}
	for name, x := range map[string]struct {
		lines []vm.Line
		want  string
	}{
		"to the login prompt": {boot, "firmware 8.0 s, kernel 2.0 s, uinit 5.0 s, kexec 2.5 s, Debian 32.5 s"},
		"stopped before it":   {boot[:6], "firmware 8.0 s, kernel 2.0 s, uinit 5.0 s, kexec 2.5 s, Debian 0.0 s"},
		"stopped at the jump": {boot[:5], "firmware 8.0 s, kernel 2.0 s, uinit 5.0 s"},
		"held":                {boot[:4], "firmware 8.0 s, kernel 2.0 s"},
		"a wrong clock":       {[]vm.Line{boot[1], at(9, "landfall: step hardware (1/12): done, 0.35s at 52.5s")}, "nothing of ours"},
		"no step":             {boot[:2], "nothing of ours"},
		"nothing":             {nil, "nothing of ours"},
	} {
		if got := phasesOf(x.lines).String(); got != x.want {
			t.Errorf("%s: %s, want %s", name, got, x.want)
		}
	}
}

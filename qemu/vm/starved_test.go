package vm

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestStarvation has the texts of Debian 12's kernel (6.1) and systemd (252),
// with the carriage returns and colours of a serial console.
func TestStarvation(t *testing.T) {
	const healthy = "landfall: kexec at 20.55s\r\n[\x1b[0;32m  OK  \x1b[0m] Found device \x1b[0;1;39mdev-ttyS0.device\x1b[0m - /dev/ttyS0.\r\r\n" +
		"M\x1b[K[ \x1b[0;31m*\x1b[0m] (3 of 3) Job dev-ttyS0.device/start running (1min 12s / 1min 30s)\r\n" +
		"[  465.315] clocksource: Long readout interval, skipping watchdog check: cs_nsec: 7579\r\n\r\nDebian GNU/Linux 12 debian ttyS0\r\n\r\ndebian login: "
	for name, x := range map[string]struct {
		output string
		want   []string
	}{
		"healthy": {healthy, nil},
		"held":    {"r07-u12   HOLD 1m4s   LF-NET-02 no lease\r\n  Timed out waiting for a lease on eth0\r\n", nil},
		"soft lockup": {
			"[  316.412345] watchdog: BUG: soft lockup - CPU#0 stuck for 249s! [ksoftirqd/0:13]\r\n[  316.4] Modules linked in:\r\n",
			[]string{"[  316.412345] watchdog: BUG: soft lockup - CPU#0 stuck for 249s! [ksoftirqd/0:13]"},
		},
		"RCU": {
			"[   70.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\r\n[   80.1] rcu: INFO: rcu_sched self-detected stall on CPU\r\n" +
				"[   90.1] rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 0-... } 5443 jiffies s: 49 root: 0x1/.\r\n",
			[]string{
				"[   70.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "[   80.1] rcu: INFO: rcu_sched self-detected stall on CPU",
				"[   90.1] rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 0-... } 5443 jiffies s: 49 root: 0x1/.",
			},
		},
		"hung task": {
			"[  242.1] INFO: task kworker/u2:1:25 blocked for more than 120 seconds.\r\n",
			[]string{"[  242.1] INFO: task kworker/u2:1:25 blocked for more than 120 seconds."},
		},
		"no console for systemd, as it counted seconds": {
			"\r\x1bM\r\x1b[K[\x1b[0;1;31m TIME \x1b[0m] Timed out waiting for device \x1b[0;1;…dev-ttyS0.device\x1b[0m - /dev/ttyS0.\r\r\n" +
				"\x1b[K[\x1b[0;1;38;5;185mDEPEND\x1b[0m] Dependency failed for \x1b[0;1;39mseri…rvice\x1b[0m - Serial Getty on ttyS0.\r\r\n",
			[]string{
				"[ TIME ] Timed out waiting for device …dev-ttyS0.device - /dev/ttyS0.",
				"[DEPEND] Dependency failed for seri…rvice - Serial Getty on ttyS0.",
			},
		},
		"a disk is missing": {
			"[ TIME ] Timed out waiting for device dev-mapper-data0.device - /dev/mapper/data0.\r\n[DEPEND] Dependency failed for srv.mount - /srv.\r\n",
			nil,
		},
	} {
		if diff := cmp.Diff(x.want, Starvation(x.output)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestStarvedWaits shows which failed waits are blamed on the host.
func TestStarvedWaits(t *testing.T) {
	const lockup = "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [systemd:1]\n"
	const timer = "Kernel panic - not syncing: IO-APIC + timer doesn't work!  Boot with apic=debug and send a report.\n"
	stop := errors.New("stopped from outside")
	for name, x := range map[string]struct {
		output  string
		ended   bool
		stopped bool
		want    string // the sign
	}{
		"timeout":                      {output: lockup, want: strings.TrimSpace(lockup)},
		"end of the machine":           {output: lockup, ended: true, want: strings.TrimSpace(lockup)},
		"stopped":                      {output: lockup, stopped: true, want: strings.TrimSpace(lockup)},
		"the last of several":          {output: "INFO: task a:1 blocked for more than 120 seconds.\n" + lockup, want: strings.TrimSpace(lockup)},
		"healthy":                      {output: "debian login: "},
		"healthy and ended":            {output: "reboot: Restarting system\n", ended: true},
		"no tick of the timer in time": {output: "..... failed :(.\n" + timer, want: strings.TrimSpace(timer)},
		"panic of a kernel that lags":  {output: lockup + "Kernel panic - not syncing: Attempted to kill init!\n"},
	} {
		ours, guest := net.Pipe()
		c, err := newConsole("test", filepath.Join(t.TempDir(), "log"), ours, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		c.add([]byte(x.output), 0)
		go c.read()
		ctx, cancel := context.WithCancelCause(t.Context())
		patience := time.Minute
		switch {
		case x.ended:
			guest.Close()
		case x.stopped:
			cancel(stop)
		default:
			patience = time.Millisecond
		}
		_, err = c.Expect(ctx, regexp.MustCompile(`never`), patience)
		var s *Starved
		sign := ""
		if errors.As(err, &s) {
			sign = s.Sign
			if !strings.Contains(err.Error(), s.Load) || !strings.Contains(err.Error(), "What to do: ") || s.Load == "" {
				t.Errorf("%s: the error does not say how busy the host is and what to do: %v", name, err)
			}
		}
		if sign != x.want {
			t.Errorf("%s: the sign of starvation is %q, want %q; error: %v", name, sign, x.want, err)
		}
		if err == nil || !strings.Contains(err.Error(), `"never"`) || errors.Is(err, stop) != x.stopped {
			t.Errorf("%s: the error hides what failed: %v", name, err)
		}
		cancel(nil)
		guest.Close()
	}
}

// TestLockupRegisters shows that the registers of a real machine are kept when
// its console speaks of a soft lockup, a bounded number of times, and not
// before.
func TestLockupRegisters(t *testing.T) {
	cfg := Config{Name: "locked", Dir: t.TempDir(), Firmware: SeaBIOS, MemoryMiB: 64, Deadline: time.Minute}
	v, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	file := filepath.Join(cfg.Dir, "locked.registers.log")
	v.Console(0).add([]byte("no lockup\n"), 0)
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("registers of a healthy machine: %v", err)
	}
	for range maxLookups + 1 {
		v.Console(0).add([]byte("watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [systemd:1]\n"), 0)
	}
	v.watching.Wait()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Count(string(text), "EIP="), maxLookups*lookupTimes; got != want || !strings.Contains(string(text), "load averages") {
		t.Errorf("%d looks at the registers, want %d:\n%s", got, want, text)
	}
}

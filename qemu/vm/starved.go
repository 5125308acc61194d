package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Starved says that a wait failed on a machine that the host gave too little
// time: its own kernel or systemd said so. The guest's programs are not at
// fault as far as can be seen. Repair: repeat the boot, on a host that does
// less.
type Starved struct {
	Sign string // the console's last line that shows it
	Load string // the host's load averages when the wait failed
	Err  error  // the wait's own failure
}

func (s *Starved) Error() string {
	return fmt.Sprintf("the guest was starved of processor time (load averages of the host: %s): %q\n"+
		"This is the busy host, not what runs in the guest (docs/testing.md, \"A busy machine\"). What to do: end other work, or run fewer machines at a time, and repeat it.\n%v", s.Load, s.Sign, s.Err)
}

func (s *Starved) Unwrap() error { return s.Err }

// NoConsole is a pattern of what systemd prints when it gives the serial port
// up: no login prompt comes any more.
const NoConsole = `Dependency failed for .*\bttyS0\b`

// noTimer is the one panic that a starved guest comes to: the timer that Linux
// looks for with its first ticks (arch/x86/kernel/apic/io_apic.c) came too late.
const noTimer = `Kernel panic - not syncing: IO-APIC \+ timer doesn't work`

// What a starved guest prints, in the words of Debian 12's programs. Linux 6.1
// prints the first four at levels that pass "quiet": kernel/watchdog.c,
// kernel/rcu/tree_stall.h, tree_exp.h, kernel/hung_task.c. systemd 252 prints
// the next two (src/core/device.c, src/core/job.c) when udev has not told it
// of a device within 90 s. Another device than the serial port that this is
// read from may be missing in truth.
var (
	softLockup = regexp.MustCompile(`BUG: soft lockup - CPU#\d+ stuck for \d+s!`)
	starvation = regexp.MustCompile(softLockup.String() +
		`|INFO: rcu_\w+ self-detected stall on CPU` +
		`|INFO: rcu_\w+ detected (?:expedited )?stalls on CPUs/tasks` +
		`|INFO: task .+ blocked for more than \d+ seconds\.` +
		`|Timed out waiting for device .*\bttyS0\b` +
		`|` + NoConsole +
		`|` + noTimer)
	panicked = regexp.MustCompile(`Kernel panic - .*`)
	// escapes are a terminal's colours and movements, which systemd puts around
	// names and shortens as if they were text.
	escapes = regexp.MustCompile(`\x1b(?:M|\[[0-9;]*[A-Za-z]?)`)
)

// Starvation returns the lines of a console's output that a starved guest
// prints, in order.
func Starvation(output string) []string {
	var signs []string
	for line := range strings.Lines(escapes.ReplaceAllString(output, "")) {
		if starvation.MatchString(line) {
			signs = append(signs, strings.TrimSpace(line))
		}
	}
	return signs
}

// starved gives a failed wait its cause where the console shows it. A kernel
// that panicked has a cause of its own, but for noTimer.
func starved(err error, output string) error {
	signs := Starvation(output)
	if len(signs) == 0 {
		return err
	}
	for _, last := range panicked.FindAllString(output, -1) {
		if !starvation.MatchString(last) {
			return err
		}
	}
	return &Starved{Sign: signs[len(signs)-1], Load: HostLoad(), Err: err}
}

// HostLoad is the host's load averages over one, five and fifteen minutes.
func HostLoad() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}

// Where a locked-up guest is looked at.
const (
	maxLookups  = 3           // soft lockups of one machine
	lookupTimes = 2           // looks at each
	lookupPause = time.Second // between them: what moved tells how fast the guest runs
)

// watchLockups writes the registers of a guest whose kernel says that it is
// locked up into a file, while it is: the kernel's own registers do not pass
// "quiet". It ends with the console.
func (v *VM) watchLockups(ctx context.Context) {
	v.consoles[0].follow(softLockup, maxLookups, func() {
		if err := v.lookup(ctx); err != nil {
			v.note(fmt.Sprintf("no registers: %v\n", err))
		}
	})
}

// lookup reads the registers a few times.
func (v *VM) lookup(ctx context.Context) error {
	for i := range lookupTimes {
		if i > 0 {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(lookupPause):
			}
		}
		reply, err := v.Execute(ctx, "human-monitor-command", map[string]any{"command-line": "info registers"})
		if err != nil {
			return err
		}
		var text string
		if err := json.Unmarshal(reply, &text); err != nil {
			return fmt.Errorf("info registers: %w", err)
		}
		v.note(text)
	}
	return nil
}

// note adds to the machine's file of registers.
func (v *VM) note(text string) {
	f, err := os.OpenFile(filepath.Join(v.cfg.Dir, v.cfg.Name+".registers.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return // a help for people, as the console's log is
	}
	defer f.Close()
	fmt.Fprintf(f, "[%8.3f] host's load averages %s\n%s", time.Since(v.started).Seconds(), HostLoad(), strings.ReplaceAll(text, "\r", ""))
}

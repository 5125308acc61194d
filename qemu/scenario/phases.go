package scenario

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/landfall-project/landfall/qemu/vm"
)

// phase is a part of a boot, and how long it took by the host's clock.
type phase struct {
	name string
	took time.Duration
}

type phases []phase

func (p phases) String() string {
	if len(p) == 0 {
		return "nothing of ours"
	}
	var parts []string
	for _, x := range p {
		parts = append(parts, fmt.Sprintf("%s %.1f s", x.name, x.took.Seconds()))
	}
	return strings.Join(parts, ", ")
}

var (
	// Both give the guest's uptime beside the host's clock. The firmware may
	// leave its last line open, so that uinit's first one seems to come with it:
	// the step tells where the kernel began.
	firstStep = regexp.MustCompile(`landfall: step \S+ .*done, [0-9.]+s at ([0-9.]+)s`)
	firstLine = regexp.MustCompile(`landfall: uinit starts at ([0-9.]+)s`)
	jumpLine  = regexp.MustCompile(`landfall: kexec at`)
	loginLine = regexp.MustCompile(`^\S+ login: `)
)

// phasesOf reads the phases of a boot from its console: firmware (to the
// kernel's start), kernel (to uinit's first line), uinit (to the jump), kexec (to
// production's first line), Debian (to its login prompt or its last line). What
// was not reached is missing.
func phasesOf(lines []vm.Line) phases {
	var all phases
	var uptime, start, jump, first, last time.Duration
	for i, line := range lines {
		if m := firstLine.FindStringSubmatch(line.Text); m != nil && uptime == 0 {
			uptime = parseSeconds(m[1])
		}
		if m := firstStep.FindStringSubmatch(line.Text); m != nil && start == 0 && uptime > 0 {
			if start = line.At - parseSeconds(m[1]); start <= 0 {
				return nil // a starved guest measures its own clock wrongly
			}
			all = phases{{"firmware", start}, {"kernel", uptime}}
		}
		if start > 0 && jump == 0 && jumpLine.MatchString(line.Text) {
			jump = line.At
			all = append(all, phase{"uinit", jump - start - uptime})
			if i+1 < len(lines) {
				first = lines[i+1].At
				all = append(all, phase{"kexec", first - jump})
			}
			continue
		}
		if first > 0 && last == 0 && loginLine.MatchString(line.Text) {
			last = line.At
		}
	}
	if first > 0 {
		if last == 0 {
			last = lines[len(lines)-1].At
		}
		all = append(all, phase{"Debian", last - first})
	}
	return all
}

package main

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/report"
)

// tighten closes the ways by which the kernel writes a process's memory to a
// disk: core dumps, of this process and of those that it starts, and swap. It
// refuses to go on where swap is in use. swaps is /proc/swaps (proc(5)): a line
// of headings, then one for each area.
//
// Not covered: a hypervisor that writes its guest's memory to a disk, and a core
// dump of a child that core_pattern pipes into a program; the factory image
// pipes into /bin/false.
func tighten(swaps string) error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return report.Errorf(report.FactoryLeaks, "forbid core dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return report.Errorf(report.FactoryLeaks, "forbid core dumps: %w", err)
	}
	text, err := os.ReadFile(swaps)
	if err != nil && !os.IsNotExist(err) { // a kernel without swap has no such file
		return report.Errorf(report.FactoryLeaks, "look for swap: %w", err)
	}
	var used []string
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if fields := strings.Fields(line); i > 0 && len(fields) > 0 {
			used = append(used, fields[0])
		}
	}
	if used != nil {
		return report.Errorf(report.FactoryLeaks, "swap is in use: %s", strings.Join(used, ", "))
	}
	return nil
}

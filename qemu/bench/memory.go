package main

import (
	"fmt"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/scenario"
)

// Memory sizes that are tried, in MiB.
const (
	leastMemory = 96
	mostMemory  = 256
	memoryStep  = 16
	tooMuch     = mostMemory + memoryStep
)

// measureMemory bisects the smallest memory with which the server reaches its
// kexec. Each size is another geometry, with a manifest and policy of its own.
func measureMemory(l *scenario.Life) int {
	usual := l.Config.MemoryMiB
	defer func() { l.Config.MemoryMiB = usual }()
	enough, short := tooMuch, leastMemory-memoryStep
	for hi := tooMuch; hi-short > memoryStep; {
		mib := short + (hi-short)/2/memoryStep*memoryStep
		l.Config.MemoryMiB = mib
		ok := reachesKexec(l, fmt.Sprintf("1.0.0-%dMiB", mib))
		l.Logf("%d MiB: reaches kexec: %v", mib, ok)
		if ok {
			enough, hi = mib, mib
		} else {
			short = mib
		}
	}
	return enough
}

// enoughTime ends the wait for a machine that has too little memory to come up.
const enoughTime = 3 * time.Minute

func reachesKexec(l *scenario.Life, version string) bool {
	m := l.Start(builder.Server)
	_, err := m.VM.Expect(l.Context(), scenario.Measured, enoughTime)
	l.Check(m.Off())
	if err != nil {
		return false // it did not even start
	}
	l.ApproveGeometry(version)
	m = l.Start(builder.Server)
	match, err := m.VM.Expect(l.Context(), `landfall: kexec at|HOLD [^\n]*\n`, enoughTime)
	l.Check(m.Off())
	return err == nil && match.Groups[0] == "landfall: kexec at"
}

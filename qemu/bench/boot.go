package main

import (
	"slices"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/scenario"
	"github.com/landfall-project/landfall/qemu/vm"
)

// boots are the medians of one kind of boot.
type boots struct {
	// exec is from the kernel's start of PID 1 to its program's first line.
	exec time.Duration
	// steps end so long after that first line; root is mapped then.
	steps []scenario.Step
	root  time.Duration
	// unlocked is from QEMU's start, firmware included, to the mapped root.
	unlocked time.Duration
	kexec    time.Duration // from the first line; 0 for the yardstick
}

// at is from PID 1 to the end of a step.
func (b *boots) at(step string) time.Duration {
	for _, s := range b.steps {
		if s.Name == step {
			return b.exec + s.At
		}
	}
	return 0
}

// unlock is from PID 1 to the mapped root.
func (b *boots) unlock() time.Duration { return b.exec + b.root }

// sample is one boot.
type sample struct {
	start    time.Duration // uptime at the program's first line
	steps    []scenario.Step
	root     time.Duration // uptime when the root was mapped
	unlocked time.Duration // the same since QEMU's start
	kexec    time.Duration // uptime
}

const (
	loudRuns  = 3 // boots that print the kernel's messages
	firstLine = `landfall: \w+ starts at ([0-9.]+)s\s`
)

// measureBoots boots ours and the yardstick in turns, on the same firmware.
func (f *figures) measureBoots(l *scenario.Life, runs int) {
	yard := l.NewFloor()
	yard.Config.Firmware = vm.OVMF
	var ours, floor []sample
	for i := range runs {
		floor = append(floor, floorBoot(l, yard))
		ours = append(ours, serverBoot(l))
		l.Logf("boot %d of %d: PID 1's first line to unlocked: floor %.2f s, ours %.2f s", i+1, runs,
			(floor[i].root - floor[i].start).Seconds(), (ours[i].root - ours[i].start).Seconds())
	}
	f.ours, f.floor = medians(ours), medians(floor)
	// Not in the same boots: the kernel's messages cost time and change PCR 9.
	// It hardly varies.
	var a, b []time.Duration
	loud := func(cfg *vm.Config) { cfg.Append = "loglevel=7" }
	loud(&yard.Config)
	for range min(runs, loudRuns) {
		a = append(a, execTime(l, yard.Start()))
		b = append(b, execTime(l, l.Start(builder.Server, loud)))
	}
	f.floor.exec, f.ours.exec = median(a), median(b)
}

// execTime is from the kernel's line about PID 1 to PID 1's own, by the host's
// clock, of a machine that prints the kernel's messages.
func execTime(l *scenario.Life, m *scenario.Machine) time.Duration {
	kernel := m.Expect(`Run /init as init process`).At
	first := m.Expect(firstLine).At
	l.Check(m.Off())
	return first - kernel
}

func floorBoot(l *scenario.Life, yard *scenario.Floor) sample {
	m := yard.Start()
	first := m.Expect(firstLine)
	dm := m.Expect(`step dm .* at ([0-9.]+)s\s`)
	s := sample{start: seconds(l, first.Groups[1]), root: seconds(l, dm.Groups[1]), unlocked: dm.At}
	m.WaitEnd("guest-reset")
	s.steps = scenario.Steps(m.Console(0).Output())
	return s
}

// serverBoot boots ours until it jumps.
func serverBoot(l *scenario.Life) sample {
	m := l.Start(builder.Server)
	first := m.Expect(firstLine)
	root := m.Expect(`landfall: root unlocked at ([0-9.]+)s\s`)
	s := sample{start: seconds(l, first.Groups[1]), root: seconds(l, root.Groups[1]), unlocked: root.At}
	s.kexec = seconds(l, m.Expect(`landfall: kexec at ([0-9.]+)s\s`).Groups[1])
	l.Check(m.Off())
	s.steps = scenario.Steps(m.Console(0).Output())
	return s
}

func seconds(l *scenario.Life, text string) time.Duration {
	d, err := time.ParseDuration(text + "s")
	l.Check(err)
	return d
}

// medians takes each figure's median on its own.
func medians(samples []sample) boots {
	over := func(of func(sample) time.Duration) time.Duration {
		var all []time.Duration
		for _, s := range samples {
			all = append(all, of(s))
		}
		return median(all)
	}
	b := boots{unlocked: over(func(s sample) time.Duration { return s.unlocked })}
	b.root = over(func(s sample) time.Duration { return s.root - s.start })
	if samples[0].kexec > 0 {
		b.kexec = over(func(s sample) time.Duration { return s.kexec - s.start })
	}
	for i, step := range samples[0].steps {
		b.steps = append(b.steps, scenario.Step{
			Name: step.Name,
			Took: over(func(s sample) time.Duration { return s.steps[i].Took }),
			At:   over(func(s sample) time.Duration { return s.steps[i].At - s.start }),
		})
	}
	return b
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

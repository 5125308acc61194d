package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/image/kernel"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/qemu/scenario"
	"github.com/landfall-project/landfall/qemu/vm"
)

// form is one way to start the server image, and how it went, since QEMU's
// start: medians.
type form struct {
	name              string
	first, root, jump time.Duration // uinit's first line, root unlocked, kexec
}

const formRuns = 3

// measureForms boots the sealed server in every form, some times each.
func measureForms(l *scenario.Life) []form {
	file := l.BuildUKI(scenario.UKI{Version: "9.0"})
	policies := l.Region.ApproveUKI(builder.Server, "9.0", file, measure.FormUKI, measure.FormUKIiPXE)
	volume := l.BootVolume("bench-uki.raw", file, policies...)
	hardware := generic(l)
	realVolume := l.BootVolume("bench-generic.raw", hardware, l.Region.ApproveUKI(builder.Server, "9.1", hardware, measure.FormUKI)...)
	l.ServePXE(file)
	all := []form{
		bootForm(l, "kernel and initramfs (`efi-kernel`)", func() *scenario.Machine { return l.Start(builder.Server) }),
		bootForm(l, "UKI on a boot volume (`uki`)", func() *scenario.Machine { return l.StartFrom(volume) }),
		bootForm(l, "UKI by iPXE over HTTP (`uki-ipxe`)", func() *scenario.Machine {
			return l.StartFirmware(func(c *vm.Config) { c.NICs[0].PXE = true })
		}),
		bootForm(l, "UKI on a boot volume, generic kernel, e1000e and NVMe", func() *scenario.Machine {
			return l.StartFrom(realVolume, scenario.RealHardware)
		}),
	}
	return all
}

// generic makes a UKI with the kernel and drivers for real hardware.
func generic(l *scenario.Life) string {
	k, err := kernel.Fetch(l.Context(), l.Cache, kernel.Generic)
	l.Check(err)
	img := l.ImageFor(builder.Server, k)
	return l.BuildUKI(scenario.UKI{Version: "9.1", Kernel: k, Initrd: img.Path})
}

func bootForm(l *scenario.Life, name string, start func() *scenario.Machine) form {
	var first, root, jump []time.Duration
	for range formRuns {
		m := start()
		starts := m.Expect(firstLine)
		unlocked := m.Expect(`landfall: root unlocked at ([0-9.]+)s\s`)
		// By the guest's clock: the firmware leaves its last line open, so that
		// uinit's first one seems to come with it.
		first = append(first, unlocked.At-(seconds(l, unlocked.Groups[1])-seconds(l, starts.Groups[1])))
		root = append(root, unlocked.At)
		jump = append(jump, m.Expect(`landfall: kexec at`).At)
		l.Check(m.Off())
	}
	l.Logf("%s: uinit after %.1f s, unlocked after %.1f s, kexec after %.1f s", name, median(first).Seconds(), median(root).Seconds(), median(jump).Seconds())
	return form{name, median(first), median(root), median(jump)}
}

func (f *figures) formTable(b *strings.Builder) {
	fmt.Fprintf(b, "`make bench`: seconds since QEMU's start, OVMF and swtpm, medians of %d. Firmware and loader are most of it; in brackets, the time from uinit's first line.\n\n", formRuns)
	b.WriteString("| form | uinit starts | root unlocked | kexec |\n|---|---|---|---|\n")
	for _, x := range f.forms {
		fmt.Fprintf(b, "| %s | %s | %s (%s) | %s |\n", x.name, sec(x.first), sec(x.root), sec(x.root-x.first), sec(x.jump))
	}
}

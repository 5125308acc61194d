package main

import (
	"fmt"
	"strings"
	"time"
)

const head = `# Performance

Written by ` + "`make bench`" + ` (as root, on a machine that does nothing else). Two cores, virtual machines emulated by QEMU TCG with one CPU and 512 MiB, no KVM:
seconds here are several times those of hardware. **They are ratios to a yardstick measured in the same minutes**, not promises. No test depends on a time.

What can be counted without a clock is counted in every ` + "`make test`" + `, which fails where this page says something else; ` + "`go run ./qemu/bench -counted`" + ` writes those tables
anew. Every other section names the commit that it was measured at.

The yardstick, ` + "[qemu/floor](../qemu/floor/main.go)" + `, is the least a program can do to open a disk with a key from the network: the same modules, a lease, a passphrase over
TLS 1.3, one LUKS2 keyslot, device-mapper, mount. It uses no TPM, attests nothing, verifies no signature and no header, and protects nothing.

`

const notMeasured = "not measured: the run ended before"

// verdict compares a figure with its target.
func verdict(ok bool, why string) string {
	if ok {
		return "met"
	}
	return "**missed**: " + why
}

// The reasons of targets that were missed on the machine where this was
// written, and what would meet them.
const (
	whyUnlock = "ours verifies slice and policy and asks the TPM where the yardstick does nothing (some 0.25 s under emulation), " +
		"proves the root by header checks and MAC (0.1 s), starts a larger program (0.1 s). On the one emulated CPU what runs beside is not free. " +
		"DHCP on all ports before the slice is verified, and policy verification during the TLS handshake, would save an estimated 0.2 s."
	whyFleet = "about half of a release is TLS 1.3 itself: a bare Go server with one ECDSA verification takes 0.38 CPU ms a connection, 0.29 ms without ML-KEM. " +
		"Then HPKE, the audit line's fsync and net/http. A handler without net/http, and fewer wake-ups for each fsync, would get closer; giving up ML-KEM is not worth it."
	whyMem = "kexec_file_load needs production's kernel and initrd at once as verified copies (29 MB), as the kernel's own copies (29 MB) and as segments (66 MiB, 51 of them the unpacked " +
		"Debian kernel's); uinit itself needs far less. Making the segments in uinit (kexec_load) would save the two copies, an estimated 55 MB."
)

// Titles of the sections of measured figures, in the page's order but for the
// counted ones between.
const (
	shortTitle   = "In short: measured"
	bootTitle    = "Boot"
	formsTitle   = "Boot forms"
	fleetTitle   = "Key server"
	memoryTitle  = "Memory"
	sealingTitle = "Sealing"
	networkTitle = "Links and addresses"
)

// page is docs/performance.md.
func (f *figures) page(runs int) string {
	var b strings.Builder
	b.WriteString(head)
	b.WriteString(f.counts.Targets() + "\n")
	f.section(&b, shortTitle, f.summary)
	f.section(&b, bootTitle, func(b *strings.Builder) { f.bootTable(b, runs) })
	f.section(&b, formsTitle, f.formTable)
	b.WriteString(f.counts.Tables())
	f.section(&b, fleetTitle, f.fleetTable)
	f.section(&b, memoryTitle, func(b *strings.Builder) {
		b.WriteString("`make bench` bisects 96 to 256 MiB in steps of 16: the server image on OVMF, to its kexec, with Debian's kernel and initrd loaded. " +
			"Each size is a geometry of its own (the firmware measures a kernel header that depends on it), with its own golden boot, manifest and policy.\n\n")
		fmt.Fprintf(b, "Smallest: %s.\n", f.smallest())
	})
	f.section(&b, sealingTitle, f.sealingTable)
	f.section(&b, networkTitle, f.networkTable)
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func (f *figures) smallest() string {
	if f.memory == tooMuch {
		return fmt.Sprintf("more than %d MiB", mostMemory)
	}
	return fmt.Sprintf("%d MiB", f.memory)
}

func (f *figures) ratio() float64 { return f.ours.unlock().Seconds() / f.floor.unlock().Seconds() }

// perCPU is releases per CPU second over tangd's, the worst of all loads.
func (f *figures) perCPU() float64 {
	worst := 0.0
	for _, l := range f.fleet {
		if l.server != "Release" {
			continue
		}
		if tang := metric(f.fleet, "Tang", l.clients, unitRate); tang > 0 {
			if r := l.metrics[unitRate] / tang; worst == 0 || r < worst {
				worst = r
			}
		}
	}
	return worst
}

const (
	targetRatio  = 1.25
	targetFleet  = 8.0
	targetMemory = 160
)

func (f *figures) summary(b *strings.Builder) {
	b.WriteString("| figure | measured | target | |\n|---|---|---|---|\n")
	row := func(figure, measured, target, verdict string) {
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", figure, measured, target, verdict)
	}
	row("PID 1 → root unlocked, against the yardstick", fmt.Sprintf("%.2f × (%s against %s)", f.ratio(), sec(f.ours.unlock()), sec(f.floor.unlock())),
		fmt.Sprintf("≤ %.2f ×", targetRatio), verdict(f.ratio() <= targetRatio, whyUnlock))
	row("QEMU start → root unlocked, same firmware (OVMF)", fmt.Sprintf("%s against %s", sec(f.ours.unlocked), sec(f.floor.unlocked)), "–", "")
	row("PID 1 → kexec jump", sec(f.ours.exec+f.ours.kexec), "–", "mostly the emulated kernel's check and copy of production's kernel and initrd")
	if len(f.fleet) > 0 {
		row("attested releases per server CPU second, against tangd", fmt.Sprintf("%.1f ×", f.perCPU()), fmt.Sprintf("≥ %.0f ×", targetFleet), verdict(f.perCPU() >= targetFleet, whyFleet))
	}
	if f.memory > 0 {
		row("smallest memory", f.smallest(), fmt.Sprintf("≤ %d MiB", targetMemory), verdict(f.memory <= targetMemory, whyMem))
	}
}

func (f *figures) bootTable(b *strings.Builder, runs int) {
	fmt.Fprintf(b, "`make bench`: ours and the yardstick in turns on OVMF, medians of %d. Both count from the kernel's start of PID 1; that the program's first line "+
		"comes %s (ours) and %s (yardstick) later was measured in %d further boots each, with the kernel's messages on.\n\n", runs, sec(f.ours.exec), sec(f.floor.exec), min(runs, loudRuns))
	b.WriteString("| ours: step | took | after PID 1 | what the yardstick does by then |\n|---|---|---|---|\n")
	same := map[string]string{"hardware": "modules", "lease": "lease", "key": "key", "root": "mounted"}
	fmt.Fprintf(b, "| program starts | | %s | %s |\n", sec(f.ours.exec), sec(f.floor.exec))
	for _, s := range f.ours.steps {
		if s.Name == "disks" {
			fmt.Fprintf(b, "| **root unlocked** | | **%s** | **%s** |\n", sec(f.ours.unlock()), sec(f.floor.unlock()))
		}
		other := ""
		if name := same[s.Name]; name != "" {
			other = name + " " + sec(f.floor.at(name))
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", s.Name, sec(s.Took), sec(f.ours.exec+s.At), other)
	}
	fmt.Fprintf(b, "| kexec | | %s | |\n", sec(f.ours.exec+f.ours.kexec))
}

// unitRate is the benchmarks' unit of answers per CPU second of the server.
const unitRate = "releases/cpu-s"

func (f *figures) fleetTable(b *strings.Builder) {
	fmt.Fprintf(b, "`%s`. Each release is a new TLS 1.3 connection, a verified quote, and an audit line that is durable before the key leaves; clients share the two cores. "+
		"tangd is Debian's, a process per connection, one recovery each; it attests nothing and records nothing.\n\n", strings.Join(fleetCommand, " "))
	b.WriteString("| server | clients | answers per CPU second | CPU ms each | p50 ms | p99 ms | ratio per CPU second |\n|---|---|---|---|---|---|---|\n")
	for _, l := range f.fleet {
		name, ratio := "tangd", ""
		if l.server == "Release" {
			name = "kekd"
			if tang := metric(f.fleet, "Tang", l.clients, unitRate); tang > 0 {
				ratio = fmt.Sprintf("%.1f ×", l.metrics[unitRate]/tang)
			}
		}
		fmt.Fprintf(b, "| %s | %d | %.0f | %.2f | %.1f | %.1f | %s |\n", name, l.clients, l.metrics[unitRate], l.metrics["cpu-ms/release"], l.metrics["p50-ms"], l.metrics["p99-ms"], ratio)
	}
}

func sec(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

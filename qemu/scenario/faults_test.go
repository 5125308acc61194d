package scenario

import (
	"testing"
	"time"

	"github.com/landfall-project/landfall/qemu/vm"
)

// TestDiskFaults shows the lab's disk faults: one that answers with errors,
// and one that is plugged in late.
func TestDiskFaults(t *testing.T) {
	t.Parallel()
	l := New(t)
	good, late := l.GPTDisk("good.raw", "GOOD", 4<<20, nil), l.GPTDisk("late.raw", "LATE", 4<<20, nil)
	m := l.Boot(vm.Config{
		Firmware: vm.Qboot, Kernel: l.Kernel().Image, Initrd: l.Initrd(l.GoBinary("./qemu/probe"), l.moduleFiles()),
		Disks: []vm.Disk{good, {Path: l.GPTDisk("dead.raw", "DEAD", 4<<20, nil).Path, Broken: true}}, HotplugPorts: 1,
	}, nil)
	m.Expect(`probe: ready`)
	m.Type("modules")
	m.Expect(`probe: modules <nil>`)
	m.Type("read /dev/vda")
	m.Expect(`probe: read /dev/vda: <nil>`)
	m.Type("read /dev/vdb")
	m.Expect(`probe: read /dev/vdb: .*input/output error`)
	l.Check(m.AddDisk(t.Context(), 0, late))
	for range 60 {
		m.Type("read /dev/vdc")
		if m.Expect(`probe: read /dev/vdc: (.*)\r`).Groups[1] == "<nil>" {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	t.Error("the disk that was plugged in late never appeared")
}

// TestPowerCut shows that a cut between two TPM commands ends the machine and
// leaves a TPM that starts again.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	l := New(t)
	tpm := l.NewTPM("a")
	m := l.Boot(vm.Config{Kernel: l.Kernel().Image, Initrd: l.Initrd(l.GoBinary("./qemu/probe"), nil)}, tpm)
	const commands = 40 // in the firmware's part of the boot
	m.CutPowerAfter(commands)
	exit, err := m.VM.Wait(t.Context(), time.Minute)
	l.Check(err)
	if exit.Reason != "killed" {
		t.Errorf("machine ended by %s, want killed", exit.Reason)
	}
	bus := m.TPM.Proxy.Capture()
	if bus.Count() <= commands || len(bus[bus.Count()-1].Response) != 0 {
		t.Errorf("%d commands on the bus, want more than %d and the last one without a response", bus.Count(), commands)
	}
	l.Check(m.Off())
	l.PCR(l.PowerOn(tpm), 0)
}

// Package vm runs virtual machines under QEMU for tests and the demo: with a
// deadline, with consoles that can be read and written, with QMP, and without
// leaving a process behind.
//
// Machines run under TCG by default, because a /dev/kvm that exists may still
// be unusable. Figures measured here compare with each other, not with
// hardware.
package vm

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/landfall-project/landfall/qemu/ovmf"
)

// Firmware is what starts the guest.
type Firmware int

const (
	// OVMF is UEFI firmware that measures the kernel into PCR 4 and the initrd
	// and command line into PCR 9.
	OVMF Firmware = iota
	// SeaBIOS measures neither: a lab profile only.
	SeaBIOS
	// Qboot starts a Kernel in a tenth of OVMF's time and has no code for TPMs:
	// the kernel starts the TPM itself, and nothing is measured.
	Qboot
)

func (f Firmware) String() string {
	switch f {
	case OVMF:
		return "OVMF"
	case SeaBIOS:
		return "SeaBIOS"
	case Qboot:
		return "qboot"
	}
	return fmt.Sprintf("firmware %d", int(f))
}

// TPMModel is the interface that the guest sees.
type TPMModel string

// QEMU's TPM models on x86.
const (
	TPMTIS TPMModel = "tpm-tis"
	TPMCRB TPMModel = "tpm-crb"
)

// Where Debian's package ovmf keeps the 4 MiB builds. The one for Secure Boot
// keeps its variables behind system management mode.
const (
	ovmfCode       = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfSecureCode = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	ovmfVars       = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// qbootROM comes with Debian's package qemu-system-data.
const qbootROM = "/usr/share/qemu/qboot.rom"

// emulatedCPU leaves out the fast string instructions: the emulator runs them
// byte by byte, where a kernel without them stores eight bytes at a time. On
// pages that hold translated code each byte then takes a slow path, of which a
// busy host makes soft lockups of the guest (docs/testing.md).
const emulatedCPU = "max,erms=off,fsrm=off"

// romDir is where Debian's package ipxe-qemu keeps the cards' boot ROMs.
const romDir = "/usr/lib/ipxe/qemu/"

// Disk is a disk. The guest sees those on virtio as vda, vdb, …, those on NVMe
// as nvme0n1, nvme1n1, …, in order.
type Disk struct {
	Path     string
	Format   string // "raw" (default) or "qcow2"
	Bus      string // "virtio" (default) or "nvme"
	ReadOnly bool
	Serial   string // up to 20 bytes; shown in /sys/block/*/serial
	// Boot lets the firmware start what is on the disk; of several, the first.
	Boot bool
	// Snapshot drops the guest's writes when the machine ends.
	Snapshot bool
	// Broken answers each read with an I/O error: a dead disk. Path must be raw.
	Broken bool
}

// NIC is a network card on a tap of the machine's namespace, or on a socket of
// package qemu/hub.
type NIC struct {
	Tap    string
	Socket string
	MAC    string
	Model  string // "virtio-net-pci" (default) or "e1000e"
	// PXE gives the card a boot ROM, iPXE's, which the firmware tries before any
	// disk. The ROM is measured into PCR 2.
	PXE bool
}

// TPM connects the guest to a TPM emulator.
type TPM struct {
	Ctrl  string   // control socket
	Model TPMModel // TPMTIS if empty
}

// Config describes a machine. PCR values depend on its geometry (memory, CPUs,
// order of devices), so scenarios that compare them use one Config.
type Config struct {
	Name     string // in logs and errors
	Dir      string // for logs and firmware variables; must exist
	Firmware Firmware
	VarsFile string // firmware variables kept across boots; a fresh copy if empty
	// SecureBoot runs the OVMF that enforces signatures; without a VarsFile it
	// trusts Debian's public test key (package qemu/ovmf). OVMF only.
	SecureBoot bool

	// Kernel, if not empty, is handed to the firmware by QEMU. Without it the
	// firmware starts what it finds: a card with PXE, then a disk with Boot.
	Kernel, Initrd string
	Append         string // command line behind Words

	MemoryMiB int // 512 if 0
	CPUs      int // 1 if 0
	Disks     []Disk
	NICs      []NIC
	TPM       *TPM
	RTC       time.Time // the guest's clock at start; the host's if zero
	Consoles  int       // serial ports ttyS0…, of which ttyS0 is the kernel's console; 1 if 0
	// HotplugPorts is the number of empty PCIe root ports (hp0, hp1, …) for
	// AddDisk. They are part of the geometry.
	HotplugPorts int
	Netns        string        // network namespace to run in, "" for the host's
	KVM          bool          // use /dev/kvm
	AllowReboot  bool          // a guest's reboot restarts it instead of ending QEMU
	Deadline     time.Duration // the machine is killed after it; 20 min if 0
	Extra        []string      // further QEMU arguments
}

func (c *Config) setDefaults() error {
	if c.Name == "" {
		c.Name = "vm"
	}
	if c.Dir == "" {
		return errors.New("vm: Config.Dir is empty: logs need a folder")
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 512
	}
	if c.CPUs == 0 {
		c.CPUs = 1
	}
	if c.Consoles == 0 {
		c.Consoles = 1
	}
	if c.Deadline == 0 {
		c.Deadline = 20 * time.Minute
	}
	if c.Firmware == OVMF && c.VarsFile == "" {
		c.VarsFile = filepath.Join(c.Dir, c.Name+".vars.fd")
	}
	for _, d := range c.Disks {
		if strings.Contains(d.Path, ",") {
			return fmt.Errorf("vm: disk path %q: QEMU reads a comma as a separator", d.Path)
		}
	}
	return c.checkBoot()
}

// checkBoot refuses what QEMU would ignore or misread.
func (c *Config) checkBoot() error {
	if c.Kernel == "" && (c.Initrd != "" || c.Append != "") {
		return errors.New("vm: Initrd and Append go with a Kernel: what the firmware starts brings its own")
	}
	if c.SecureBoot && c.Firmware != OVMF {
		return errors.New("vm: Secure Boot is UEFI's: set Firmware to OVMF")
	}
	if c.Firmware == Qboot && c.Kernel == "" {
		return errors.New("vm: qboot starts a Kernel only: set one, or Firmware to OVMF")
	}
	for _, d := range c.Disks {
		if d.Bus != "" && d.Bus != busVirtio && d.Bus != busNVMe {
			return fmt.Errorf("vm: disk bus %q is unknown: use %s or %s", d.Bus, busVirtio, busNVMe)
		}
	}
	for _, n := range c.NICs {
		if m := n.model(); m != cardVirtio && m != cardIntel {
			return fmt.Errorf("vm: network card %q is unknown: use %s or %s", m, cardVirtio, cardIntel)
		}
		if (n.Tap == "") == (n.Socket == "") || strings.Contains(n.Socket, ",") {
			return fmt.Errorf("vm: network card %s needs either a tap or a socket without a comma, has %q and %q", n.MAC, n.Tap, n.Socket)
		}
	}
	return nil
}

// args is QEMU's command line. The n-th console is on descriptor fd[n], QMP on
// the last one.
func (c *Config) args(fds []int) []string {
	accel := []string{"-accel", "tcg,thread=multi", "-cpu", emulatedCPU}
	if c.KVM {
		accel = []string{"-accel", "kvm", "-cpu", "host"}
	}
	a := append([]string{"-M", c.machine()}, accel...)
	a = append(a, "-smp", fmt.Sprint(c.CPUs), "-m", fmt.Sprint(c.MemoryMiB),
		"-nodefaults", "-display", "none", "-name", c.Name)
	if !c.AllowReboot {
		a = append(a, "-no-reboot")
	}
	if !c.RTC.IsZero() {
		a = append(a, "-rtc", "base="+c.RTC.UTC().Format("2006-01-02T15:04:05"))
	}
	a = append(a, c.firmwareArgs()...)
	for i := range c.Consoles {
		a = append(a, "-chardev", fmt.Sprintf("socket,id=con%d,fd=%d", i, fds[i]),
			"-serial", fmt.Sprintf("chardev:con%d", i))
	}
	a = append(a, "-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", fds[c.Consoles]), "-mon", "chardev=qmp,mode=control")
	a = append(a, c.bootArgs()...)
	a = append(a, c.deviceArgs()...)
	return append(a, c.Extra...)
}

func (c *Config) machine() string {
	if c.SecureBoot {
		return "q35,smm=on"
	}
	return "q35"
}

func (c *Config) firmwareArgs() []string {
	switch c.Firmware {
	case SeaBIOS: // QEMU's own default
		return nil
	case Qboot:
		return []string{"-bios", qbootROM}
	}
	var a []string
	code := ovmfCode
	if c.SecureBoot {
		code = ovmfSecureCode
		// Only system management mode may write the variables.
		a = append(a, "-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	return append(a, "-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+code,
		"-drive", "if=pflash,unit=1,format=raw,file="+c.VarsFile)
}

// varsTemplate is what a missing VarsFile is copied from.
func (c *Config) varsTemplate() string {
	if c.SecureBoot {
		return ovmf.SnakeoilVars
	}
	return ovmfVars
}

func (c *Config) bootArgs() []string {
	var a []string
	if c.Kernel != "" {
		a = append(a, "-kernel", c.Kernel, "-append", c.cmdline())
	}
	if c.Initrd != "" {
		a = append(a, "-initrd", c.Initrd)
	}
	return a
}

// Words are on the command line of each kernel that QEMU hands to the firmware.
// The last one: at its start Linux waits for ten ticks of the timer and panics when
// fewer than four came, which happens where the host starves the emulator.
const Words = "console=ttyS0 panic=-1 reboot=t quiet no_timer_check"

// cmdline adds the console. Linux makes one 8250 port a console, the first one
// named, so further serial ports are for programs only.
func (c *Config) cmdline() string {
	words := Words
	if c.Append != "" {
		words += " " + c.Append
	}
	return words
}

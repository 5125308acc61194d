// Package vm runs virtual machines under QEMU for tests and the demo: with a
// deadline, with consoles that can be read and written, with QMP, and without
// leaving a process behind.
//
// Machines run under TCG by default, because a /dev/kvm that exists may still
// be unusable. Figures measured here compare with each other, not with
// hardware.
package vm

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// Firmware is what starts the guest.
type Firmware int

const (
	// OVMF is UEFI firmware that measures the kernel into PCR 4 and the initrd
	// and command line into PCR 9.
	OVMF Firmware = iota
	// SeaBIOS measures neither: a lab profile only.
	SeaBIOS
)

// TPMModel is the interface that the guest sees.
type TPMModel string

// QEMU's TPM models on x86.
const (
	TPMTIS TPMModel = "tpm-tis"
	TPMCRB TPMModel = "tpm-crb"
)

// Where Debian's package ovmf keeps the 4 MiB build.
const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// Disk is a virtio disk. The guest sees the disks as vda, vdb, … in order.
type Disk struct {
	Path     string
	Format   string // "raw" (default) or "qcow2"
	ReadOnly bool
	Serial   string // up to 20 bytes; shown in /sys/block/*/serial
	// Snapshot drops the guest's writes when the machine ends.
	Snapshot bool
	// Broken answers each read with an I/O error: a dead disk. Path must be raw.
	Broken bool
}

// NIC is a virtio network card on a tap of the machine's namespace.
type NIC struct {
	Tap string
	MAC string
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

	Kernel, Initrd string
	Append         string // command line behind "console=ttyS0 panic=-1 reboot=t quiet"

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
	Deadline     time.Duration // the machine is killed after it; 10 min if 0
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
		c.Deadline = 10 * time.Minute
	}
	if c.Firmware == OVMF && c.VarsFile == "" {
		c.VarsFile = filepath.Join(c.Dir, c.Name+".vars.fd")
	}
	for _, d := range c.Disks {
		if strings.Contains(d.Path, ",") {
			return fmt.Errorf("vm: disk path %q: QEMU reads a comma as a separator", d.Path)
		}
	}
	return nil
}

// args is QEMU's command line. The n-th console is on descriptor fd[n], QMP on
// the last one.
func (c *Config) args(fds []int) []string {
	accel := []string{"-accel", "tcg,thread=multi", "-cpu", "max"}
	if c.KVM {
		accel = []string{"-accel", "kvm", "-cpu", "host"}
	}
	a := append([]string{"-M", "q35"}, accel...)
	a = append(a, "-smp", fmt.Sprint(c.CPUs), "-m", fmt.Sprint(c.MemoryMiB),
		"-nodefaults", "-display", "none", "-name", c.Name)
	if !c.AllowReboot {
		a = append(a, "-no-reboot")
	}
	if !c.RTC.IsZero() {
		a = append(a, "-rtc", "base="+c.RTC.UTC().Format("2006-01-02T15:04:05"))
	}
	if c.Firmware == OVMF {
		a = append(a, "-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+ovmfCode,
			"-drive", "if=pflash,unit=1,format=raw,file="+c.VarsFile)
	}
	for i := range c.Consoles {
		a = append(a, "-chardev", fmt.Sprintf("socket,id=con%d,fd=%d", i, fds[i]),
			"-serial", fmt.Sprintf("chardev:con%d", i))
	}
	a = append(a, "-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", fds[c.Consoles]), "-mon", "chardev=qmp,mode=control")
	a = append(a, c.bootArgs()...)
	a = append(a, c.deviceArgs()...)
	return append(a, c.Extra...)
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

// cmdline adds the console. Linux makes one 8250 port a console, the first one
// named, so further serial ports are for programs only.
func (c *Config) cmdline() string {
	words := "console=ttyS0 panic=-1 reboot=t quiet"
	if c.Append != "" {
		words += " " + c.Append
	}
	return words
}

// driveArgs is the image's part of QEMU's -drive.
func (d Disk) driveArgs() string {
	if d.Broken {
		return "driver=blkdebug,image.driver=file,image.filename=" + d.Path +
			",inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=5"
	}
	args := "cache=writeback,file=" + d.Path + ",format=" + cmp.Or(d.Format, "raw")
	if d.ReadOnly {
		args += ",readonly=on"
	}
	if d.Snapshot {
		args += ",snapshot=on"
	}
	return args
}

func (c *Config) deviceArgs() []string {
	var a []string
	for i, d := range c.Disks {
		drive := fmt.Sprintf("if=none,id=disk%d,%s", i, d.driveArgs())
		dev := fmt.Sprintf("virtio-blk-pci,drive=disk%d,id=blk%d", i, i)
		if d.Serial != "" {
			dev += ",serial=" + d.Serial
		}
		a = append(a, "-drive", drive, "-device", dev)
	}
	for i, n := range c.NICs {
		a = append(a, "-netdev", fmt.Sprintf("tap,id=net%d,ifname=%s,script=no,downscript=no", i, n.Tap),
			// romfile=: the card's boot ROM would be measured into PCR 2 and slow the start.
			"-device", fmt.Sprintf("virtio-net-pci,netdev=net%d,id=nic%d,mac=%s,romfile=", i, i, n.MAC))
	}
	if c.TPM != nil {
		model := cmp.Or(c.TPM.Model, TPMTIS)
		a = append(a, "-chardev", "socket,id=chrtpm,path="+c.TPM.Ctrl,
			"-tpmdev", "emulator,id=tpm0,chardev=chrtpm", "-device", string(model)+",tpmdev=tpm0")
	}
	for i := range c.HotplugPorts {
		a = append(a, "-device", fmt.Sprintf("pcie-root-port,id=hp%d,chassis=%d", i, i+1))
	}
	return a
}

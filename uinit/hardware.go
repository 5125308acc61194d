package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/report"
)

// mounts makes the kernel's file systems available. Under u-root's init they
// are already.
func mounts() error {
	for _, m := range []struct {
		dir, kind string
		flags     uintptr
	}{
		{"/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"/dev", "devtmpfs", unix.MS_NOSUID},
	} {
		var have, above unix.Stat_t
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return report.Errorf(report.HWMounts, "make %s: %w", m.dir, err)
		}
		if unix.Stat(m.dir, &have) == nil && unix.Stat("/", &above) == nil && have.Dev != above.Dev {
			continue
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, m.flags, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return report.Errorf(report.HWMounts, "mount %s: %w", m.dir, err)
		}
	}
	return nil
}

// harden closes what an image's kernel leaves open to whoever sits at the
// console, and keeps secrets out of core dumps. A kernel without one of these
// switches has nothing to close there.
func harden() {
	for file, value := range map[string]string{
		"/proc/sys/kernel/panic":          "10", // a kernel that panics restarts
		"/proc/sys/kernel/sysrq":          "0",
		"/proc/sys/kernel/core_pattern":   "|/bin/false",
		"/proc/sys/kernel/kptr_restrict":  "2",
		"/proc/sys/kernel/dmesg_restrict": "1",
	} {
		_ = os.WriteFile(file, []byte(value), 0)
	}
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

// hardware finds drivers for the devices of this machine, now and when they
// appear later.
type hardware struct {
	m       *machine
	modules *modules

	looked map[string]bool // files of fresh; the boot's own goroutine only

	mu     sync.Mutex
	seen   map[string]bool // modaliases
	failed map[string]bool
}

func newHardware(m *machine) (*hardware, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("uname: %w", err)
	}
	release := unix.ByteSliceToString(uts.Release[:])
	return &hardware{
		m: m, modules: readModules(filepath.Join(m.root, "lib/modules", release)),
		looked: map[string]bool{}, seen: map[string]bool{}, failed: map[string]bool{},
	}, nil
}

// coldplug loads drivers until no new device appears: a bus driver's devices
// show up only after it was loaded.
func (h *hardware) coldplug() {
	for h.pass() {
	}
}

// pass looks at each device of each bus once, and says whether there was one to
// load for.
func (h *hardware) pass() bool {
	var wg sync.WaitGroup
	found := false
	for _, modalias := range h.fresh() {
		for _, name := range h.wanted(modalias) {
			found = true
			if runtime.NumCPU() == 1 {
				h.load(name) // threads would only cost
				continue
			}
			wg.Go(func() {
				defer h.m.recoverPanic()
				h.load(name)
			})
		}
	}
	wg.Wait()
	return found
}

// fresh returns the modaliases of the devices that were not looked at before.
// A bus or device that cannot be read is gone again, or has none.
func (h *hardware) fresh() []string {
	var all []string
	buses, _ := os.ReadDir(filepath.Join(h.m.root, "sys/bus"))
	for _, bus := range buses {
		if !h.modules.drives(bus.Name()) {
			continue
		}
		dir := filepath.Join(h.m.root, "sys/bus", bus.Name(), "devices")
		devices, _ := os.ReadDir(dir)
		for _, d := range devices {
			file := filepath.Join(dir, d.Name(), "modalias")
			if h.looked[file] {
				continue
			}
			h.looked[file] = true
			if b, err := os.ReadFile(file); err == nil {
				all = append(all, strings.TrimSpace(string(b)))
			}
		}
	}
	return all
}

// wanted returns the modules of a modalias that was not seen before.
func (h *hardware) wanted(modalias string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if modalias == "" || h.seen[modalias] {
		return nil
	}
	h.seen[modalias] = true
	return h.modules.match(modalias)
}

// load loads a driver; one that fails is shown, since a disk or a port may be
// missing because of it.
func (h *hardware) load(name string) {
	err := h.modules.load(name)
	if err == nil || errors.Is(err, errNoModule) || errors.Is(err, unix.ENODEV) {
		return
	}
	h.mu.Lock()
	again := h.failed[name]
	h.failed[name] = true
	h.mu.Unlock()
	if !again {
		h.m.warn(report.Errorf(report.HWModules, "%w", err))
	}
}

// crypto loads what opens and mounts the disks. In some kernels they are built
// in, so a missing module is no error here; dm-crypt will say what it lacks.
func (h *hardware) crypto() {
	h.load("dm_crypt")
	// The processor's AES brings its own xts(aes); the generic one is for
	// processors without.
	if h.modules.load("aesni_intel") != nil {
		h.load("ecb")
		h.load("xts")
	}
	h.load("crc32c_intel")
	h.load("ext4")
}

// hotplug loads drivers for devices that appear late: slow controllers, a disk
// that somebody pushes in during a hold. It runs until the machine leaves.
func (h *hardware) hotplug() {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		_ = unix.Close(fd)
		return
	}
	go func() {
		defer h.m.recoverPanic()
		buf := make([]byte, 8<<10)
		for {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) {
				continue
			}
			if err != nil {
				return
			}
			// Only the kernel sends from port 0.
			if a, ok := from.(*unix.SockaddrNetlink); ok && a.Pid == 0 {
				for _, name := range h.wanted(addedModalias(buf[:n])) {
					h.load(name)
				}
				h.m.changed()
			}
		}
	}()
}

// addedModalias takes the modalias out of a kernel uevent: "add@/devices/…",
// then NUL-terminated KEY=value pairs (Linux lib/kobject_uevent.c).
func addedModalias(event []byte) string {
	fields := strings.Split(string(event), "\x00")
	if !strings.HasPrefix(fields[0], "add@") {
		return ""
	}
	for _, f := range fields[1:] {
		if v, ok := strings.CutPrefix(f, "MODALIAS="); ok {
			return v
		}
	}
	return ""
}

// dmiSerial is the machine's serial number for people; it proves nothing.
func dmiSerial() string {
	b, err := os.ReadFile("/sys/class/dmi/id/product_serial")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

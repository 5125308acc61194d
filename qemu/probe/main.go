// Probe is an init for the lab's own tests: it prints what it finds (clock,
// disks, network cards, PCRs) and then obeys lines typed on the console.
//
// Synopsis: /init of a virtual machine; it takes no options.
//
// Lines it obeys: "reboot", "poweroff", "panic" (init exits), "echo TEXT",
// "exists PATH", "read PATH" (its first 4 KiB), "modules" (loads what
// /modules.list names, in order).
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Println("probe: failed:", err)
	}
}

func run(in io.Reader, out io.Writer) error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	fmt.Fprintf(out, "probe: time %s\n", time.Now().UTC().Format(time.RFC3339))
	for n := range 24 {
		b, err := os.ReadFile(fmt.Sprintf("/sys/class/tpm/tpm0/pcr-sha256/%d", n))
		if err != nil {
			fmt.Fprintf(out, "probe: no pcr %d: %v\n", n, err)
			continue
		}
		fmt.Fprintf(out, "probe: pcr %d %s\n", n, strings.ToLower(strings.TrimSpace(string(b))))
	}
	devices, err := filepath.Glob("/sys/bus/pci/devices/*/class")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "probe: %d pci devices\nprobe: ready\n", len(devices))
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if done := obey(lines.Text(), out); done {
			return nil
		}
	}
	return lines.Err()
}

// obey runs one line and reports whether init is to end.
func obey(line string, out io.Writer) bool {
	verb, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
	var err error
	switch verb {
	case "":
	case "reboot":
		err = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	case "poweroff":
		err = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case "panic":
		return true
	case "echo":
		fmt.Fprintf(out, "probe: %s\n", arg)
	case "exists":
		_, err = os.Stat(arg)
		fmt.Fprintf(out, "probe: exists %s %v\n", arg, err == nil)
		err = nil
	case "read":
		err = read(arg)
		fmt.Fprintf(out, "probe: read %s: %v\n", arg, err)
		err = nil
	case "modules":
		err = loadModules()
		fmt.Fprintf(out, "probe: modules %v\n", err)
		err = nil
	default:
		err = fmt.Errorf("unknown line %q", line)
	}
	if err != nil {
		fmt.Fprintln(out, "probe: failed:", err)
	}
	return false
}

func read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.ReadFull(f, make([]byte, 4096))
	return err
}

func loadModules() error {
	list, err := os.ReadFile("/modules.list")
	if err != nil {
		return err
	}
	for path := range strings.FieldsSeq(string(list)) {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = errors.Join(unix.FinitModule(int(f.Fd()), "", 0), f.Close())
		if err != nil {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}

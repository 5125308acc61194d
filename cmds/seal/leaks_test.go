package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/secret"
)

const swapsHeader = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"

// inLeaksTest is set in the process that TestTighten starts: what tighten does
// to a process cannot be undone.
const inLeaksTest = "LANDFALL_SWAPS"

// TestTighten runs tighten in a process of its own, lets that start a child, and
// kill itself in the way that dumps core.
func TestTighten(t *testing.T) {
	if swaps := os.Getenv(inLeaksTest); swaps != "" {
		leakless(swaps)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, c := range []struct {
		name, swaps, want string
	}{
		{"no swap", swapsHeader, "<nil>"},
		{"a kernel without swap", "", "<nil>"},
		{"swap", swapsHeader + "/dev/sda2  partition\t1000\t0\t-2\n/swap\\040file file 5 0 -3\n", `LF-FACT-08: swap is in use: /dev/sda2, /swap\040file`},
	} {
		swaps := filepath.Join(dir, "swaps")
		if c.swaps != "" {
			if err := os.WriteFile(swaps, []byte(c.swaps), 0o600); err != nil {
				t.Fatal(err)
			}
		} else if err := os.Remove(swaps); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "-test.run=^TestTighten$")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), inLeaksTest+"="+swaps, "GOTRACEBACK=crash")
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("%s: the process did not end by a signal", c.name)
		}
		for _, want := range []string{"tighten: " + c.want + "\n", "core limits: 0 0\n", "dumpable: 0\n", "child's core limits: 0 0\n"} {
			if !bytes.Contains(out, []byte(want)) {
				t.Errorf("%s: the process does not say %q:\n%.2000s", c.name, want, out)
			}
		}
		if !regexp.MustCompile(`VmLck:\s+[1-9]`).Match(out) {
			t.Errorf("%s: a key is in memory that may be swapped out:\n%.500s", c.name, out)
		}
		if cores, err := filepath.Glob(dir + "/core*"); err != nil || cores != nil {
			t.Errorf("%s: left %v, %v", c.name, cores, err)
		}
	}
}

// leakless tells what it finds about itself, and dies.
func leakless(swaps string) {
	fmt.Printf("tighten: %v\n", tighten(swaps))
	key := secret.Random(32)
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil {
		fmt.Println(err)
	}
	fmt.Println("core limits:", core.Cur, core.Max)
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println("dumpable:", dumpable)
	out, err := exec.Command("/bin/sh", "-c", "echo $(ulimit -Sc) $(ulimit -Hc)").Output()
	if err != nil {
		fmt.Println(err)
	}
	fmt.Printf("child's core limits: %s\n", strings.TrimSpace(string(out)))
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(regexp.MustCompile(`VmLck:.*`).FindString(string(status)))
	if err := unix.Kill(os.Getpid(), unix.SIGABRT); err != nil {
		fmt.Println(err)
	}
	runtime.KeepAlive(key)
	select {} // until the signal is there
}

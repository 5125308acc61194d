package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// testMachine prints to files that stand for two consoles below root.
func testMachine(t *testing.T, root string) (*machine, func() string) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "sys/class/tty/console/active", "tty0 ttyS0\n")
	write(t, dir, "dev/tty0", "")
	write(t, dir, "dev/ttyS0", "")
	m := &machine{root: root, consoles: openConsoles(filepath.Join(dir, "sys"), filepath.Join(dir, "dev")), wake: make(chan struct{}, 1)}
	return m, func() string {
		m.consoles.Flush()
		a, err := os.ReadFile(filepath.Join(dir, "dev/tty0"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, "dev/ttyS0"))
		if err != nil {
			t.Fatal(err)
		}
		if string(a) != string(b) {
			t.Errorf("consoles differ:\n%s\n--\n%s", a, b)
		}
		return strings.ReplaceAll(string(b), "\r\n", "\n")
	}
}

func write(t *testing.T, root, name, content string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestHoldGoesOnWhenTheCauseIsGone(t *testing.T) {
	m, printed := testMachine(t, "/")
	m.name, m.serial, m.plan = "r07-u12", "CZ2342K7", serverSteps()
	attempts := 0
	got := hold(m, "lease", func() (string, error) {
		attempts++
		switch attempts {
		case 1, 2:
			m.changed() // as a new lease would: no need to wait
			return "", report.Errorf(report.NetWrongLease, "DHCP server 10.0.0.9 offers %s", "10.0.0.5/24")
		case 3:
			m.changed()
			return "", report.Errorf(report.NetNoCarrier, "eth0 has no carrier")
		}
		return "fine", nil
	})
	if got != "fine" || attempts != 4 {
		t.Errorf("got %q after %d attempts, want it after 4", got, attempts)
	}
	text := printed()
	for _, want := range []string{
		"\nr07-u12  SN CZ2342K7   HOLD 0s   LF-NET-04 wrong lease\n  DHCP server 10.0.0.9 offers 10.0.0.5/24\n  DO   find the server",
		"This server goes on by itself. Next look in ",
		"LF-NET-02 no link on any port",
		"landfall: hold ended after ",
		"landfall: step lease (4/12): done, ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("consoles lack %q:\n%s", want, text)
		}
	}
	if n := strings.Count(text, "LF-NET-04"); n != 1 {
		t.Errorf("the same problem was shown %d times in a moment", n)
	}
}

func TestHoldShowsErrorsWithoutACode(t *testing.T) {
	m, printed := testMachine(t, "/")
	first := true
	hold(m, "disks", func() (struct{}, error) {
		if first {
			first = false
			return struct{}{}, errors.New("what nobody thought of")
		}
		return struct{}{}, nil
	})
	if text := printed(); !strings.Contains(text, "LF-HW-01") || !strings.Contains(text, "what nobody thought of") {
		t.Errorf("consoles:\n%s", text)
	}
}

func TestConsolesAreNotSteered(t *testing.T) {
	m, printed := testMachine(t, "/")
	m.logf("disk named \x1b[2J\x07evil\r\nLF-OK\u009b")
	if text := printed(); text != "landfall: disk named ?[2J?evil?\nLF-OK?\n" {
		t.Errorf("got %q", text)
	}
}

func TestAConsoleThatBlocksHoldsUpNothing(t *testing.T) {
	c := &consoles{lines: []chan string{make(chan string)}} // nobody reads
	done := make(chan struct{})
	go func() {
		for range 2 * consoleQueue {
			c.Print("x")
		}
		c.Flush()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("printing waits for a console")
	}
}

// TestPanicWipesShowsAndReboots also covers a crash beside the boot.
func TestPanicWipesShowsAndReboots(t *testing.T) {
	m, printed := testMachine(t, "/")
	m.crashPause = time.Millisecond
	kek := secret.Random(32)
	m.guard(kek)
	rebooted := make(chan int, 1)
	m.reboot = func(command int) error {
		rebooted <- command
		select {} // as the real one
	}
	start(m, func() (struct{}, error) { panic("what nobody thought of") })
	if got := <-rebooted; got != unix.LINUX_REBOOT_CMD_RESTART {
		t.Errorf("reboot(%#x)", got)
	}
	if kek.Len() != 0 {
		t.Error("a secret was left")
	}
	if text := printed(); !strings.Contains(text, "LF-HW-01") || !strings.Contains(text, "uinit crashed: what nobody thought of") {
		t.Errorf("consoles:\n%s", text)
	}
}

func TestNoteOnce(t *testing.T) {
	m, printed := testMachine(t, "/")
	for range 3 {
		m.note("key server %s: refused", "kek-1")
	}
	m.note("key server %s: refused", "kek-2")
	if text := printed(); strings.Count(text, "\n") != 2 {
		t.Errorf("got:\n%s", text)
	}
}

func TestWarningsAreKept(t *testing.T) {
	m, printed := testMachine(t, "/")
	for range 3 {
		m.warn(report.Errorf(report.DiskOptional, "data0 is gone"))
	}
	if len(m.warnings) != 1 || m.warnings[0].Code != report.DiskOptional {
		t.Errorf("kept %v", m.warnings)
	}
	if text := printed(); text != "landfall: warning LF-DISK-08 optional disk not opened: data0 is gone\n" {
		t.Errorf("got %q", text)
	}
}

func TestEachServerStepIsInTheBoot(t *testing.T) {
	source, err := os.ReadFile("boot.go")
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, s := range serverSteps() {
		i := strings.Index(string(source)[at:], `m, "`+s+`"`)
		if i < 0 {
			i = strings.Index(string(source)[at:], `m.done("`+s+`")`)
		}
		if i < 0 {
			t.Fatalf("step %s is not in boot.go, or not in the order of serverSteps", s)
		}
		at += i
	}
}

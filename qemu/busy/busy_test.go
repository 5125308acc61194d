package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/qemu/vm"
)

var (
	errLate = errors.New("no login prompt")
	sign    = "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [systemd:1]"
)

func results() []result {
	at := func(n int) time.Duration { return time.Duration(n) * time.Second }
	return []result{
		{number: 1, kexec: at(30), login: at(90), load: "8.00 4.00 2.00"},
		{number: 2, kexec: at(10), login: at(70), load: "9.50 4.00 2.00", signs: []string{sign}},
		{number: 3, kexec: at(20), login: at(80), load: "9.00 4.00 2.00"},
		{number: 4, kexec: at(99), load: "9.00 4.00 2.00", signs: []string{sign}, err: fmt.Errorf("scenario: %w", &vm.Starved{Sign: sign, Err: errLate})},
		{number: 5, load: "9.00 4.00 2.00", err: errLate},
	}
}

func TestTable(t *testing.T) {
	got := table(&options{parallel: 4, loops: 5}, results())
	want := fmt.Sprintf(`| boots | 5, 4 at a time beside 5 busy loops, %d processors |
|---|---|
| load average over a minute when a boot ended | 8.0 · **9.0** · 9.5 |
| passed | 3 |
| of these, showed a sign of starvation | 1 |
| starved | 1 |
| failed otherwise | 1 |
| power-on → kexec | 10.0 · **20.0** · 30.0 s |
| power-on → login prompt | 70.0 · **80.0** · 90.0 s |
`, runtime.NumCPU())
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if got := table(&options{}, results()[3:]); !strings.Contains(got, "| power-on → kexec | – |") {
		t.Errorf("table without a boot that passed:\n%s", got)
	}
}

// TestFailure shows that starved boots are counted and others reported.
func TestFailure(t *testing.T) {
	all := results()
	if err := failure(all); !errors.Is(err, errLate) || !strings.HasPrefix(err.Error(), "boot 5 ") {
		t.Errorf("failure = %v, want that of boot 5", err)
	}
	if err := failure(all[:4]); err != nil {
		t.Errorf("a starved boot was reported as a failure: %v", err)
	}
	if line := all[3].line(); !strings.HasPrefix(line, "boot  4: starved, ") || !strings.Contains(line, sign) {
		t.Errorf("line of a starved boot: %s", line)
	}
}

// TestLoopsEnd shows that nothing is left of the busy loops.
func TestLoopsEnd(t *testing.T) {
	stop, err := keepBusy(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil {
		t.Errorf("no busy loop runs: %v", err)
	}
	stop()
	if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); !errors.Is(err, unix.ECHILD) {
		t.Errorf("after stop wait4 says %v, want %v", err, unix.ECHILD)
	}
}

func TestKeepLogs(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "logs")
	for _, name := range []string{"01-server.ttyS0.log", "root.raw"} {
		if err := os.WriteFile(filepath.Join(from, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"", to} {
		if err := keepLogs(dir, "busy-01", from); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := filepath.Glob(filepath.Join(to, "*"))
	if diff := cmp.Diff([]string{filepath.Join(to, "busy-01.01-server.ttyS0.log")}, kept); diff != "" || err != nil {
		t.Errorf("kept (-want +got):\n%s%v", diff, err)
	}
}

// TestOptions shows that the command's documentation and its flags are the
// same, and which lines are refused.
func TestOptions(t *testing.T) {
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, documented, _ := strings.Cut(string(source), "// Options:\n")
	documented, _, _ = strings.Cut(documented, "package main")
	n := 0
	new(options).flags().VisitAll(func(f *flag.Flag) {
		n++
		if !strings.Contains(documented, "//\t-"+f.Name+" ") {
			t.Errorf("-%s is not documented", f.Name)
		}
	})
	if got := strings.Count(documented, "//\t-"); got != n {
		t.Errorf("%d options are documented, want %d", got, n)
	}
	for _, line := range []string{"-boots 0", "-parallel 0", "-loops -1", "boots"} {
		if err := run(t.Context(), strings.Fields(line), new(bytes.Buffer)); !errors.Is(err, errUsage) {
			t.Errorf("busy %s: %v, want the usage", line, err)
		}
	}
}

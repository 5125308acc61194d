package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/report"
)

// exited is the error of a program that ended with a status.
func exited(t *testing.T, script string) error {
	t.Helper()
	err := exec.Command("/bin/sh", "-c", script).Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("sh -c %q: %v", script, err)
	}
	return err
}

// TestWhatFollowsARunOfSeal is the table of docs/factory.md.
func TestWhatFollowsARunOfSeal(t *testing.T) {
	retry, reject := exited(t, "exit 10"), exited(t, "exit 20")
	disk := &report.Factory{Code: report.FactoryDiskError, What: "vdb: sector 7", Do: "copy it"}
	closed := &report.Factory{Code: report.FactoryAcceptance, What: "data0 was not opened", Do: "look at data0"}
	for _, c := range []struct {
		name    string
		station bool
		args    string
		run     outcomeOfSeal
		then    then
		code    report.Code
		what    string
		pause   time.Duration
	}{
		{"provisioned, a station brings the slice", true, "provision", outcomeOfSeal{}, thenSeal, "", "", 0},
		{"provisioned, somebody brings the slice", false, "provision", outcomeOfSeal{}, thenPowerOff, "", "", 0},
		{"accepted", true, "", outcomeOfSeal{}, thenPowerOff, "", "", 0},
		{"accepted, no station", false, "", outcomeOfSeal{}, thenPowerOff, "", "", 0},
		{"sealed just now", true, "", outcomeOfSeal{err: retry, next: report.NextReboot, result: closed}, thenReboot, "", "", 0},
		{"came back", true, "", outcomeOfSeal{err: retry, next: report.NextHold, result: closed}, thenAgain, report.FactoryAcceptance, "data0 was not opened", firstAsk},
		{"came back, no word of it", true, "", outcomeOfSeal{err: retry, next: report.NextHold}, thenAgain, report.FactoryAcceptance, "the server image has not", firstAsk},
		{"try again, in seal's words", true, "", outcomeOfSeal{err: retry, result: disk}, thenAgain, report.FactoryDiskError, "vdb: sector 7", firstRetry},
		{"try again, no word", false, "", outcomeOfSeal{err: retry}, thenAgain, report.HWFactory, "seal wants to be run again", firstRetry},
		{"not approved yet", true, "provision", outcomeOfSeal{err: retry}, thenAgain, report.HWFactory, "seal wants", firstRetry},
		{"rejected", true, "", outcomeOfSeal{err: reject, result: &report.Factory{Code: report.FactoryDisk, What: "vdb is read-only"}}, thenAgain, report.FactoryDisk, "vdb is read-only", rejectedFor},
		{"rejected, no word", true, "", outcomeOfSeal{err: reject}, thenAgain, report.HWFactory, "rejects this hardware", rejectedFor},
		{"rejected while provisioning", true, "provision", outcomeOfSeal{err: reject}, thenAgain, report.HWFactory, "rejects this hardware", rejectedFor},
		{"killed", true, "", outcomeOfSeal{err: exited(t, "kill -9 $$"), next: report.NextReboot}, thenAgain, report.HWFactory, "killed", firstRetry},
		{"usage", true, "", outcomeOfSeal{err: exited(t, "exit 2")}, thenAgain, report.HWFactory, "exit status 2", firstRetry},
		{"no seal in the image", true, "", outcomeOfSeal{err: report.Errorf(report.HWImage, "no seal")}, thenAgain, report.HWImage, "no seal", firstRetry},
		{"a reboot that seal did not mean", true, "", outcomeOfSeal{err: reject, next: report.NextReboot}, thenAgain, report.HWFactory, "rejects", rejectedFor},
	} {
		l := &line{station: c.station, args: strings.Fields(c.args)}
		got := l.after(c.run)
		if got.then != c.then || got.pause != c.pause || (got.problem == nil) != (c.code == "") {
			t.Errorf("%s: %+v", c.name, got)
			continue
		}
		if c.code != "" && (got.problem.Code != c.code || !strings.Contains(got.problem.What, c.what) || !got.show) {
			t.Errorf("%s: %+v: %v", c.name, got, got.problem)
		}
		if c.code == "" && (got.words == "" || got.next == "") {
			t.Errorf("%s: leaves without a word", c.name)
		}
		if want := c.args; c.then == thenSeal && len(l.args) != 0 || c.then != thenSeal && strings.Join(l.args, " ") != want {
			t.Errorf("%s: runs seal %q next", c.name, l.args)
		}
	}
}

// TestHoldsOnTheLine: pauses grow, begin again with another problem, and the
// board is shown when it changes and every minute.
func TestHoldsOnTheLine(t *testing.T) {
	retry := exited(t, "exit 10")
	wants := func(code report.Code, what string) *report.Factory { return &report.Factory{Code: code, What: what} }
	l := &line{}
	for i, c := range []struct {
		at     time.Duration
		result *report.Factory
		pause  time.Duration
		held   time.Duration
		show   bool
	}{
		{10 * time.Second, wants(report.KeyUnreachable, "a"), 2 * time.Second, 0, true},
		{12 * time.Second, wants(report.KeyUnreachable, "a"), 4 * time.Second, 2 * time.Second, false},
		{16 * time.Second, wants(report.KeyUnreachable, "b"), 8 * time.Second, 6 * time.Second, true},
		{24 * time.Second, wants(report.KeyUnreachable, "b"), 16 * time.Second, 14 * time.Second, false},
		{40 * time.Second, wants(report.KeyUnreachable, "b"), 30 * time.Second, 30 * time.Second, false},
		{76 * time.Second, wants(report.KeyUnreachable, "b"), 30 * time.Second, 66 * time.Second, true},
		{100 * time.Second, wants(report.FactoryAcceptance, "c"), 10 * time.Second, 90 * time.Second, true},
		{110 * time.Second, wants(report.FactoryAcceptance, "c"), 20 * time.Second, 100 * time.Second, false},
		{130 * time.Second, wants(report.FactoryAcceptance, "c"), 30 * time.Second, 120 * time.Second, false},
		{160 * time.Second, wants(report.FactoryAcceptance, "c"), 30 * time.Second, 150 * time.Second, true},
	} {
		got := l.after(outcomeOfSeal{err: retry, result: c.result, at: c.at})
		if got.then != thenAgain || got.pause != c.pause || got.held != c.held || got.show != c.show {
			t.Errorf("run %d: %+v, want %+v", i, got, c)
		}
	}
}

// lineMachine is a machine whose seal is a script, and which stops where it
// would reboot.
func lineMachine(t *testing.T, script string) (m *machine, printed func() string, work func(*line) int) {
	t.Helper()
	m, printed = testMachine(t, t.TempDir())
	write(t, m.root, "bbin/seal", "#!/bin/sh\ncd '"+m.root+"'\necho \"$*\" >>calls\n"+script)
	if err := os.Chmod(filepath.Join(m.root, "bbin/seal"), 0o755); err != nil {
		t.Fatal(err)
	}
	left := make(chan int, 1)
	m.reboot = func(command int) error {
		left <- command
		runtime.Goexit()
		return nil
	}
	return m, printed, func(l *line) int {
		go m.work(l)
		select {
		case command := <-left:
			return command
		case <-time.After(30 * time.Second):
			t.Fatal("the machine never leaves")
			return 0
		}
	}
}

// TestOneBootFromProvisioningToTheReboot: a station's machine is provisioned,
// waits for its slice and is sealed in one boot; then it makes room for the
// server image.
func TestOneBootFromProvisioningToTheReboot(t *testing.T) {
	result, err := (&report.Factory{Device: "r07-u12", Phase: report.PhaseSlice, Result: report.ResultRetry,
		Code: report.SliceMissing, What: "the station has no slice of r07-u12 yet"}).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	m, printed, work := lineMachine(t, `
mkdir -p run/landfall-seal
case "$*" in
provision) echo 'seal: r07-u12 is provisioned' ;;
*)	if ! test -e slice; then
		touch slice
		echo 'seal: result `+string(result)+`'
		exit 10
	fi
	echo 'seal: all sealed' >&2
	echo reboot >run/landfall-seal/next
	exit 10 ;;
esac
`)
	if got := work(&line{station: true, args: []string{"provision"}}); got != unix.LINUX_REBOOT_CMD_RESTART {
		t.Errorf("left by reboot(%#x)", got)
	}
	calls, err := os.ReadFile(filepath.Join(m.root, "calls"))
	if err != nil || string(calls) != "provision\n\n\n" {
		t.Errorf("seal was called with %q, %v", calls, err)
	}
	text := printed()
	for _, want := range []string{"seal: r07-u12 is provisioned\n", "landfall: factory: provisioned, at ", "\nr07-u12   HOLD 0s   LF-SLICE-", "the station has no slice of r07-u12 yet\n",
		"seal: all sealed\n", "landfall: factory: seal has finished: sealed, not accepted yet, at ", "landfall: next: reboot into the server image"} {
		if !strings.Contains(text, want) {
			t.Errorf("the console lacks %q:\n%s", want, text)
		}
	}
}

// TestWhatAnEarlierRunLeftIsNotBelieved: the word of the last boot's or run's
// seal is gone before the next one starts.
func TestWhatAnEarlierRunLeftIsNotBelieved(t *testing.T) {
	m, _, _ := lineMachine(t, "exit 10\n")
	write(t, m.root, "run/landfall-seal/next", report.NextReboot)
	if out := m.seal(nil); out.next != "" || out.exit() != sealRetry {
		t.Errorf("got %+v", out)
	}
	if err := os.RemoveAll(filepath.Join(m.root, "bbin")); err != nil {
		t.Fatal(err)
	}
	if out := m.seal(nil); code(out.err) != report.HWImage {
		t.Errorf("without a seal command: %v", out.err)
	}
}

// TestAcceptedMachineSwitchesOff, whichever run it hears it in.
func TestAcceptedMachineSwitchesOff(t *testing.T) {
	_, printed, work := lineMachine(t, "exit 0\n")
	if got := work(&line{}); got != unix.LINUX_REBOOT_CMD_POWER_OFF {
		t.Errorf("left by reboot(%#x)", got)
	}
	if text := printed(); !strings.Contains(text, "landfall: factory: seal has finished: accepted by the fleet, safe to ship, at ") {
		t.Errorf("console:\n%s", text)
	}
}

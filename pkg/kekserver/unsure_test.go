package kekserver_test

import (
	"bufio"
	"context"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/landfall-project/landfall/pkg/fleetdir"
)

// strace has a fault injected into the process's system calls. It returns what ends
// that, unless the process ended before.
func (p *process) strace(args ...string) (end func()) {
	p.f.t.Helper()
	cmd := exec.Command("strace", append([]string{"-f", "-p", strconv.Itoa(p.cmd.Process.Pid)}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		p.f.t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	for attached := false; !attached; { // it says first which files it looks at
		if !lines.Scan() {
			p.f.t.Fatal("strace ends")
		}
		attached = strings.Contains(lines.Text(), "attached")
	}
	go func() {
		for lines.Scan() { // nobody asks what it says of each call
		}
	}()
	return func() {
		_ = cmd.Process.Signal(syscall.SIGINT) // lets the process go on
		_ = cmd.Wait()
	}
}

// failSyncs lets every second fdatasync of each of the process's threads fail,
// until the function that it returns is called.
func (p *process) failSyncs() (end func()) {
	p.f.t.Helper()
	return p.strace("-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=2+2")
}

// Where the disk fails at the very end of a write, so that nobody knows whether it
// has it, the member neither goes on from the old state nor from the new one: it
// releases and changes nothing until it starts again, and then has all that was
// acknowledged. A failure before that changes nothing.
func TestUnsureStore(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	p := f.process(nil)
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	end := p.failSyncs()
	var kept []string
	unsure := func(err error) bool {
		return err != nil && strings.Contains(err.Error(), "may or may not be on its disk")
	}
	for range 100 {
		added, _, err := p.addUntil(50)
		kept = append(kept, added...)
		if unsure(err) {
			break
		}
		says(t, "a device that was not added", err, "input/output error")
	}
	end()
	if _, _, err := p.addUntil(1); !unsure(err) {
		t.Errorf("the next device, on a disk that is whole again: %v", err)
	}
	if code, words := p.healthz(); code != 503 || !strings.Contains(words, "store") {
		t.Errorf("healthz: %d %q", code, words)
	}
	if _, err := f.client().Release(context.Background(), newMachine(t), 1); err == nil || !strings.Contains(err.Error(), "its store's last write failed") {
		t.Errorf("a release: %v", err)
	}
	p.kill()
	if err := p.start(); err != nil {
		t.Fatalf("after a restart: %v", err)
	}
	p.has(kept)
	if _, _, err := p.addUntil(1); err != nil {
		t.Errorf("a device after a restart: %v", err)
	}
}

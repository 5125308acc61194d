package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/image/cache"
)

// VM is a running machine.
type VM struct {
	cfg      Config
	cmd      *exec.Cmd
	cancel   context.CancelFunc
	stderr   bytes.Buffer
	consoles []*Console
	readers  sync.WaitGroup
	watching sync.WaitGroup // for soft lockups
	qmp      *qmp
	started  time.Time
	done     chan struct{}
	waitErr  error
}

// Start starts the machine. It ends with ctx, at its deadline, when the guest
// powers off or reboots, or by Close.
func Start(ctx context.Context, cfg Config) (*VM, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	if cfg.Firmware == OVMF {
		if _, err := os.Stat(cfg.VarsFile); errors.Is(err, os.ErrNotExist) {
			if err := cache.CopyFile(cfg.VarsFile, cfg.varsTemplate()); err != nil {
				return nil, fmt.Errorf("firmware variables: %w; package ovmf must be installed", err)
			}
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Deadline, fmt.Errorf("machine %s passed its deadline of %v", cfg.Name, cfg.Deadline))
	v := &VM{cfg: cfg, cancel: cancel, done: make(chan struct{})}
	if err := v.launch(ctx); err != nil {
		cancel()
		return nil, err
	}
	hctx, hcancel := context.WithTimeout(ctx, 20*time.Second)
	defer hcancel()
	if err := v.qmp.handshake(hctx); err != nil {
		cerr := v.Close()
		return nil, errors.Join(fmt.Errorf("start QEMU: %w\n%s", err, v.stderr.String()), cerr)
	}
	v.watching.Go(func() { v.watchLockups(ctx) })
	return v, nil
}

// launch starts QEMU with one socket pair per console and one for QMP.
func (v *VM) launch(ctx context.Context) error {
	n := v.cfg.Consoles + 1
	fds := make([]int, n)
	ours := make([]net.Conn, 0, n)
	theirs := make([]*os.File, 0, n)
	closeTheirs := func() {
		for _, f := range theirs {
			_ = f.Close()
		}
	}
	defer closeTheirs()
	for i := range n {
		a, b, err := socketpair()
		if err != nil {
			return err
		}
		fds[i] = 3 + i // exec.Cmd.ExtraFiles starts at 3
		ours, theirs = append(ours, a), append(theirs, b)
	}
	name, args := "qemu-system-x86_64", v.cfg.args(fds)
	if v.cfg.Netns != "" {
		name, args = "ip", append([]string{"netns", "exec", v.cfg.Netns, name}, args...)
	}
	v.cmd = exec.CommandContext(ctx, name, args...)
	v.cmd.ExtraFiles = theirs
	v.cmd.Stderr = &v.stderr
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	v.cmd.WaitDelay = 2 * time.Second
	v.started = time.Now()
	if err := v.cmd.Start(); err != nil {
		return fmt.Errorf("start QEMU: %w; package qemu-system-x86 must be installed", err)
	}
	go func() {
		v.waitErr = v.cmd.Wait()
		close(v.done)
	}()
	for i := range v.cfg.Consoles {
		path := filepath.Join(v.cfg.Dir, fmt.Sprintf("%s.ttyS%d.log", v.cfg.Name, i))
		c, err := newConsole(fmt.Sprintf("%s ttyS%d", v.cfg.Name, i), path, ours[i], v.started)
		if err != nil {
			return errors.Join(err, v.cmd.Process.Kill())
		}
		v.consoles = append(v.consoles, c)
		v.readers.Go(c.read)
	}
	v.qmp = newQMP(ours[n-1])
	return nil
}

func socketpair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	ourFile := os.NewFile(uintptr(fds[0]), "vm")
	defer ourFile.Close()
	their := os.NewFile(uintptr(fds[1]), "vm-peer")
	conn, err := net.FileConn(ourFile)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("console socket: %w", err), their.Close())
	}
	return conn, their, nil
}

// Console returns serial port n.
func (v *VM) Console(n int) *Console { return v.consoles[n] }

// Expect waits on ttyS0.
func (v *VM) Expect(ctx context.Context, re string, timeout time.Duration) (*Match, error) {
	r, err := regexp.Compile(re)
	if err != nil {
		return nil, err
	}
	return v.consoles[0].Expect(ctx, r, timeout)
}

// Send types a line on ttyS0.
func (v *VM) Send(line string) error { return v.consoles[0].Send(line) }

// Started is when QEMU was started; Match.At counts from it.
func (v *VM) Started() time.Time { return v.started }

// Pid is QEMU's process.
func (v *VM) Pid() int { return v.cmd.Process.Pid }

// Ended is closed when the machine has ended, by itself or not.
func (v *VM) Ended() <-chan struct{} { return v.done }

// Exit says how a machine ended.
type Exit struct {
	// Reason is QEMU's ShutdownCause (guest-reset, guest-shutdown,
	// guest-panic, host-qmp-quit …) or "killed".
	Reason string
	After  time.Duration // since start
}

// Wait waits until the machine has ended and its consoles are read.
func (v *VM) Wait(ctx context.Context, timeout time.Duration) (*Exit, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-v.done:
	case <-timer.C:
		return nil, v.consoles[0].fail(fmt.Errorf("machine still runs after %v", timeout))
	case <-ctx.Done():
		return nil, v.consoles[0].fail(context.Cause(ctx))
	}
	v.readers.Wait()
	<-v.qmp.ended
	exit := &Exit{Reason: "killed", After: time.Since(v.started)}
	if e, ok := v.qmp.event("SHUTDOWN"); ok {
		var data struct {
			Reason string `json:"reason"`
		}
		if err := json.Unmarshal(e.Data, &data); err != nil {
			return nil, fmt.Errorf("QMP SHUTDOWN event: %w", err)
		}
		exit.Reason = data.Reason
	} else if !v.cmd.ProcessState.Exited() {
		return exit, nil // by a signal; what it printed then is about the signal
	} else if v.stderr.Len() > 0 {
		return exit, fmt.Errorf("QEMU failed: %w: %s", v.waitErr, v.stderr.String())
	}
	return exit, nil
}

// Close kills the machine, as a power cut would. It may be called at any time
// and more than once.
func (v *VM) Close() error {
	v.cancel()
	<-v.done
	v.readers.Wait()
	v.watching.Wait()
	<-v.qmp.ended
	for _, c := range v.consoles {
		_ = c.conn.Close() // QEMU's end is gone already
	}
	if err := v.qmp.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

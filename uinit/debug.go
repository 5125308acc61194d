package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/netconf"
)

const debugBanner = `
*** LANDFALL DEBUG IMAGE: this machine gives a shell to whoever stands here. ***
*** No key server releases a key to it. Never ship it.                      ***
`

// shellPause is how long the next shell waits: one that cannot start must not
// fill the console.
const shellPause = time.Second

// debug loads drivers, shows what this boot measured, and gives the machine to
// its console, for good: the kernel panics when its first process ends.
func (m *machine) debug() {
	if _, err := m.startHardware(); err != nil {
		m.logf("%v", err)
	}
	m.lookAtTPM()
	if err := netconf.Loopback(); err != nil {
		m.logf("%v", err)
	}
	m.consoles.Print(debugBanner)
	// The shell's terminal is hung up for all who have it open when the shell
	// ends (TIOCNOTTY in ioctl_tty(2)), so that uinit has it open no longer.
	m.consoles.Flush()
	// What uinit ignores, its children ignore too; what it takes note of, not.
	signal.Notify(make(chan os.Signal, 1), ignored...)
	for note := ""; ; time.Sleep(shellPause) {
		err := shell(note)
		note = fmt.Sprintf("landfall: the shell ended (%v). Here is another; \"shutdown -r\" restarts the machine, \"shutdown\" switches it off.\r\n", err)
	}
}

// shell runs the image's shell on the kernel's last console, as the leader of a
// session of its own, and returns how it ended.
func shell(note string) error {
	tty, err := os.OpenFile("/dev/console", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer tty.Close()
	if _, err := tty.WriteString(note); err != nil {
		return err
	}
	cmd := exec.Command("/bin/defaultsh")
	cmd.Dir, cmd.Env = "/", []string{"PATH=/bbin:/bin:/sbin", "HOME=/", "TERM=vt100"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return reap(cmd.Process.Pid)
}

// reap waits until a child ends, and for all orphans that end meanwhile. It
// returns how the child ended.
func reap(pid int) error {
	for {
		var status unix.WaitStatus
		ended, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case ended == pid && status.Signaled():
			return fmt.Errorf("by signal %d, %s", status.Signal(), unix.SignalName(status.Signal()))
		case ended == pid:
			return fmt.Errorf("exit status %d", status.ExitStatus())
		}
	}
}

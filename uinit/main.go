// Uinit brings a sealed server to its production kernel.
//
// Synopsis:
//
//	uinit
//
// Description:
//
//	It is the first process, PID 1, of an image whose role is in
//	/etc/landfall/role. A server image boots (DESIGN: slice, lease, attested
//	key release, disks, kexec); a keyserver image serves addresses and keys; a
//	factory image runs seal; a debug image says so and gives its console a shell,
//	and another when that ends. It ignores its arguments and the kernel command
//	line, and never returns: what fails is held and retried, what crashes reboots.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/secret"
)

func main() {
	// It reconfigures the kernel it runs on: nothing to try out in a shell.
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "uinit: runs only as the first process of a boot image")
		os.Exit(1)
	}
	signal.Ignore(ignored...)
	run()
}

// No key at the console, no parent, no hang-up ends uinit, and no SIGQUIT dumps
// its stacks.
var ignored = []os.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGHUP, unix.SIGTERM, unix.SIGPIPE, unix.SIGTTIN, unix.SIGTTOU}

// run never returns.
func run() {
	mountErr := mounts()
	m := &machine{root: "/", consoles: openConsoles("/sys", "/dev"), wake: make(chan struct{}, 1), reboot: unix.Reboot, crashPause: crashPause}
	defer m.recoverPanic()
	harden()
	// The machine has more memory than time.
	debug.SetGCPercent(400)
	m.serial, m.last = dmiSerial(), uptime()
	m.logf("uinit starts at %s", seconds(m.last))
	if mountErr != nil {
		m.logf("%v", mountErr)
	}
	img := m.image()
	switch img.role {
	case measure.RoleServer:
		m.boot(img)
	case measure.RoleKeyserver:
		m.stay(img)
	case measure.RoleFactory:
		m.factory(img)
	case measure.RoleDebug:
		m.debug()
	}
}

// image reads what was built in. Without it nothing can be verified, so that
// there is nothing to do but to say so.
func (m *machine) image() *image {
	for {
		img, err := readImage("/")
		if err == nil {
			return img
		}
		m.show(problem(err), 0, lastLook)
		m.pause(time.Minute)
	}
}

// guard remembers secrets, so that every way out of the boot wipes them.
func (m *machine) guard(secrets ...*secret.Bytes) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.secrets = append(m.secrets, secrets...)
}

func (m *machine) guarded() []*secret.Bytes {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*secret.Bytes(nil), m.secrets...)
}

// crashPause is how long a crash stays on the screen. It is also what keeps a
// machine that crashes each time from hammering DHCP and key servers.
const crashPause = 20 * time.Second

// recoverPanic is deferred in every goroutine: it shows the crash, wipes the
// secrets and reboots.
func (m *machine) recoverPanic() {
	cause := recover()
	if cause == nil {
		return
	}
	for _, s := range m.guarded() {
		s.Wipe()
	}
	if m.reboot == nil {
		panic(cause)
	}
	wait := jitter(m.crashPause)
	m.show(problem(fmt.Errorf("uinit crashed: %v\n%s", cause, debug.Stack())), 0, wait)
	time.Sleep(wait)
	m.consoles.Flush()
	err := m.reboot(unix.LINUX_REBOOT_CMD_RESTART)
	// As PID 1 this panics the kernel, which restarts too.
	fmt.Fprintln(os.Stderr, "landfall: reboot failed:", err)
	os.Exit(1)
}

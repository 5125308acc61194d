// Package netlab makes a network of one's own for a scenario: a network
// namespace with a bridge that carries LLDP, taps for virtual machines,
// addresses for host processes and a real dnsmasq. Scenarios in different
// namespaces do not meet, so they can run at the same time.
//
// It needs root. A namespace's name carries the process that made it, so that
// a later run clears what a crashed one left, and nothing else.
package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bridge = "br0"
	// forwardLLDP lets the bridge pass frames to 01-80-C2-00-00-0E, which
	// IEEE 802.1Q bridges keep to themselves (bit 14 of group_fwd_mask).
	forwardLLDP = "0x4000"
	netnsDir    = "/run/netns"
)

// Net is a network namespace with one bridge.
type Net struct {
	Name string // for ip-netns(8)

	mu    sync.Mutex
	taps  int
	procs []*Process
}

// New makes a namespace whose bridge has the given addresses (CIDR).
func New(ctx context.Context, addresses ...string) (*Net, error) {
	if err := removeStale(ctx); err != nil {
		return nil, err
	}
	name, err := addNamespace(ctx)
	if err != nil {
		return nil, err
	}
	n := &Net{Name: name}
	steps := [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0", "group_fwd_mask", forwardLLDP, "mcast_snooping", "0"},
		{"link", "set", bridge, "up"},
	}
	for _, a := range addresses {
		steps = append(steps, []string{"address", "add", a, "dev", bridge, "nodad"})
	}
	for _, s := range steps {
		if err := n.ip(ctx, s...); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	return n, nil
}

// maxNets is how many namespaces of one process there may be at a time.
const maxNets = 1000

// addNamespace makes lf-PID-N with the first N that is free. Scenarios run side
// by side: that a name is free, only making it tells.
func addNamespace(ctx context.Context) (string, error) {
	for i := range maxNets {
		name := fmt.Sprintf("lf-%d-%d", os.Getpid(), i)
		err := run(ctx, "ip", "netns", "add", name)
		if err == nil {
			return name, nil
		}
		if _, there := os.Stat(filepath.Join(netnsDir, name)); errors.Is(there, os.ErrNotExist) {
			return "", fmt.Errorf("make network namespace: %w; this needs root", err)
		}
	}
	return "", fmt.Errorf("no free network namespace name: this process left %d behind", maxNets)
}

var namePattern = regexp.MustCompile(`^lf-([0-9]+)-[0-9]+$`)

// removeStale removes namespaces of runs whose process is gone, and what still
// runs in them.
func removeStale(ctx context.Context) error {
	entries, err := os.ReadDir(netnsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		m := namePattern.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		pid, err := strconv.Atoi(m[1])
		if err != nil || alive(pid) {
			continue
		}
		if err := remove(ctx, e.Name()); err != nil && !errors.Is(err, errGone) {
			return fmt.Errorf("clear what process %d left: %w", pid, err)
		}
	}
	return nil
}

func alive(pid int) bool {
	return !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

var errGone = errors.New("namespace is gone")

// remove kills what runs in a namespace, then deletes it.
func remove(ctx context.Context, name string) error {
	out, err := exec.CommandContext(ctx, "ip", "netns", "pids", name).Output()
	if err != nil {
		return errGone
	}
	for field := range strings.FieldsSeq(string(out)) {
		if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL) // it may just have ended
		}
	}
	return run(ctx, "ip", "netns", "delete", name)
}

func (n *Net) ip(ctx context.Context, args ...string) error {
	return run(ctx, "ip", append([]string{"-n", n.Name}, args...)...)
}

func run(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// AddTap makes a tap on the bridge for a virtual machine and returns its name.
func (n *Net) AddTap(ctx context.Context) (string, error) {
	n.mu.Lock()
	name := fmt.Sprintf("tap%d", n.taps)
	n.taps++
	n.mu.Unlock()
	for _, s := range [][]string{
		{"tuntap", "add", "dev", name, "mode", "tap"},
		{"link", "set", name, "master", bridge, "up"},
	} {
		if err := n.ip(ctx, s...); err != nil {
			return "", err
		}
	}
	return name, nil
}

// AddAddress gives the bridge a further address (CIDR), for a host process.
func (n *Net) AddAddress(ctx context.Context, cidr string) error {
	return n.ip(ctx, "address", "add", cidr, "dev", bridge, "nodad")
}

// RemoveAddress takes it away: connections to it then time out.
func (n *Net) RemoveAddress(ctx context.Context, cidr string) error {
	return n.ip(ctx, "address", "delete", cidr, "dev", bridge)
}

// Join runs a cable to the bridge of another network, whose hosts are then in
// the same segment but have addresses and ports of their own.
func (n *Net) Join(ctx context.Context, other *Net) error {
	n.mu.Lock()
	name := fmt.Sprintf("cable%d", n.taps)
	n.taps++
	n.mu.Unlock()
	if err := n.ip(ctx, "link", "add", name, "type", "veth", "peer", "name", name, "netns", other.Name); err != nil {
		return err
	}
	return errors.Join(
		n.ip(ctx, "link", "set", name, "master", bridge, "up"),
		other.ip(ctx, "link", "set", name, "master", bridge, "up"))
}

// SetBridge turns the bridge on or off: the switch of the rack.
func (n *Net) SetBridge(ctx context.Context, up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	return n.ip(ctx, "link", "set", bridge, state)
}

// Listen opens a TCP listener inside the namespace for a server in this
// process.
func (n *Net) Listen(ctx context.Context, address string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() error {
		var err error
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		return err
	})
	return l, err
}

// Dial connects to a TCP address inside the namespace.
func (n *Net) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	var c net.Conn
	err := n.Do(func() error {
		d := net.Dialer{Timeout: 10 * time.Second, FallbackDelay: -1} // a fallback would dial on a thread outside
		var err error
		c, err = d.DialContext(ctx, "tcp", address)
		return err
	})
	return c, err
}

// Do runs fn on a thread inside the namespace. Sockets that fn itself opens
// stay in the namespace; goroutines that it starts do not run there.
func (n *Net) Do(fn func() error) error {
	f, err := os.Open(filepath.Join(netnsDir, n.Name))
	if err != nil {
		return err
	}
	defer f.Close()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- err
			return
		}
		defer home.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter namespace %s: %w", n.Name, err)
			return
		}
		ferr := fn()
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- errors.Join(ferr, err)
			return // still locked: the thread ends with this goroutine
		}
		runtime.UnlockOSThread()
		result <- ferr
	}()
	return <-result
}

// Close stops the namespace's processes and removes it.
func (n *Net) Close() error {
	n.mu.Lock()
	procs := n.procs
	n.procs = nil
	n.mu.Unlock()
	var err error
	for _, p := range procs {
		err = errors.Join(err, p.Stop())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if rerr := remove(ctx, n.Name); !errors.Is(rerr, errGone) {
		err = errors.Join(err, rerr)
	}
	return err
}

// Command prepares a host process that runs inside the namespace. Use Run or
// Output for short ones and Start for daemons.
func (n *Net) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.Name, name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Where a key server's own things are.
const (
	memberPartition = "LANDFALL-MEMBER" // GPT name of the partition with the member's folder
	memberDir       = "/var/lib/landfall/member"
	daemonPath      = "/bin/kekd"
)

// Times of the daemon's life, and what of its words the console takes.
const (
	daemonFirst = time.Second // until it is started again
	daemonLast  = 30 * time.Second
	daemonWell  = time.Minute // then it counts as having run
	daemonLines = 20          // at most, in daemonEach
	daemonEach  = 10 * time.Second
	lineLength  = 300 // bytes of a line
)

const unprotected = `
*** The key server's store is NOT PROTECTED IN TRANSIT: its barrier key lies beside it. ***
*** Whoever takes this machine has its keys. Ship it apart from the servers.            ***
`

// daemon is kekd, which uinit runs on a key server.
type daemon struct {
	m    *machine
	tree disk.Tree
	path string // of the program
	dir  string // where the member's folder is mounted
}

// superviseFleet keeps this device's member of the fleet running, if it has one.
func (m *machine) superviseFleet(c *carried) {
	if !slices.Contains(c.Device.Roles, snapshot.RoleKeyserver) {
		return
	}
	if err := netconf.Loopback(); err != nil {
		m.logf("%v", err)
	}
	m.consoles.Print(unprotected)
	d := &daemon{m: m, tree: disk.Tree{Sys: filepath.Join(m.root, "sys"), Dev: filepath.Join(m.root, "dev")}, path: daemonPath, dir: memberDir}
	go func() {
		defer m.recoverPanic()
		d.supervise()
	}()
}

// supervise never returns.
func (d *daemon) supervise() {
	for wait := daemonFirst; ; wait = min(2*wait, daemonLast) {
		began := uptime()
		err := d.mount()
		if err == nil {
			err = d.run()
			// The disk may have gone, and come back as another device.
			if gone := unix.Unmount(d.dir, 0); gone != nil {
				err = errors.Join(err, fmt.Errorf("unmount %s: %w", d.dir, gone))
			}
		}
		if uptime()-began > daemonWell {
			wait = daemonFirst
		}
		pause := jitter(wait)
		d.m.show(report.Errorf(report.FleetDaemon, "%w", err), uptime()-began, pause)
		time.Sleep(pause)
	}
}

// mount mounts the member's partition, once.
func (d *daemon) mount() error {
	var have, above unix.Stat_t
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	if unix.Stat(d.dir, &have) == nil && unix.Stat(filepath.Dir(d.dir), &above) == nil && have.Dev != above.Dev {
		return nil
	}
	devs, err := d.tree.Scan()
	if err != nil {
		return err
	}
	devs = slices.DeleteFunc(devs, func(dev disk.Device) bool { return dev.PartName != memberPartition })
	switch len(devs) {
	case 0:
		return fmt.Errorf("no partition is named %s", memberPartition)
	case 1:
	default:
		return fmt.Errorf("%s and %s are both named %s: remove the disk that is not this device's", devs[0].Path, devs[1].Path, memberPartition)
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME)
	if err := unix.Mount(devs[0].Path, d.dir, "ext4", flags, ""); err != nil {
		return fmt.Errorf("mount %s: %w", devs[0].Path, err)
	}
	return nil
}

// run runs the program until it ends, which is always an error. Its arguments
// come from nothing that a command line could set.
func (d *daemon) run() error {
	cmd := exec.Command(d.path, "-config", filepath.Join(d.dir, "kekd.json"))
	cmd.Env, cmd.Dir = []string{"HOME=/", "PATH=/bin"}, "/"
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	printed := start(d.m, func() (struct{}, error) { return struct{}{}, d.print(out) })
	err := cmd.Run()
	_ = in.Close() // a pipe in memory: never fails
	_, _ = printed.wait()
	if err == nil {
		err = errors.New("it ended by itself")
	}
	return fmt.Errorf("%s: %w", filepath.Base(d.path), err)
}

// print puts what the daemon says on the consoles, but no flood of it.
func (d *daemon) print(out io.Reader) error {
	lines := bufio.NewReaderSize(out, 4<<10)
	var from time.Duration
	count := 0
	for {
		line, more, err := lines.ReadLine()
		if err != nil {
			return err
		}
		text := string(line[:min(len(line), lineLength)])
		for more && err == nil { // the rest of a long line
			_, more, err = lines.ReadLine()
		}
		if now := uptime(); now-from > daemonEach {
			if count > daemonLines {
				d.m.logf("kekd: %d lines were left out", count-daemonLines)
			}
			from, count = now, 0
		}
		if count++; count <= daemonLines {
			d.m.consoles.Print("kekd: " + text)
		}
	}
}

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// factory runs seal until the machine is ready for the next image: `seal
// provision` where the LANDFALL partition has no slice, then `seal`, in one boot
// where a station brings the slice. It never returns: what comes of each run is
// decided by line.after.
func (m *machine) factory(img *image) {
	hw := hold(m, "hardware", func() (*hardware, error) { return m.startHardware() })
	hw.crypto()
	m.lookAtTPM()
	if err := netconf.Loopback(); err != nil {
		m.logf("%v", err)
	}
	job := hold(m, "slice", func() (*job, error) { return m.factoryJob(img) })
	net := startNetwork(m, job.ports, job.mode)
	hold(m, "lease", func() ([]*netconf.Lease, error) { return net.ready() })
	m.work(&line{station: job.station, args: job.args})
}

// work runs seal and does what line.after says, until the machine leaves.
func (m *machine) work(l *line) {
	for {
		next := l.after(m.seal(l.args))
		if next.words != "" {
			m.logf("factory: %s, at %s", next.words, seconds(uptime()))
			m.logf("next: %s", next.next)
		}
		switch next.then {
		case thenReboot:
			m.end(unix.LINUX_REBOOT_CMD_RESTART)
		case thenPowerOff:
			m.end(unix.LINUX_REBOOT_CMD_POWER_OFF)
		case thenAgain:
			m.keepUp(next)
		}
	}
}

// end leaves by a reboot, or by switching off.
func (m *machine) end(command int) {
	m.consoles.Flush()
	unix.Sync()
	err := m.reboot(command)
	panic(fmt.Sprintf("reboot(%#x) returned: %v", command, err))
}

// keepUp shows what a run ended with, and waits until the next one. Where only
// another part helps, a disk or a cable that comes ends the wait early; else
// nothing does: seal itself makes devices come and go.
func (m *machine) keepUp(s step) {
	m.holdsAt(s.problem.Code)
	pause := jitter(s.pause)
	if s.show {
		m.show(s.problem, s.held, pause)
	}
	if !s.hardware {
		time.Sleep(pause)
		return
	}
	m.quiet()
	m.pause(pause)
}

// lookAtTPM shows what this boot measured and leaves the TPM to others. What is
// wrong with it, they say.
func (m *machine) lookAtTPM() {
	t, err := m.openTPM()
	if err == nil {
		err = t.Close()
	}
	if err != nil {
		m.logf("%v", err)
	}
}

// job is what the LANDFALL partition asks for.
type job struct {
	args    []string
	station bool // a factory station brings what is missing
	ports   []snapshot.Interface
	mode    leaseMode
}

// factoryJob looks at the LANDFALL partition. With a station document any port
// and any lease do: who this machine is the station knows, and after a power cut
// its network is the same as before. Without, it is the slice's.
func (m *machine) factoryJob(img *image) (*job, error) {
	parts, err := m.readParts()
	if err != nil {
		return nil, err
	}
	var slice bool
	var document []byte
	for _, part := range parts {
		slice = slice || part.Slice != nil
		if part.Station != nil {
			document = part.Station
		}
	}
	switch {
	case document != nil:
		return stationJob(document, slice)
	case !slice:
		return nil, report.Errorf(report.SliceMissing, "the LANDFALL partition has neither a slice nor a station document")
	}
	c, err := m.readSlice(img)
	if err != nil {
		return nil, err
	}
	return &job{ports: c.Interfaces, mode: c.leaseMode()}, nil
}

func stationJob(document []byte, slice bool) (*job, error) {
	st, err := snapshot.ParseStation(document)
	if err != nil {
		return nil, report.Errorf(report.SlicePartition, "%w", err)
	}
	j := &job{mode: leaseAny, station: st.Source != nil}
	if !slice {
		j.args = []string{"provision"}
	}
	links, err := netconf.Links()
	if err != nil {
		return nil, report.Errorf(report.NetNoInterface, "%w", err)
	}
	if j.ports = allPorts(links); len(j.ports) == 0 {
		return nil, report.Errorf(report.NetNoInterface, "this machine has no network port")
	}
	return j, nil
}

// allPorts names ports as a slice would, each by the address that it was made
// with.
func allPorts(links []netconf.Link) (all []snapshot.Interface) {
	for _, l := range links {
		all = append(all, snapshot.Interface{Name: l.Name, MAC: l.Permanent.String()})
	}
	return all
}

// seal runs the seal command; what it prints appears on every console. Its
// arguments come from nothing that a command line could set.
func (m *machine) seal(args []string) outcomeOfSeal {
	out := outcomeOfSeal{at: uptime()}
	next := filepath.Join(m.root, report.FactoryDir, report.FactoryNext)
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		out.err = err
		return out
	}
	path, err := m.sealPath()
	if err != nil {
		out.err = err
		return out
	}
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin:/bbin", "HOME=/"}
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	printed := start(m, func() (struct{}, error) {
		for sc := bufio.NewScanner(r); sc.Scan(); {
			m.consoles.Print(sc.Text())
			out.read(sc.Text())
		}
		_, err := io.Copy(io.Discard, r) // lines beyond the scanner's limit
		return struct{}{}, err
	})
	out.err = cmd.Run()
	_ = w.Close() // a pipe in memory: never fails
	_, _ = printed.wait()
	out.at = uptime()
	if text, err := os.ReadFile(next); err == nil {
		out.next = strings.TrimSpace(string(text))
	}
	m.call(out.result)
	return out
}

// call gives the machine the name that the station has for it.
func (m *machine) call(r *report.Factory) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r != nil && m.name == "" {
		m.name = r.Device
	}
}

// sealPath finds seal, which is a link to the image's one program, or its own.
func (m *machine) sealPath() (string, error) {
	for _, name := range []string{"bbin/seal", "bin/seal"} {
		path := filepath.Join(m.root, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", report.Errorf(report.HWImage, "this factory image has no seal command")
}

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// What seal exits with when it did not pass.
const (
	sealRetry  = 10
	sealReject = 20
)

// factory runs seal: `seal` when the LANDFALL partition has a slice, `seal
// provision` before. Then it powers off: the next boot is another image's, or
// the station's decision.
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
	hold(m, "seal", func() (struct{}, error) { return struct{}{}, m.seal(job.args) })
	m.logf("factory: seal has finished; power off at %s", seconds(uptime()))
	m.consoles.Flush()
	unix.Sync()
	err := m.reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	panic(fmt.Sprintf("power off returned: %v", err))
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
	args  []string
	ports []snapshot.Interface
	mode  leaseMode
}

func (m *machine) factoryJob(img *image) (*job, error) {
	parts, err := m.readParts()
	if err != nil {
		return nil, err
	}
	station := false
	for _, part := range parts {
		if part.Slice != nil {
			c, err := m.readSlice(img)
			if err != nil {
				return nil, err
			}
			return &job{ports: c.Interfaces, mode: c.leaseMode()}, nil
		}
		station = station || part.Station != nil
	}
	if !station {
		return nil, report.Errorf(report.SliceMissing, "the LANDFALL partition has neither a slice nor a station document")
	}
	// Who this is nobody has signed yet: any port, any lease.
	links, err := netconf.Links()
	if err != nil {
		return nil, report.Errorf(report.NetNoInterface, "%w", err)
	}
	j := &job{args: []string{"provision"}, mode: leaseAny}
	for _, l := range links {
		j.ports = append(j.ports, snapshot.Interface{Name: l.Name, MAC: l.MAC.String()})
	}
	if len(j.ports) == 0 {
		return nil, report.Errorf(report.NetNoInterface, "this machine has no network port")
	}
	return j, nil
}

// seal runs the seal command; what it prints appears on every console. Its
// arguments come from nothing that a command line could set.
func (m *machine) seal(args []string) error {
	path, err := sealPath()
	if err != nil {
		return err
	}
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin:/bbin", "HOME=/"}
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	printed := start(m, func() (struct{}, error) {
		for sc := bufio.NewScanner(out); sc.Scan(); {
			m.consoles.Print(sc.Text())
		}
		_, err := io.Copy(io.Discard, out) // lines beyond the scanner's limit
		return struct{}{}, err
	})
	err = cmd.Run()
	_ = in.Close() // a pipe in memory: never fails
	_, _ = printed.wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == sealReject:
		p := report.Errorf(report.HWFactory, "seal rejects this hardware (exit %d)", sealReject)
		p.Do = "take the machine out of the line; the reason is shown above"
		return p
	case errors.As(err, &exit) && exit.ExitCode() == sealRetry:
		return report.Errorf(report.HWFactory, "seal wants to be run again (exit %d)", sealRetry)
	}
	return report.Errorf(report.HWFactory, "seal: %w", err)
}

// sealPath finds seal, which is a link to the image's one program, or its own.
func sealPath() (string, error) {
	for _, path := range []string{"/bbin/seal", "/bin/seal"} {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", report.Errorf(report.HWImage, "this factory image has no seal command")
}

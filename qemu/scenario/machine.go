package scenario

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/landfall-project/landfall/qemu/swtpm"
	"github.com/landfall-project/landfall/qemu/vm"
)

// Machine is a running virtual machine with its TPM.
type Machine struct {
	*vm.VM
	// TPM is nil without one. Its Proxy holds the capture of the bus and can
	// cut the power.
	TPM *swtpm.Server

	lab      *Lab
	patience time.Duration
}

// Boot starts a machine. A nil tpm leaves the machine without one. The machine
// is killed when the scenario ends.
func (l *Lab) Boot(cfg vm.Config, tpm *swtpm.State) *Machine {
	l.Helper()
	return l.boot(cfg, tpm, nil)
}

// boot is Boot with what the TPM's proxy measures in the firmware's place.
func (l *Lab) boot(cfg vm.Config, tpm *swtpm.State, measured swtpm.Capture) *Machine {
	l.Helper()
	if cfg.Dir == "" {
		cfg.Dir = l.Dir
	}
	l.booted++
	if cfg.Name == "" {
		cfg.Name = "vm"
	}
	cfg.Name = fmt.Sprintf("%02d-%s", l.booted, cfg.Name)
	m := &Machine{lab: l, patience: cmp.Or(cfg.Deadline, patience)}
	if tpm != nil {
		srv, err := swtpm.StartForVM(l.Context(), tpm)
		l.Check(err)
		m.TPM = srv
		srv.Proxy.MeasureAsIn(measured)
		l.onEnd("stop TPM", srv.Close)
		t := vm.TPM{Ctrl: srv.Ctrl}
		if cfg.TPM != nil {
			t.Model = cfg.TPM.Model
		}
		cfg.TPM = &t
	}
	v, err := vm.Start(l.Context(), cfg)
	l.Check(err)
	m.VM = v
	l.Cleanup(func() { l.Logf("boot %s on %v: %s", cfg.Name, cfg.Firmware, phasesOf(v.Console(0).Lines())) })
	l.onEnd("stop machine", v.Close)
	return m
}

// patience bounds each wait for what a machine must do. A guest that a busy
// host starves stood still for 48 s at a time, so a bound close to what was
// measured tells of the host; this one only ends a scenario whose machine will
// never come to it. The longest wait that was measured took 100 s (a factory
// station's whole seal).
const patience = 8 * time.Minute

// Expect waits on ttyS0 for a match of the regular expression, or ends the
// scenario.
func (m *Machine) Expect(re string) *vm.Match {
	m.lab.Helper()
	match, err := m.VM.Expect(m.lab.Context(), re, m.patience)
	m.lab.Check(err)
	return match
}

// Type types a line on ttyS0.
func (m *Machine) Type(line string) {
	m.lab.Helper()
	m.lab.Check(m.VM.Send(line))
}

// WaitEnd waits until the machine has ended by itself with the given reason of
// vm.Exit, such as "guest-reset", and powers its TPM off.
func (m *Machine) WaitEnd(reason string) *vm.Exit {
	m.lab.Helper()
	exit, err := m.VM.Wait(m.lab.Context(), m.patience)
	m.lab.Check(err)
	if exit.Reason != reason {
		m.lab.Fatalf("machine ended by %s, want %s; last lines:\n%s", exit.Reason, reason, m.Console(0).Tail(40))
	}
	m.lab.Check(m.Off())
	return exit
}

// Off cuts the power of the machine and its TPM. Their disks and TPM state may
// be used again afterwards.
func (m *Machine) Off() error {
	err := m.VM.Close()
	if m.TPM != nil {
		err = errors.Join(err, m.TPM.Close())
	}
	return err
}

// CutPowerAfter lets n more TPM commands pass; before the next one the machine
// and its TPM lose their power.
func (m *Machine) CutPowerAfter(n int) {
	m.TPM.Proxy.CutAfter(n, func() {
		if err := m.VM.Close(); err != nil {
			m.lab.Logf("power cut: %v", err)
		}
	})
}

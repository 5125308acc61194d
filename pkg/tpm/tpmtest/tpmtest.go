// Package tpmtest gives tests a real TPM emulator, swtpm: manufactured with an
// EK certificate by a CA of its own, power-cycled, listened to and cut off at
// will. Only tests import it.
package tpmtest

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/tpm"
)

// Sim is one emulated TPM.
type Sim struct {
	t    testing.TB
	dir  string // state, CA, socket; a short path, since sockets want one
	cmd  *exec.Cmd
	bus  *Bus
	conn *tpm.TPM

	// Roots and Intermediates certify the EK.
	Roots         *x509.CertPool
	Intermediates []*x509.Certificate
	CertsPEM      []byte // both
}

// Start manufactures a TPM and powers it on. It fails the test where swtpm or
// swtpm_setup is missing: apt-get install swtpm swtpm-tools.
func Start(t testing.TB) *Sim {
	t.Helper()
	return StartBanks(t, "sha1,sha256")
}

// StartBanks does so with PCR banks of these hash algorithms only.
func StartBanks(t testing.TB, banks string) *Sim {
	t.Helper()
	return start(t, banks, &theMaker)
}

// StartOther does so by another maker: another CA than that of all others.
func StartOther(t testing.TB) *Sim {
	t.Helper()
	return start(t, "sha1,sha256", new(maker))
}

func start(t testing.TB, banks string, by *maker) *Sim {
	t.Helper()
	s := newSim(t)
	by.prepare(s, banks)
	s.certificates()
	s.PowerOn()
	return s
}

// Clone copies the TPM with all its state, as switched off, and powers the copy
// on. The original is left switched off.
func (s *Sim) Clone(t testing.TB) *Sim {
	t.Helper()
	s.PowerOff()
	c := newSim(t)
	c.Roots, c.Intermediates, c.CertsPEM = s.Roots, s.Intermediates, s.CertsPEM
	if err := os.CopyFS(filepath.Join(c.dir, "state"), os.DirFS(filepath.Join(s.dir, "state"))); err != nil {
		t.Fatal(err)
	}
	c.PowerOn()
	return c
}

func newSim(t testing.TB) *Sim {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	s := &Sim{t: t, dir: dir}
	t.Cleanup(func() {
		s.PowerOff()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return s
}

// manufacture runs swtpm_setup with a CA below the simulator's own folder. It
// makes what the CA lacks.
func (s *Sim) manufacture(banks string) {
	s.t.Helper()
	path := func(name string) string { return filepath.Join(s.dir, name) }
	tool, err := exec.LookPath("swtpm_localca")
	if err != nil {
		s.t.Fatalf("%v: install swtpm-tools", err)
	}
	for name, content := range map[string]string{
		"setup.conf": fmt.Sprintf("create_certs_tool = %s\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\n",
			tool, path("ca.conf"), path("ca.options")),
		"ca.conf": fmt.Sprintf("statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/certserial\n",
			path("ca")),
		"ca.options": "--platform-manufacturer Landfall\n--platform-version 1\n--platform-model test\n",
	} {
		if err := os.WriteFile(path(name), []byte(content), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, name := range []string{"state", "ca"} {
		if err := os.MkdirAll(path(name), 0o700); err != nil {
			s.t.Fatal(err)
		}
	}
	cmd := exec.Command("swtpm_setup", "--tpm2", "--tpm-state", path("state"), "--create-ek-cert", "--lock-nvram",
		"--pcr-banks", banks, "--config", path("setup.conf"))
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("swtpm_setup: %v (install swtpm-tools)\n%s", err, out)
	}
}

// certificates reads the CA that swtpm_setup made.
func (s *Sim) certificates() {
	s.t.Helper()
	s.Roots = x509.NewCertPool()
	for _, name := range []string{"swtpm-localca-rootca-cert.pem", "issuercert.pem"} {
		file, err := os.ReadFile(filepath.Join(s.dir, "ca", name))
		if err != nil {
			s.t.Fatal(err)
		}
		s.CertsPEM = append(s.CertsPEM, file...)
		block, _ := pem.Decode(file)
		if block == nil {
			s.t.Fatalf("%s holds no PEM", name)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			s.t.Fatal(err)
		}
		if name == "issuercert.pem" {
			s.Intermediates = []*x509.Certificate{cert}
		} else {
			s.Roots.AddCert(cert)
		}
	}
}

// PowerOn starts the emulator on its state: a TPM reset with Startup(CLEAR).
func (s *Sim) PowerOn() {
	s.t.Helper()
	if s.cmd != nil {
		return
	}
	sock := filepath.Join(s.dir, "sock")
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	s.cmd = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+filepath.Join(s.dir, "state"),
		"--server", "type=unixio,path="+sock, "--ctrl", "type=unixio,path="+sock+".ctrl",
		"--flags", "not-need-init,startup-clear")
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("%v: install swtpm", err)
	}
	s.bus = &Bus{}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(3 * time.Millisecond) {
		if s.bus.conn, err = net.Dial("unix", sock); err == nil {
			break
		}
		if time.Now().After(end) {
			s.t.Fatalf("swtpm does not answer: %v", errors.Join(err, s.log()))
		}
	}
	s.conn = tpm.New(s.bus)
}

func (s *Sim) log() error {
	b, err := os.ReadFile(filepath.Join(s.dir, "log"))
	return errors.Join(errors.New(strings.TrimSpace(string(b))), err)
}

// PowerOff cuts the power: whatever the emulator has not stored is lost.
func (s *Sim) PowerOff() {
	if s.cmd == nil {
		return
	}
	_ = s.bus.Close() // a cut one is closed already
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // "killed"
	s.cmd = nil
}

// Restart is a power cycle. Take TPM and Bus anew afterwards.
func (s *Sim) Restart() *tpm.TPM {
	s.t.Helper()
	s.PowerOff()
	s.PowerOn()
	return s.conn
}

// SoftRestart has the TPM believe that its system goes to sleep, and starts it
// with Startup(CLEAR): a TPM Restart (TPM 2.0 Part 1, 12.2.3), which software can
// bring about where the TPM's reset can. Take TPM and Bus anew afterwards.
func (s *Sim) SoftRestart() *tpm.TPM {
	s.t.Helper()
	shutdownState := []byte{0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x45, 0, 1} // Part 3, 9.4
	if answer, err := s.bus.Send(shutdownState); err != nil || len(answer) != 10 || answer[9] != 0 {
		s.t.Fatalf("TPM2_Shutdown(STATE): %x, %v", answer, err)
	}
	return s.Restart()
}

// TPM returns the driver on the running emulator.
func (s *Sim) TPM() *tpm.TPM { return s.conn }

// Bus returns the wire to the running emulator.
func (s *Sim) Bus() *Bus { return s.bus }

// StateDir is where the emulator keeps the TPM's state.
func (s *Sim) StateDir() string { return filepath.Join(s.dir, "state") }

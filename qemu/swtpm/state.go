// Package swtpm makes, runs, copies and watches software TPMs.
//
// A State is a folder with a TPM's permanent state, made once with an EK
// certificate of a CA of the run and copied for each scenario. Start serves it
// without a virtual machine; StartForVM serves it to QEMU, optionally through
// a Proxy that records each command on the bus or cuts the power after the
// n-th one.
package swtpm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// CA is a certificate authority for EK certificates: a root and an
// intermediate that swtpm_localca makes on first use.
type CA struct {
	dir string
}

// NewCA prepares a CA in dir (made if missing). Its keys appear with the first
// TPM that it certifies.
func NewCA(dir string) (*CA, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, fmt.Errorf("make CA folder: %w", err)
	}
	ca := &CA{dir: abs}
	localca := fmt.Sprintf("statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/certserial\n", abs)
	setup := fmt.Sprintf("create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = %[1]s/localca.conf\ncreate_certs_tool_options = %[1]s/localca.options\nactive_pcr_banks = sha256\n", abs)
	for name, text := range map[string]string{
		"localca.conf":    localca,
		"localca.options": "--platform-manufacturer Landfall\n--platform-version 1.0\n--platform-model lab\n",
		"setup.conf":      setup,
	} {
		if err := os.WriteFile(filepath.Join(abs, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	return ca, nil
}

// PEM returns the CA's root and intermediate certificates, which the fleet
// trusts for EK certificates. It is an error before the first Manufacture.
func (ca *CA) PEM() ([]byte, error) {
	root, err := os.ReadFile(filepath.Join(ca.dir, "swtpm-localca-rootca-cert.pem"))
	if err != nil {
		return nil, fmt.Errorf("read EK root certificate: %w; make a TPM with this CA first", err)
	}
	issuer, err := os.ReadFile(filepath.Join(ca.dir, "issuercert.pem"))
	if err != nil {
		return nil, fmt.Errorf("read EK issuer certificate: %w", err)
	}
	return append(root, issuer...), nil
}

// State is the permanent state of a TPM that is not running.
type State struct {
	Dir string // absolute
}

// Manufacture makes the state of a new TPM in dir: an RSA-2048 EK at
// 0x81010001 with a certificate of ca at NV index 0x01C00002, SHA-256 bank
// only.
func Manufacture(ctx context.Context, dir string, ca *CA) (*State, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, fmt.Errorf("make TPM state folder: %w", err)
	}
	cmd := exec.CommandContext(ctx, "swtpm_setup", "--tpm2", "--tpmstate", abs,
		"--config", filepath.Join(ca.dir, "setup.conf"), "--create-ek-cert", "--pcr-banks", "sha256")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("swtpm_setup: %w; packages swtpm and swtpm-tools must be installed\n%s", err, out)
	}
	return &State{Dir: abs}, nil
}

// Open returns the state in an existing folder.
func Open(dir string) (*State, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(abs, "tpm2-00.permall")); err != nil {
		return nil, fmt.Errorf("no TPM state in %s: %w", abs, err)
	}
	return &State{Dir: abs}, nil
}

// Copy copies the state into dir. The TPM must not be running: swtpm writes
// its state at any NV command.
func (s *State) Copy(dir string) (*State, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, err
	}
	// Only the permanent state is a TPM; a volatile state next to it would
	// bring back PCRs of a boot that is over.
	b, err := os.ReadFile(filepath.Join(s.Dir, "tpm2-00.permall"))
	if err != nil {
		return nil, fmt.Errorf("copy TPM state: %w", err)
	}
	if err := os.WriteFile(filepath.Join(abs, "tpm2-00.permall"), b, 0o600); err != nil {
		return nil, fmt.Errorf("copy TPM state: %w", err)
	}
	return &State{Dir: abs}, nil
}

// Remove deletes the state.
func (s *State) Remove() error {
	if s.Dir == "" {
		return errors.New("no TPM state")
	}
	return os.RemoveAll(s.Dir)
}

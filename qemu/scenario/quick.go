package scenario

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/swtpm"
	"github.com/landfall-project/landfall/qemu/vm"
)

// goldenBoots are the golden boots of the images.
type goldenBoots map[builder.Flavour]goldenBoot

// goldenBoot is what OVMF measured in one boot, the PCR extends in order, and the
// machine that it measured them on.
//
// A scenario that claims nothing about firmware or measurement starts the same
// kernel and initrd with qboot, which takes a tenth of OVMF's time and measures
// nothing; the TPM's proxy sends these extends in its place. All PCRs are then
// as OVMF leaves them (TestSmoke compares them), so quotes, policies and the
// fleet's decisions are the real ones. What is not there: the firmware's event
// log, and a platform hierarchy that the firmware has closed.
type goldenBoot struct {
	Machine measuredMachine
	Extends swtpm.Capture
}

// measuredMachine is all of a machine that moves what OVMF measures of an image.
// Files count by what is in them: copies of an image are the same.
type measuredMachine struct {
	Kernel, Initrd  string // SHA-256
	Append          string
	MemoryMiB, CPUs int // 0 as vm.Config has it
}

func measured(cfg *vm.Config) (m measuredMachine, err error) {
	m = measuredMachine{Append: cfg.Append, MemoryMiB: cfg.MemoryMiB, CPUs: cfg.CPUs}
	if m.Kernel, err = fileDigest(cfg.Kernel); err == nil {
		m.Initrd, err = fileDigest(cfg.Initrd)
	}
	return m, err
}

func fileDigest(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// frozenGolden is the file that keeps golden boots beside what was sealed.
const frozenGolden = "golden.json"

// imaPCR is extended by the kernel itself, in each boot (Linux's IMA, boot
// aggregate).
const imaPCR = 10

// learn keeps what the firmware measured in a golden boot of that machine.
func (g goldenBoots) learn(f builder.Flavour, cfg *vm.Config, boot swtpm.Capture) error {
	m, err := measured(cfg)
	if err != nil {
		return err
	}
	g[f] = goldenBoot{Machine: m, Extends: firmwareExtends(boot)}
	return nil
}

func firmwareExtends(boot swtpm.Capture) swtpm.Capture {
	var extends swtpm.Capture
	for _, r := range boot {
		// The handle of the PCR follows the header (TPM 2.0 Part 3, 22.2).
		if r.Code() == tpm2.TPMCCPCRExtend && binary.BigEndian.Uint32(r.Command[10:]) != imaPCR {
			extends = append(extends, r)
		}
	}
	return extends
}

// quick turns a boot of an image on OVMF into one on qboot, and returns what is
// to be measured then. Any other machine than the golden boot's stays as it is:
// its measurements are not known.
func (g goldenBoots) quick(f builder.Flavour, cfg *vm.Config) (swtpm.Capture, error) {
	golden, ok := g[f]
	if !ok || len(golden.Extends) == 0 || cfg.Firmware != vm.OVMF || cfg.SecureBoot || cfg.VarsFile != "" || cfg.Kernel == "" || cfg.Initrd == "" {
		return nil, nil
	}
	if m, err := measured(cfg); err != nil || m != golden.Machine {
		return nil, err
	}
	cfg.Firmware = vm.Qboot
	return golden.Extends, nil
}

func (l *Lab) writeGolden(dir string, g goldenBoots) {
	l.Helper()
	b, err := json.Marshal(g)
	l.Check(err)
	l.Check(os.WriteFile(filepath.Join(dir, frozenGolden), b, 0o600))
}

func (l *Lab) readGolden(dir string) goldenBoots {
	l.Helper()
	b, err := os.ReadFile(filepath.Join(dir, frozenGolden))
	l.Check(err)
	g := goldenBoots{}
	l.Check(json.Unmarshal(b, &g))
	return g
}

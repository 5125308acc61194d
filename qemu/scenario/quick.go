package scenario

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/swtpm"
	"github.com/landfall-project/landfall/qemu/vm"
)

// goldenBoots is what OVMF measured of each image in its golden boot: the PCR
// extends, in order.
//
// A scenario that claims nothing about firmware or measurement starts the same
// kernel and initrd with qboot, which takes a tenth of OVMF's time and measures
// nothing; the TPM's proxy sends these extends in its place. All PCRs are then
// as OVMF leaves them (TestSmoke compares them), so quotes, policies and the
// fleet's decisions are the real ones. What is not there: the firmware's event
// log, and a platform hierarchy that the firmware has closed.
type goldenBoots map[builder.Flavour]swtpm.Capture

// frozenGolden is the file that keeps golden boots beside what was sealed.
const frozenGolden = "golden.json"

// imaPCR is extended by the kernel itself, in each boot (Linux's IMA, boot
// aggregate).
const imaPCR = 10

// learn keeps what the firmware measured in a golden boot.
func (g goldenBoots) learn(f builder.Flavour, boot swtpm.Capture) {
	var extends swtpm.Capture
	for _, r := range boot {
		// The handle of the PCR follows the header (TPM 2.0 Part 3, 22.2).
		if r.Code() == tpm2.TPMCCPCRExtend && binary.BigEndian.Uint32(r.Command[10:]) != imaPCR {
			extends = append(extends, r)
		}
	}
	g[f] = extends
}

// quick turns a boot of an image on OVMF into one on qboot, and returns what is
// to be measured then. Any other machine than the golden boot's stays as it is:
// its measurements are not known.
func (g goldenBoots) quick(f builder.Flavour, golden, cfg *vm.Config) swtpm.Capture {
	same := cfg.Firmware == vm.OVMF && !cfg.SecureBoot && cfg.VarsFile == "" && cfg.Kernel == golden.Kernel && cfg.Initrd == golden.Initrd &&
		cfg.Append == golden.Append && cfg.MemoryMiB == golden.MemoryMiB && cfg.CPUs == golden.CPUs
	if !same || len(g[f]) == 0 {
		return nil
	}
	cfg.Firmware = vm.Qboot
	return g[f]
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

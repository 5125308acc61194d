package scenario

import (
	"bytes"
	"encoding/hex"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/landfall-project/landfall/image/bootvolume"
	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/image/kernel"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/uki"
	"github.com/landfall-project/landfall/qemu/vm"
)

// UKI describes a unified kernel image to make.
type UKI struct {
	Version string
	Role    builder.Flavour // Server if empty
	Kernel  *kernel.Kernel  // the cloud kernel if nil
	Initrd  string          // the life's image of Role if empty
	Cmdline string          // behind the lab's words
}

// ukiCmdline is the command line of the UKIs made here.
const ukiCmdline = vm.Words

// BuildUKI makes a UKI and returns its file.
func (l *Life) BuildUKI(u UKI) string {
	l.Helper()
	if u.Role == "" {
		u.Role = builder.Server
	}
	if u.Kernel == nil {
		u.Kernel = l.Kernel()
	}
	if u.Initrd == "" {
		u.Initrd = l.images[u.Role]
	}
	cmdline := ukiCmdline
	if u.Cmdline != "" {
		cmdline += " " + u.Cmdline
	}
	l.booted++ // numbers its files as well
	path := l.Path("landfall-" + string(u.Role) + "-" + u.Version + "-" + string(rune('a'+l.booted%26)) + ".efi")
	l.Check(bootvolume.UKI(l.Context(), bootvolume.Options{
		Kernel: u.Kernel, Initrd: u.Initrd, Cmdline: cmdline, Image: "landfall-" + string(u.Role), Version: u.Version, Role: measure.Role(u.Role),
	}, path))
	return path
}

// Predict is what starting a UKI in a form leaves in the image PCRs.
func (l *Lab) Predict(file string, form measure.Form) map[int][]byte {
	l.Helper()
	b, err := os.ReadFile(file)
	l.Check(err)
	img, err := uki.Parse(b)
	l.Check(err)
	events, err := img.Events(form)
	l.Check(err)
	return measure.Replay(events)
}

// ApproveUKI signs a UKI for some forms, and gives manifests and policies to
// the fleet. It returns the policies' files.
func (r *Region) ApproveUKI(role builder.Flavour, version, file string, forms ...measure.Form) []string {
	r.lab.Helper()
	name := "landfall-" + string(role)
	out := r.lab.Path("approved-" + name + "-" + version)
	args := []string{"sign", "--region", r.Dir, "--role", string(role), "--image", name, "--version", version, "--uki", file, "-o", out}
	for _, f := range forms {
		args = append(args, "--form", string(f))
	}
	r.command("imagectl", args...)
	manifests, err := filepath.Glob(filepath.Join(out, "*.manifest"))
	r.lab.Check(err)
	r.Kekctl(append([]string{"manifest", "add"}, manifests...)...)
	policies, err := filepath.Glob(filepath.Join(out, "*.policy"))
	r.lab.Check(err)
	return policies
}

// BootVolume makes the disk that a SmartNIC would present: the UKI on an EFI
// system partition, and a LANDFALL partition with the device's slice and these
// policies only.
func (l *Life) BootVolume(name, file string, policies ...string) vm.Disk {
	l.Helper()
	path := l.Path(name)
	l.Check(bootvolume.Disk(l.Context(), file, l.partWith(policies), 512, path))
	return vm.Disk{Path: path, Boot: true}
}

// partWith is the content of the device's LANDFALL partition, with other
// policies.
func (l *Life) partWith(policies []string) []byte {
	l.Helper()
	part, err := snapshot.ReadPart(bytes.NewReader(l.ReadPartition(l.Config.Disks[0].Path, landfallSize)), landfallSize)
	l.Check(err)
	part.Policies = nil
	for _, file := range policies {
		b, err := os.ReadFile(file)
		l.Check(err)
		part.Policies = append(part.Policies, b)
	}
	b, err := part.Bytes()
	l.Check(err)
	return b
}

// StartFrom powers the machine on with a boot volume in place of the disk that
// carries its slice; the firmware starts what is on it.
func (l *Life) StartFrom(volume vm.Disk, change ...func(*vm.Config)) *Machine {
	l.Helper()
	return l.StartFirmware(func(c *vm.Config) {
		c.Disks = append([]vm.Disk{volume}, c.Disks[1:]...)
		for _, fn := range change {
			fn(c)
		}
	})
}

// StartFirmware powers the machine on without a kernel of QEMU's.
func (l *Life) StartFirmware(change func(*vm.Config)) *Machine {
	l.Helper()
	return l.Start(builder.Server, func(c *vm.Config) {
		c.Name, c.Kernel, c.Initrd, c.Append = "uki", "", "", ""
		c.Disks = slices.Clone(c.Disks)
		c.NICs = slices.Clone(c.NICs)
		change(c)
	})
}

// RealHardware gives the machine an Intel network card and NVMe disks.
func RealHardware(c *vm.Config) {
	c.NICs[0].Model = "e1000e"
	for i := range c.Disks {
		c.Disks[i].Bus = "nvme"
	}
}

var measuredLine = regexp.MustCompile(`measured sha256((?: \d+=[0-9a-f]{64})+)`)

// sameAsMeasured compares a prediction with what the machine's console says of
// its PCRs, all of them.
func (m *Machine) sameAsMeasured(want map[int][]byte) {
	m.lab.Helper()
	found := measuredLine.FindStringSubmatch(m.Console(0).Output())
	if found == nil {
		m.lab.Fatalf("the console does not tell what was measured:\n%s", m.Console(0).Tail(40))
	}
	var b bytes.Buffer
	for _, n := range slices.Sorted(maps.Keys(want)) {
		_, _ = b.WriteString(" " + pcrText(n, want[n])) // a buffer never fails
	}
	if got := found[1]; got != b.String() {
		m.lab.Fatalf("predicted and real PCRs differ:\npredicted%s\nreal     %s", b.String(), got)
	}
}

func pcrText(n int, value []byte) string { return strconv.Itoa(n) + "=" + hex.EncodeToString(value) }

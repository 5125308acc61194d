package scenario

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/image/cache"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/qemu/vm"
)

// TestUKI boots the server to production from a disk as a SmartNIC presents
// it. It was sealed by another image, in another form: the policy alone brings
// the new one in.
func TestUKI(t *testing.T) {
	t.Parallel()
	l := delivered(t)
	file := l.BuildUKI(UKI{Version: "2.0"})
	policies := l.Region.ApproveUKI(builder.Server, "2.0", file, measure.FormUKI)
	m := l.StartFrom(l.BootVolume("boot.raw", file, policies...))
	l.systemStarts(m)
	m.sameAsMeasured(l.Predict(file, measure.FormUKI))
	t.Logf("boot volume\n%s", Table(Steps(m.Console(0).Output())))
}

// TestPXE boots a machine without any boot volume: the card's iPXE takes a
// script by TFTP and the UKI by HTTP. The local LANDFALL partition has no
// policy for this image; the fleet has.
func TestPXE(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	l.Region.Deliver()
	file := l.BuildUKI(UKI{Version: "2.0"})
	l.Region.ApproveUKI(builder.Server, "2.0", file, measure.FormUKIiPXE)
	l.ServePXE(file)
	m := l.StartFirmware(func(c *vm.Config) { c.NICs[0].PXE = true })
	l.systemStarts(m)
	m.sameAsMeasured(l.Predict(file, measure.FormUKIiPXE))
	t.Logf("PXE\n%s", Table(Steps(m.Console(0).Output())))
}

// withCredential plants a credential where systemd-stub picks it up.
func (l *Life) withCredential(volume vm.Disk) vm.Disk {
	l.Helper()
	cred := l.Path("planted.cred")
	l.Check(os.WriteFile(cred, []byte("ssh-ed25519 AAAA thief"), 0o644))
	esp := volume.Path + "@@1M" // mtools: behind the partition table
	for _, args := range [][]string{
		{"mmd", "-i", esp, "::/EFI/BOOT/BOOTX64.EFI.extra.d"},
		{"mcopy", "-i", esp, cred, "::/EFI/BOOT/BOOTX64.EFI.extra.d/ssh.authorized_keys.root.cred"},
	} {
		if out, err := exec.CommandContext(l.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			l.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	return volume
}

// TestEditedUKI boots UKIs after somebody has worked on them, and a genuine one
// with something beside it. The fleet refuses, and console, audit log and
// kekctl explain name PCR and component; the TPM refuses without asking anybody.
func TestEditedUKI(t *testing.T) {
	t.Parallel()
	l := delivered(t)
	good := l.BuildUKI(UKI{Version: "2.0"})
	policies := l.Region.ApproveUKI(builder.Server, "2.0", good, measure.FormUKI)
	l.policies = append(policies, l.policies...)
	kernel := *l.Kernel()
	kernel.Image = l.editedKernel(kernel.Image)
	extra := l.JoinInitrds("more.cpio", l.images[builder.Server], archive("etc/motd", 0o644, []byte("hello")))
	plain := func(file string) vm.Disk { return l.BootVolume(filepath.Base(file)+".raw", file, policies...) }
	for _, x := range []struct {
		name      string
		volume    vm.Disk
		pcr       int
		component string // as a regular expression
	}{
		{"one byte of the kernel", plain(l.BuildUKI(UKI{Version: "2.0", Kernel: &kernel})), 11, `\.linux|kernel`},
		{"a file more in the initrd", plain(l.BuildUKI(UKI{Version: "2.0", Initrd: extra})), 9, `initrd`},
		{"a word more on the built-in command line", plain(l.BuildUKI(UKI{Version: "2.0", Cmdline: "debug"})), 9, `command line`},
		{"a credential planted beside it", l.withCredential(plain(good)), 12, `cred|override`},
	} {
		m := l.StartFrom(x.volume)
		m.expectHold(report.KeyImage)
		named := fmt.Sprintf(`PCR %d: [^\n]*(%s)`, x.pcr, x.component)
		m.Expect(`(?s)` + strings.ReplaceAll(named, " ", `\s+`))
		l.refusedEverywhere(t, x.name, m, named)
	}
}

// TestOverriddenUKI starts the genuine UKI, over TFTP, with load options, as a
// planted script or boot entry can: the stub takes them for the command line.
func TestOverriddenUKI(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	l.Region.Deliver()
	file := l.BuildUKI(UKI{Version: "2.0"})
	l.policies = append(l.Region.ApproveUKI(builder.Server, "2.0", file, measure.FormUKIiPXE), l.policies...)
	root := l.serveScript([]byte("#!ipxe\nchain --name= landfall.efi console=ttyS0 panic=-1 rd.break systemd.debug-shell init=/bin/sh\n"))
	l.Check(cache.CopyFile(filepath.Join(root, "landfall.efi"), file))
	m := l.StartFirmware(func(c *vm.Config) { c.NICs[0].PXE = true })
	m.expectHold(report.KeyImage)
	const named = `PCR 12: [^\n]*(override|command line)`
	m.Expect(`(?s)` + strings.ReplaceAll(named, " ", `\s+`))
	l.refusedEverywhere(t, "load options", m, named)
}

// refusedEverywhere: neither fleet nor TPM gives anything to what was booted,
// and the fleet's records say why.
func (l *Life) refusedEverywhere(t *testing.T, name string, m *Machine, named string) {
	t.Helper()
	out := m.Console(0).Output()
	l.Check(m.Off())
	if strings.Contains(out, "step key (") || strings.Contains(out, "released by") {
		t.Errorf("%s: a key was released:\n%s", name, out)
	}
	bus := m.TPM.Proxy.Capture()
	if n := bus.Count(tpm2.TPMCCNVRead); n != 0 {
		t.Errorf("%s: %d reads of NV", name, n)
	}
	chip := l.afterwards(fmt.Sprintf("edited-%d", l.booted), bus)
	if opened := l.openable(chip); len(opened) > 0 {
		t.Errorf("%s: the TPM opens its slots by the policy of %v", name, opened)
	}
	re := regexp.MustCompile(named)
	for what, text := range map[string]string{
		"kekctl explain": l.Region.explain(Device), "the audit log": l.Region.Kekctl("audit", "show", "--device", Device, "--json"),
	} {
		if !strings.Contains(text, string(report.KeyImage)) || !re.MatchString(text) {
			t.Errorf("%s: %s does not name %s:\n%s", name, what, named, text)
		}
	}
}

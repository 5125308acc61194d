package scenario

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/qemu/vm"
)

// nullTwin makes a disk that claims to be the root volume: same UUID, the true
// keyslot, and a segment that is not encrypted at all and holds a root of the
// thief's. cryptsetup opens it with the true passphrase.
func (l *Life) nullTwin() vm.Disk {
	l.Helper()
	raw, err := os.Open(filepath.Join(frozen.Sealed.Dir, frozenRoot))
	l.Check(err)
	defer raw.Close()
	info, err := raw.Stat()
	l.Check(err)
	volume := io.NewSectionReader(raw, partitionStart, info.Size()-partitionStart)
	h, err := luks2.Read(volume, volume.Size())
	l.Check(err)
	head := make([]byte, 1<<20)
	_, err = volume.ReadAt(head, 0)
	l.Check(err)
	const copySize = 16 << 10
	for off := 0; off < 2*copySize; off += copySize {
		b := head[off : off+copySize]
		i := bytes.Index(b, []byte(`"segments"`))
		j := bytes.Index(b[i:], []byte(luks2.CipherXTS))
		if i < 0 || j < 0 {
			l.Fatalf("header copy at %d: no segment cipher", off)
		}
		copy(b[i+j:], "cipher_null-ecb") // as long as the true one
		clear(b[448:512])
		sum := sha256.Sum256(b)
		copy(b[448:], sum[:])
	}
	path, root, fs := l.Path("twin.raw"), l.Path("twin-root"), l.Path("twin.ext4")
	for _, dir := range []string{"sbin", "dev", "proc", "run", "sys"} { // where an initrd moves its mounts to
		l.Check(os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	l.Check(os.Rename(l.GoBinary("./qemu/probe"), root+"/sbin/init"))
	if out, err := exec.CommandContext(l.Context(), "mke2fs", "-q", "-t", "ext4", "-d", root, fs, "48M").CombinedOutput(); err != nil {
		l.Fatalf("mke2fs: %v: %s", err, out)
	}
	plain, err := os.ReadFile(fs)
	l.Check(err)
	f, err := os.Create(path)
	l.Check(err)
	_, err = f.WriteAt(head, 0)
	l.Check(err)
	_, err = f.WriteAt(plain, int64(h.Offset))
	l.Check(errors.Join(err, f.Close()))
	return vm.Disk{Path: path}
}

// TestTwinDiskAfterKexec: uinit opens the true disk; the stock initrd then
// looks for the volume once more, and may find the twin. It must never start
// the twin's root, and never give a shell beside the passphrases.
//
// Of two disks with one UUID Debian's initrd takes the one that udev saw last:
// on the true disk's own bus a partition, on a SCSI bus the twin, whose disks
// come later. There the scenario must have met the twin, or it shows nothing.
func TestTwinDiskAfterKexec(t *testing.T) {
	for name, x := range map[string]struct {
		plug func(*Life, *vm.Config, vm.Disk)
		met  bool // the initrd finds the twin
	}{
		// Two of them: one before the true disk and one behind it.
		"around": {func(l *Life, c *vm.Config, twin vm.Disk) {
			c.Disks = append(slices.Insert(slices.Clone(c.Disks), 1, twin), vm.Disk{Path: l.CopyImage(twin.Path, "twin-2.raw")})
		}, false},
		"scsi": {func(l *Life, c *vm.Config, twin vm.Disk) {
			c.Extra = append(c.Extra, "-device", "virtio-scsi-pci,id=scsi,romfile=", "-drive", "if=none,id=twin,format=raw,file="+twin.Path, "-device", "scsi-hd,drive=twin,bus=scsi.0")
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := sealed(New(t))
			l.ServeDHCP()
			l.Region.Deliver()
			m := l.Start(builder.Server, func(c *vm.Config) { x.plug(l, c, l.nullTwin()) })
			m.Expect(`landfall: kexec at`)
			got, err := m.VM.Expect(t.Context(), systemRuns+`|probe: ready|\(initramfs\)`, 5*time.Minute)
			switch {
			case err == nil && !strings.Contains(got.Groups[0], "systemd[1]"):
				t.Errorf("production gave %q", got.Groups[0])
			case err != nil:
				m.WaitEnd("guest-reset")
				if !strings.Contains(m.Console(0).Output(), "Gave up waiting for root file system device") {
					t.Fatalf("the initrd did not see noise:\n%s", m.Console(0).Tail(40))
				}
				t.Log("the initrd found the twin, saw noise, and rebooted")
			case x.met:
				t.Error("the initrd found the true disk: this placement no longer tries the attack")
			default:
				t.Log("the initrd found the true disk")
			}
		})
	}
}

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
	raw, err := os.Open(filepath.Join(frozen.Dir, frozenRoot))
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
	l.Check(os.MkdirAll(root+"/sbin", 0o755))
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
func TestTwinDiskAfterKexec(t *testing.T) {
	for name, place := range map[string]int{"before": 1, "behind": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := sealed(New(t))
			l.ServeDHCP()
			l.Region.Deliver()
			m := l.Start(builder.Server, func(c *vm.Config) { c.Disks = slices.Insert(slices.Clone(c.Disks), place, l.nullTwin()) })
			m.Expect(`landfall: kexec at`, 3*time.Minute)
			got, err := m.VM.Expect(t.Context(), `(login: |probe: ready|\(initramfs\))`, 5*time.Minute)
			switch {
			case err == nil && !strings.Contains(got.Groups[0], "login"):
				t.Errorf("production gave %q", got.Groups[0])
			case err != nil && !strings.Contains(err.Error(), "guest-reset"):
				t.Errorf("neither the true root nor a reboot: %v", err)
			case err != nil:
				t.Log("the initrd found the twin, saw noise, and rebooted")
			default:
				t.Log("the initrd found the true disk")
			}
		})
	}
}

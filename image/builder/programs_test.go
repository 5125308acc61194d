package builder

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"
)

// chroot unpacks an image into a folder, without kernel modules.
func chroot(t *testing.T, img *Image) string {
	t.Helper()
	dir := t.TempDir()
	packed, err := os.ReadFile(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(unpack(t, packed))))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if strings.Contains(r.Name, "lib/modules/") || strings.HasPrefix(r.Name, "bbin/") || r.Name == "init" {
			continue
		}
		if err := cpio.CreateFileInRoot(r, dir, false); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	// What the kernel puts there, of what the programs ask for.
	if err := os.WriteFile(filepath.Join(dir, "proc/mounts"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, minor := range map[string]uint32{"random": 8, "urandom": 9} {
		if err := unix.Mknod(filepath.Join(dir, "dev", name), unix.S_IFCHR|0o600, int(unix.Mkdev(1, minor))); err != nil {
			t.Fatalf("make /dev/%s (this test needs root): %v", name, err)
		}
	}
	return dir
}

// TestFactoryProgramsRun uses the factory image's own programs, with nothing but
// the image's files around them: a library that they load while they run, and
// ldd does not name, would be missing in the factory only. The recovery keyslot
// is the one that takes argon2id.
func TestFactoryProgramsRun(t *testing.T) {
	img, err := Build(t.Context(), options(t, Factory))
	if err != nil {
		t.Fatal(err)
	}
	dir := chroot(t, img)
	for name, content := range map[string]string{"tmp/key": "a passphrase", "tmp/recovery": "a recovery key", "tmp/disk": "", "tmp/plain": "", "tmp/data": "", "tmp/token": `{"type":"x","keyslots":["0"]}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, size := range map[string]int64{"tmp/disk": 48 << 20, "tmp/plain": 64 << 20, "tmp/data": 64 << 20} {
		if err := os.Truncate(filepath.Join(dir, name), size); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{
		"/sbin/cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /tmp/key /tmp/disk",
		"/sbin/cryptsetup luksAddKey -q --key-slot 1 --pbkdf argon2id --pbkdf-force-iterations 4 --pbkdf-memory 65536 --pbkdf-parallel 1 --key-file /tmp/key /tmp/disk /tmp/recovery",
		"/sbin/cryptsetup open --test-passphrase --key-slot 1 --key-file /tmp/recovery /tmp/disk",
		"/sbin/cryptsetup token import --json-file /tmp/token /tmp/disk",
		"/sbin/cryptsetup luksKillSlot -q --key-file /tmp/key /tmp/disk 1",
		"/sbin/mke2fs -q -F -t ext4 -J size=4 /tmp/plain",
		"/sbin/e2fsck -f -y /tmp/plain",
		"/sbin/resize2fs /tmp/plain 16M",
		"/sbin/cryptsetup reencrypt -q --encrypt --type luks2 --reduce-device-size 32M --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /tmp/key /tmp/data",
	} {
		args := strings.Fields(line)
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Path, cmd.Dir, cmd.Env = args[0], "/", []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin:/bbin", "HOME=/"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
}

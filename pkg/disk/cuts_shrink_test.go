package disk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/disk/disktest"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// fullExtDisk returns a disk that its filesystem fills, with folders and files
// all over it: in groups that a shrink takes off, too. The kernel wrote them,
// which spreads folders over groups.
func fullExtDisk(t testing.TB, diskMiB int64) (disk []byte, tree map[string]string) {
	f := newTree(t)
	f.disk("vda", "DISK-A", diskMiB<<20)
	command0(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-E", "lazy_itable_init=0", f.path("vda"))
	dir := t.TempDir()
	command0(t, "mount", "-o", "loop", f.path("vda"), dir)
	mounted := true
	t.Cleanup(func() {
		if mounted {
			command0(t, "umount", dir)
		}
	})
	r := rand.NewChaCha8([32]byte{5})
	for i := range 24 {
		b := make([]byte, 1<<20)
		_, _ = r.Read(b)
		f.write(filepath.Join(dir, fmt.Sprintf("folder%02d/sub/file%02d", i, i)), string(b))
		f.write(filepath.Join(dir, fmt.Sprintf("folder%02d/small", i)), string(b[:100]))
	}
	command0(t, "umount", dir)
	mounted = false
	disk = readFile(t, f.path("vda"))
	tree, err := extTree(f.path("vda"), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return disk, tree
}

// extTree returns the digest of each file in a filesystem, which must be sound.
func extTree(image, work string) (map[string]string, error) {
	if out, err := exec.Command("e2fsck", "-f", "-n", image).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("e2fsck: %w: %s", err, out)
	}
	if out, err := exec.Command("debugfs", "-R", "rdump / "+work, image).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("debugfs: %w: %s", err, out)
	}
	tree := map[string]string{}
	err := filepath.WalkDir(work, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		sum := ""
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum = fmt.Sprintf("%x", sha256.Sum256(b))
		}
		tree[strings.TrimPrefix(path, work)] = sum
		return nil
	})
	return tree, err
}

// TestCutsShrink tries every power cut up to the moment at which the shrunk
// filesystem's head is saved. After a rerun, no file is lost, none is moved, and
// e2fsck finds nothing.
func TestCutsShrink(t *testing.T) {
	before, want := fullExtDisk(t, 128)
	c := &cutCase{before: before, sample: 4,
		volume: func(name string) snapshot.Volume { return volume(name, "in-place", "DISK-A", 0) },
		until: func(e disktest.Event) bool {
			return bytes.HasPrefix(e.Data, []byte(headSeal))
		}}
	c.check = func(plain []byte) error {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		image, files := filepath.Join(dir, "image"), filepath.Join(dir, "files")
		if err := errors.Join(os.WriteFile(image, plain[:96<<20], 0o600), os.Mkdir(files, 0o700)); err != nil {
			return err
		}
		got, err := extTree(image, files)
		if err != nil {
			return err
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("the files differ (-want +got):\n%s", diff)
		}
		return nil
	}
	c.run(t)
}

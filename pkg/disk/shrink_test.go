package disk

import (
	"bytes"
	"context"
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

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// TestShrinkRepairs: a filesystem with errors that no shrink of ours left is
// refused, and a superblock that e2fsck was cut off in goes on. What a shrink
// leaves is the subject of TestCutsShrink.
func TestShrinkRepairs(t *testing.T) {
	plainOnly(t)
	before, want := fullExtDisk(t, 128)
	v := volume("root", "in-place", "DISK-A", 0)
	for _, tc := range []struct {
		name   string
		damage func(b []byte)
		ok     bool
	}{
		{"sound", func([]byte) {}, true},
		{"time of the last check without its checksum", func(b []byte) { b[superblockAt+0x40] ^= 1 }, true},
		{"no group descriptors", func(b []byte) { clear(b[2048:3072]) }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newTree(t)
			f.disk("vda", "DISK-A", 128<<20)
			b := bytes.Clone(before)
			tc.damage(b)
			f.write(f.path("vda"), string(b))
			m := newMaker(t, f)
			jobs, err := m.Plan(context.Background(), []snapshot.Volume{v})
			if err != nil {
				t.Fatal(err)
			}
			err = m.shrink(context.Background(), jobs[0])
			var refused *RefusedError
			if !tc.ok {
				if !errors.As(err, &refused) {
					t.Errorf("shrink: %v, want a refusal", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := extTree(f.path("vda"), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the files differ (-want +got):\n%s", diff)
			}
			// The mark stays until the filesystem is mounted.
			head := readFile(t, f.path("vda"))[:4096]
			if !halfShrunk(head) || halfShrunk(before[:4096]) {
				t.Error("the mark is missing, or was there before")
			}
		})
	}
}

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

//go:build !race

package disk

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/disk/disktest"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

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

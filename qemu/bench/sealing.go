package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// sealingTail is what encryption in place needs behind a filesystem, in bytes.
const sealingTail = 32 << 20

// sealing is how fast disks are encrypted in place.
type sealing struct {
	MiB        int     // bytes of each disk
	Runs       int     // of each kind, in turns; medians
	Seal, Bare float64 // seconds
	Recovery   float64 // seconds of Seal that recovery keyslot, token and check take
}

// rate returns MiB per second.
func (s *sealing) rate(seconds float64) float64 { return float64(s.MiB) / seconds }

// The disks that are encrypted: large enough that what happens once does not
// decide.
const (
	sealingMiB  = 2048
	sealingRuns = 3
)

func (f *figures) measureInPlace(ctx context.Context) (err error) {
	f.sealing, err = measureSealing(ctx, os.TempDir(), sealingMiB, sealingRuns)
	return err
}

func (f *figures) sealingTable(b *strings.Builder) {
	s := f.sealing
	fmt.Fprintf(b, "`go run ./qemu/bench -sealing`: a filesystem of %d MiB, half full, is encrypted in place, in a file on the host, in turns by `seal`'s own code and by `cryptsetup reencrypt` alone; medians of %d. "+
		"Beside the data, `seal` saves the head, flushes, makes the recovery keyslot (argon2id), writes the token, and opens the volume as a boot will.\n\n", s.MiB, s.Runs)
	b.WriteString("| | seconds | MiB/s | ratio |\n|---|---|---|---|\n")
	fmt.Fprintf(b, "| `seal` | %.2f | %.0f | %.2f × |\n", s.Seal, s.rate(s.Seal), s.Seal/s.Bare)
	fmt.Fprintf(b, "| of that, recovery keyslot, token and check | %.2f | | |\n", s.Recovery)
	fmt.Fprintf(b, "| `cryptsetup reencrypt` alone | %.2f | %.0f | 1.00 × |\n", s.Bare, s.rate(s.Bare))
}

// measureSealing encrypts equal disks, files in a folder of dir, in turns with
// seal's own code and with cryptsetup alone. A disk is mib MiB of ext4, of which a half
// is random data.
func measureSealing(ctx context.Context, dir string, mib, runs int) (s *sealing, err error) {
	dir, err = os.MkdirTemp(dir, "sealing-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tree := disk.Tree{Sys: filepath.Join(dir, "sys"), Dev: filepath.Join(dir, "dev")}
	original := filepath.Join(dir, "original")
	if err := makeOriginal(ctx, dir, original, mib); err != nil {
		return nil, err
	}
	s = &sealing{MiB: mib, Runs: runs}
	var seals, bares, rests []float64
	for range runs {
		sealed, rest, err := sealOnce(ctx, tree, original, dir)
		if err != nil {
			return nil, err
		}
		bare, err := bareOnce(ctx, original, filepath.Join(tree.Dev, "vda"))
		if err != nil {
			return nil, err
		}
		seals, rests, bares = append(seals, sealed), append(rests, rest), append(bares, bare)
	}
	s.Seal, s.Recovery, s.Bare = middle(seals), middle(rests), middle(bares)
	return s, nil
}

func middle(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// makeOriginal makes a filesystem of mib MiB, and what sysfs says of a disk
// with it.
func makeOriginal(ctx context.Context, dir, path string, mib int) error {
	data, sys := filepath.Join(dir, "data"), filepath.Join(dir, "sys/block/vda")
	for _, d := range []string{data, sys, filepath.Join(dir, "sys/class/block"), filepath.Join(dir, "dev")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(data, "random"))
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.Reader, int64(mib)<<19)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	fs := fmt.Sprintf("%dM", mib-sealingTail>>20)
	if out, err := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-d", data, path, fs).CombinedOutput(); err != nil {
		return fmt.Errorf("mke2fs: %w: %s", err, out)
	}
	if err := os.Truncate(path, int64(mib)<<20); err != nil {
		return err
	}
	for name, text := range map[string]string{"size": fmt.Sprintln(mib << 11), "ro": "0\n", "serial": "BENCH\n"} {
		if err := os.WriteFile(filepath.Join(sys, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return os.Symlink(sys, filepath.Join(dir, "sys/class/block/vda"))
}

// sealOnce seals a fresh copy and returns the seconds of all, and those after the
// encryption itself.
func sealOnce(ctx context.Context, tree disk.Tree, original, dir string) (all, rest float64, err error) {
	if err := copyDisk(original, filepath.Join(tree.Dev, "vda")); err != nil {
		return 0, 0, err
	}
	work, err := os.MkdirTemp(dir, "work-")
	if err != nil {
		return 0, 0, err
	}
	dek, recovery := secret.Random(32), secret.Random(32)
	defer dek.Wipe()
	defer recovery.Wipe()
	const device = "bench"
	v := snapshot.Volume{Name: "root", UUID: snapshot.VolumeUUID(device, "root"), Use: "root", Need: "required",
		Factory: &snapshot.Factory{Way: snapshot.WayInPlace, Disk: "BENCH"}}
	start := time.Now()
	m := &disk.Maker{Tree: tree, Dir: work, Recovery: recovery}
	jobs, err := m.Plan(ctx, []snapshot.Volume{v})
	if err != nil {
		return 0, 0, err
	}
	if err := m.Make(ctx, dek, jobs[0]); err != nil {
		return 0, 0, err
	}
	made := time.Now()
	if err := m.Seal(ctx, dek, device, jobs[0], false); err != nil {
		return 0, 0, err
	}
	return time.Since(start).Seconds(), time.Since(made).Seconds(), nil
}

// bareOnce does to a fresh copy what seal does, with one run of cryptsetup.
func bareOnce(ctx context.Context, original, path string) (float64, error) {
	if err := copyDisk(original, path); err != nil {
		return 0, err
	}
	start := time.Now()
	cmd := exec.CommandContext(ctx, "cryptsetup", "reencrypt", "--encrypt", "--batch-mode", "--type", "luks2", "--cipher", luks2.CipherXTS,
		"--key-size", "512", "--sector-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--hash", "sha256",
		"--reduce-device-size", fmt.Sprintf("%dM", sealingTail>>20), "--force-offline-reencrypt", "--key-file", "-", path)
	cmd.Stdin = strings.NewReader("a passphrase of the bench, no secret")
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("cryptsetup: %w: %s", err, out)
	}
	return time.Since(start).Seconds(), nil
}

// copyDisk makes an equal file and has the kernel write it out, so that neither
// kind of run pays for the copy.
func copyDisk(from, to string) error {
	_ = os.Remove(to)
	if out, err := exec.Command("cp", "--sparse=never", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	f, err := os.OpenFile(to, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

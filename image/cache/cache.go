// Package cache keeps the slow artefacts of the build (kernel, Debian root,
// compiled images) in one ignored folder, each under a key made from its
// inputs.
//
// An entry is built in a temporary folder, listed with its sizes in a stamp
// file and only then renamed into place: a build that was cut short leaves
// nothing that looks like an entry, and an entry that lost or truncated a file
// later is found by its stamp and built again. The cache is for one machine
// and its owner; it does not protect against somebody who can write to it.
package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stampName = ".ok"
	keepOld   = 3             // older entries of one name that are kept beside the newest
	inUse     = 3 * time.Hour // an entry that was used since then may be another process's
	module    = "module github.com/landfall-project/landfall"
)

// Cache is a folder of entries.
type Cache struct {
	root string
}

// Open returns the cache in dir and makes the folder if it is missing.
func Open(dir string) (*Cache, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cache folder %s: %w", dir, err)
	}
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return nil, fmt.Errorf("make cache folder: %w", err)
	}
	return &Cache{root: abs}, nil
}

// RepoRoot finds the folder that holds this module's go.mod, from the working
// directory upwards.
func RepoRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), module+"\n") {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod of landfall in this folder or above: run this inside the repository")
		}
		dir = up
	}
}

// OpenDefault opens .cache at the repository's root.
func OpenDefault() (*Cache, error) {
	root, err := RepoRoot()
	if err != nil {
		return nil, err
	}
	return Open(filepath.Join(root, ".cache"))
}

// Key hashes inputs into a key. Each input is length-prefixed, so that two
// lists never run into one another.
func Key(inputs ...string) string {
	h := sha256.New()
	for _, in := range inputs {
		fmt.Fprintf(h, "%d:%s", len(in), in)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// Make returns the folder of the entry name under key. If it is missing or
// damaged, build fills an empty temporary folder, which then becomes the
// entry. Two processes that want the same name take turns.
func (c *Cache) Make(ctx context.Context, name, key string, build func(ctx context.Context, dir string) error) (string, error) {
	unlock, err := c.lock(name)
	if err != nil {
		return "", err
	}
	defer unlock()
	dir := filepath.Join(c.root, name+"-"+key)
	if Valid(dir) {
		now := time.Now()
		// The time of last use orders the entries for pruning; failing to set it is harmless.
		_ = os.Chtimes(dir, now, now)
		return dir, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("remove damaged cache entry: %w", err)
	}
	if err := c.removeHalfBuilt(name); err != nil {
		return "", fmt.Errorf("remove half-built cache entry: %w", err)
	}
	tmp := dir + ".tmp"
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return "", err
	}
	if err := build(ctx, tmp); err != nil {
		return "", errors.Join(fmt.Errorf("build %s: %w", name, err), os.RemoveAll(tmp))
	}
	if err := stamp(tmp); err != nil {
		return "", fmt.Errorf("stamp %s: %w", name, err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return "", fmt.Errorf("publish cache entry: %w", err)
	}
	return dir, c.prune(name, dir)
}

// removeHalfBuilt removes what builds of the name left that were cut off, of
// whatever key. The caller holds its lock, so none of them goes on.
func (c *Cache) removeHalfBuilt(name string) error {
	dirs, err := filepath.Glob(filepath.Join(c.root, name+"-????????????????.tmp"))
	for _, dir := range dirs {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// Valid reports whether dir is a complete entry: its stamp is there and every
// file it lists still has the size it had.
func Valid(dir string) bool {
	want, err := os.ReadFile(filepath.Join(dir, stampName))
	if err != nil || len(want) == 0 {
		return false
	}
	got, err := listing(dir)
	return err == nil && got == string(want)
}

func (c *Cache) lock(name string) (func(), error) {
	f, err := os.OpenFile(filepath.Join(c.root, name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open cache lock: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return func() { _ = f.Close() }, nil // closing drops the lock
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
		}
	}
}

// stamp makes the entry's files durable, then writes the stamp.
func stamp(dir string) error {
	list, err := listing(dir)
	if err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	// One syncfs instead of an fsync per file: a kernel tree has thousands.
	err = errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return os.WriteFile(filepath.Join(dir, stampName), []byte(list), 0o644)
}

// listing names every regular file under dir with its size, one a line.
func listing(dir string) (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || rel == stampName {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(&b, "%d %s\n", info.Size(), rel)
		return err
	})
	return b.String(), err
}

// prune removes the entries of name that were used least recently, but none
// that somebody may be reading.
func (c *Cache) prune(name, current string) error {
	dirs, err := filepath.Glob(filepath.Join(c.root, name+"-????????????????"))
	if err != nil {
		return err
	}
	used := map[string]time.Time{}
	for _, d := range dirs {
		if info, err := os.Stat(d); err == nil && d != current {
			used[d] = info.ModTime()
		}
	}
	old := make([]string, 0, len(used))
	for d := range used {
		old = append(old, d)
	}
	slices.SortFunc(old, func(a, b string) int { return used[b].Compare(used[a]) })
	for i, d := range old {
		if i >= keepOld && time.Since(used[d]) > inUse {
			err = errors.Join(err, os.RemoveAll(d))
		}
	}
	return err
}

// CopyFile copies src to dst and keeps holes as holes, which disk images are
// full of. The copy replaces dst only when it is complete.
func CopyFile(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := dst + ".part"
	out, err := os.Create(tmp)
	if err != nil {
		return err
	}
	if err := errors.Join(copySparse(out, in), out.Close()); err != nil {
		return errors.Join(fmt.Errorf("copy %s: %w", src, err), os.Remove(tmp))
	}
	return os.Rename(tmp, dst)
}

func copySparse(out, in *os.File) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	for pos := int64(0); pos < info.Size(); {
		data, err := unix.Seek(int(in.Fd()), pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(in.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, data), io.NewSectionReader(in, data, hole-data)); err != nil {
			return err
		}
		pos = hole
	}
	return nil
}

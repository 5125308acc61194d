package fleetdir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// unfinished is how a folder is called while it is being made.
const unfinished = ".kekctl-init-*"

// build makes a new folder beside dir. An empty dir is kept, since it may be a
// mount point: then the new folder is inside, and its entries move up.
func build(ctx context.Context, dir string, m maker) (err error) {
	parent := filepath.Dir(filepath.Clean(dir))
	if err := errors.Join(removeStale(parent), removeStale(dir)); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	exists := err == nil
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s is a file: name a folder that is new or empty", dir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case len(entries) > 0:
		return fmt.Errorf("%s is not empty; a region's keys are never overwritten", dir)
	}
	if exists {
		parent = dir
	}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	if m.dir, err = os.MkdirTemp(parent, unfinished); err != nil {
		return err
	}
	mine, err := claim(m.dir, syscall.LOCK_SH)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(m.dir), mine.Close()) }()
	if err := m.all(ctx); err != nil {
		return err
	}
	if !exists {
		return os.Rename(m.dir, dir)
	}
	for _, name := range []string{gitignore, "offline", "public", "agents", "members"} {
		if err := os.Rename(filepath.Join(m.dir, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// claim locks a folder that is being made, for as long as this process lives.
func claim(dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return f, nil
}

// removeStale removes what an init that was killed left in a folder: keys that
// nobody uses. One that is under way holds a lock on its own.
func removeStale(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, unfinished))
	if err != nil {
		return err
	}
	for _, path := range left {
		f, err := claim(path, syscall.LOCK_EX)
		if err != nil {
			continue // somebody's, or not ours to open
		}
		if err := errors.Join(os.RemoveAll(path), f.Close()); err != nil {
			return fmt.Errorf("remove what an earlier init left behind: %w", err)
		}
	}
	return nil
}

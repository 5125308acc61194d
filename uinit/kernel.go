package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/bootentry"
	"github.com/landfall-project/landfall/pkg/handover"
	"github.com/landfall-project/landfall/pkg/report"
)

// openRoot mounts the root and looks for what to boot on it.
func (m *machine) openRoot(device string, c *carried) (*bootentry.Entry, error) {
	if c.Policy.KernelSignature {
		p := report.Errorf(report.BootKernel, "the slice demands a signed boot entry, which this image cannot check")
		p.Do = "boot an image that checks signatures, or amend the slice's policy"
		return nil, p
	}
	if err := mountRoot(device); err != nil {
		return nil, err
	}
	root, err := bootentry.OpenRoot(rootDir)
	if err != nil {
		return nil, report.Errorf(report.BootNoEntry, "%w", err)
	}
	defer root.Close()
	entry, err := bootentry.Find(root, c.Boot.Entry)
	if err != nil {
		return nil, report.Errorf(report.BootNoEntry, "%w", err)
	}
	m.logf("boot entry %s: %s", entry.Title, entry.Kernel)
	return entry, nil
}

// memory is a file in memory: what was measured in it is what is loaded.
type memory struct {
	*os.File
	size int64
}

func newMemory(name string) (*memory, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory for the %s: %w", name, err)
	}
	return &memory{File: os.NewFile(uintptr(fd), name)}, nil
}

// take appends a file of the root and returns its digest.
func (f *memory) take(root *bootentry.Root, name string) ([32]byte, error) {
	src, err := root.Open(name)
	if err != nil {
		return [32]byte{}, err
	}
	defer src.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f.File, h), src)
	f.size += n
	if err != nil {
		return [32]byte{}, fmt.Errorf("read %s: %w", name, err)
	}
	// The page cache has no further use for it. A kernel that keeps it anyway
	// is only slower in a small machine.
	_ = unix.Fadvise(int(src.Fd()), 0, 0, unix.FADV_DONTNEED)
	return [32]byte(h.Sum(nil)), nil
}

// wipe overwrites the file, which may hold passphrases, and frees it.
func (f *memory) wipe(from int64) error {
	zero := make([]byte, 64<<10)
	for at := from; at < f.size; at += int64(len(zero)) {
		if _, err := f.WriteAt(zero[:min(int64(len(zero)), f.size-at)], at); err != nil {
			return errors.Join(fmt.Errorf("wipe the handover: %w", err), f.Close())
		}
	}
	return f.Close()
}

// loadKernel reads, measures and loads the boot entry, with the volumes'
// passphrases behind its initrd.
func loadKernel(t *trust, entry *bootentry.Entry, extra string, vols []handover.Volume) error {
	cmdline, err := handover.Cmdline(entry.Cmdline, extra, vols)
	if err != nil {
		return report.Errorf(report.BootNoEntry, "%w", err)
	}
	root, err := bootentry.OpenRoot(rootDir)
	if err != nil {
		return report.Errorf(report.BootKernel, "%w", err)
	}
	defer root.Close()
	kernel, kernelDigest, err := readKernel(root, entry.Kernel)
	if err != nil {
		return report.Errorf(report.BootKernel, "%w", err)
	}
	defer kernel.Close()
	initrd, initrdDigest, err := readInitrd(root, entry.Initrds)
	if err != nil {
		return report.Errorf(report.BootInitrd, "%w", err)
	}
	plain := initrd.size
	err = func() error {
		if err := t.measureBoot(kernelDigest, initrdDigest, sha256.Sum256([]byte(cmdline))); err != nil {
			return err
		}
		if err := appendHandover(initrd, vols); err != nil {
			return report.Errorf(report.BootInitrd, "%w", err)
		}
		// Kernel and initrd are about to be in memory three times.
		debug.FreeOSMemory()
		if err := unix.KexecFileLoad(int(kernel.Fd()), int(initrd.Fd()), cmdline, 0); err != nil {
			return report.Errorf(report.BootKexec, "kexec_file_load %s: %w", entry.Kernel, err)
		}
		return nil
	}()
	return errors.Join(err, initrd.wipe(plain))
}

func readKernel(root *bootentry.Root, name string) (*memory, [32]byte, error) {
	f, err := newMemory("kernel")
	if err != nil {
		return nil, [32]byte{}, err
	}
	digest, err := f.take(root, name)
	if err == nil {
		err = bootentry.CheckKernel(f, f.size)
	}
	if err != nil {
		return nil, digest, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	return f, digest, nil
}

// readInitrd joins the entry's initrds, as a boot loader would, and returns the
// digest of the whole. An entry without one is the handover alone.
func readInitrd(root *bootentry.Root, names []string) (*memory, [32]byte, error) {
	f, err := newMemory("initrd")
	if err != nil {
		return nil, [32]byte{}, err
	}
	whole := sha256.New()
	for _, name := range names {
		start := f.size
		digest, err := f.take(root, name)
		if err == nil {
			err = f.checkArchive(start)
		}
		if err != nil {
			return nil, [32]byte{}, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
		}
		whole.Write(digest[:])
		if err := f.pad(); err != nil {
			return nil, [32]byte{}, errors.Join(err, f.Close())
		}
		if len(names) == 1 {
			return f, digest, nil
		}
	}
	return f, [32]byte(whole.Sum(nil)), nil
}

func (f *memory) checkArchive(start int64) error {
	magic := make([]byte, min(16, f.size-start))
	if _, err := f.ReadAt(magic, start); err != nil && len(magic) > 0 {
		return err
	}
	return bootentry.CheckInitrd(magic)
}

// pad to 4 bytes: the kernel wants each archive to begin there.
func (f *memory) pad() error {
	n, err := f.Write(make([]byte, -f.size&3))
	f.size += int64(n)
	return err
}

func appendHandover(f *memory, vols []handover.Volume) error {
	archive, err := handover.Initrd(vols)
	if err != nil {
		return err
	}
	defer archive.Wipe()
	n, err := f.Write(archive.Expose())
	f.size += int64(n)
	return err
}

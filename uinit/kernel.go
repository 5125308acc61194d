package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"syscall"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/bootentry"
	"github.com/landfall-project/landfall/pkg/handover"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// openRoot mounts the root and looks for what to boot on it.
func (m *machine) openRoot(device string, c *carried) (*bootentry.Entry, error) {
	if err := mountRoot(device); err != nil {
		return nil, err
	}
	return m.findEntry(rootDir, c.Boot.Entry)
}

// findEntry looks for the entry of that name, or the default one for "". What
// was passed over or left out is a warning.
func (m *machine) findEntry(dir, name string) (*bootentry.Entry, error) {
	root, err := bootentry.OpenRoot(dir)
	if err != nil {
		return nil, report.Errorf(report.BootNoEntry, "%w", err)
	}
	defer root.Close()
	entry, err := bootentry.Find(root, name)
	if err != nil {
		return nil, report.Errorf(report.BootNoEntry, "%w", err)
	}
	for _, n := range entry.Notes {
		m.warn(report.Errorf(report.BootPassed, "%s", n))
	}
	m.logf("boot entry %s: %s", entry.Title, entry.Kernel)
	return entry, nil
}

// memory is a file in memory: what was measured in it is what is loaded.
type memory struct {
	*os.File
	size  int64
	limit int64 // of what may be taken
}

// memoryLimit is a quarter of the machine's memory, for the kernel and for the
// initrds. More could not be started (Linux lets both together take half), and
// a root that holds more must not fill the memory until something breaks.
func memoryLimit() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("size of the memory: %w", err)
	}
	return int64(info.Totalram) * int64(info.Unit) / 4, nil
}

func newMemory(name string, limit int64) (*memory, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory for the %s: %w", name, err)
	}
	return &memory{File: os.NewFile(uintptr(fd), name), limit: limit}, nil
}

// take appends a file of the root and returns its digest.
func (f *memory) take(root *bootentry.Root, name string) ([32]byte, error) {
	src, err := root.Open(name)
	if err != nil {
		return [32]byte{}, err
	}
	defer src.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f.File, h), io.LimitReader(src, f.limit-f.size+1))
	f.size += n
	if err != nil {
		return [32]byte{}, fmt.Errorf("read %s: %w", name, err)
	}
	if f.size > f.limit {
		return [32]byte{}, fmt.Errorf("more than %d bytes, a quarter of this machine's memory", f.limit)
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

// loadKernel reads, checks, measures and loads the boot entry, with the volumes'
// passphrases behind its initrd. Checked and measured is what lies in memory
// and is loaded, not what a disk may answer the next time.
func (m *machine) loadKernel(t *trust, entry *bootentry.Entry, s *snapshot.Slice, vols []handover.Volume) error {
	cmdline, err := handover.Cmdline(entry.Cmdline, s.Boot.Cmdline, vols)
	if err != nil {
		return report.Errorf(report.BootNoEntry, "%w", err)
	}
	root, err := bootentry.OpenRoot(rootDir)
	if err != nil {
		return report.Errorf(report.BootKernel, "%w", err)
	}
	defer root.Close()
	limit, err := memoryLimit()
	if err != nil {
		return report.Errorf(report.BootKernel, "%w", err)
	}
	kernel, kernelDigest, err := readKernel(root, entry.Kernel, limit)
	if err != nil {
		return report.Errorf(report.BootKernel, "%w", err)
	}
	defer kernel.Close()
	initrd, initrdDigests, err := readInitrd(root, entry.Initrds, limit)
	if err != nil {
		return report.Errorf(report.BootInitrd, "%w", err)
	}
	plain := initrd.size
	err = func() error {
		if err := m.checkSignature(root, bootentry.NewContent(kernelDigest, initrdDigests, entry.Cmdline), s); err != nil {
			return err
		}
		if err := t.measureBoot(kernelDigest, initrdDigest(initrdDigests), sha256.Sum256([]byte(cmdline))); err != nil {
			return err
		}
		if err := appendHandover(initrd, vols); err != nil {
			return report.Errorf(report.BootInitrd, "%w", err)
		}
		// Kernel and initrd are about to be in memory three times.
		debug.FreeOSMemory()
		if err := unix.KexecFileLoad(int(kernel.Fd()), int(initrd.Fd()), cmdline, 0); err != nil {
			return kexecProblem(entry.Kernel, err)
		}
		return nil
	}()
	return errors.Join(err, initrd.wipe(plain))
}

// checkSignature looks for the signature of what was read, where the slice
// demands one.
func (m *machine) checkSignature(root *bootentry.Root, content *bootentry.Content, s *snapshot.Slice) error {
	if !s.Policy.KernelSignature {
		return nil
	}
	var keys []note.Verifier
	for _, text := range s.Boot.Keys {
		key, err := note.NewVerifier(text)
		if err != nil {
			return report.Errorf(report.SliceInvalid, "boot key %q: %w", text, err)
		}
		keys = append(keys, key)
	}
	file, signer, err := bootentry.Check(root, content, keys)
	var mismatch *bootentry.MismatchError
	switch {
	case err == nil:
		m.logf("boot entry: signed by %s (%s)", signer, file)
		return nil
	case errors.As(err, &mismatch):
		return report.Errorf(report.BootChanged, "%w", err)
	}
	return report.Errorf(report.BootUnsigned, "%w", err)
}

// kexecProblem tells a kernel that a locked-down kernel does not trust from
// other refusals: those are the errors of its signature check, and EPERM where
// there is no signature (decision 0015).
func kexecProblem(name string, err error) error {
	for _, errno := range []syscall.Errno{unix.ENOKEY, unix.EKEYREJECTED, unix.EBADMSG, unix.ENODATA, unix.EPERM} {
		if errors.Is(err, errno) {
			p := report.Errorf(report.BootKexec, "kexec_file_load %s: %w: Secure Boot is on, and the signature of this kernel is by no key that the firmware trusts", name, err)
			p.Do = "put the certificate of the kernel's signer into the firmware's db, or have the kernel signed by a key that is in it (docs/images.md)"
			return p
		}
	}
	return report.Errorf(report.BootKexec, "kexec_file_load %s: %w", name, err)
}

func readKernel(root *bootentry.Root, name string, limit int64) (*memory, [32]byte, error) {
	f, err := newMemory("kernel", limit)
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
// digest of each. An entry without one is the handover alone.
func readInitrd(root *bootentry.Root, names []string, limit int64) (*memory, [][32]byte, error) {
	f, err := newMemory("initrd", limit)
	if err != nil {
		return nil, nil, err
	}
	var digests [][32]byte
	for _, name := range names {
		start := f.size
		digest, err := f.take(root, name)
		if err == nil {
			err = f.checkArchive(start)
		}
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
		}
		if err := f.pad(); err != nil {
			return nil, nil, errors.Join(err, f.Close())
		}
		digests = append(digests, digest)
	}
	return f, digests, nil
}

// initrdDigest is what is measured of the initrds: the digest of the only one,
// else that of all digests.
func initrdDigest(digests [][32]byte) [32]byte {
	if len(digests) == 1 {
		return digests[0]
	}
	whole := sha256.New()
	for _, d := range digests {
		whole.Write(d[:])
	}
	return [32]byte(whole.Sum(nil))
}

func (f *memory) checkArchive(start int64) error {
	magic := make([]byte, min(16, f.size-start))
	if _, err := f.ReadAt(magic, start); err != nil && len(magic) > 0 {
		return err
	}
	return bootentry.CheckInitrd(magic)
}

// pad to 4 bytes: the kernel wants each archive to begin there. Four zeros at
// least: an archive in lz4's legacy format does not say where it ends, and the
// kernel takes what follows for its next block, unless that has the size 0
// (lib/decompress_unlz4.c, since Linux 5.9).
func (f *memory) pad() error {
	n, err := f.Write(make([]byte, 4+(-f.size&3)))
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

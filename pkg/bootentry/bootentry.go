// Package bootentry finds what to boot on an unlocked root: a kernel, its
// initrds and a command line.
//
// Boot Loader Specification type 1 entries come first (below /boot/loader or
// /boot/efi/loader), in GRUB's dialect too, then the pairs of kernel and initrd
// that Debian and others keep. The first whose files are all there and whole is
// taken; what was passed over for it is told. All paths are resolved inside the
// root, as chroot would (openat2 with RESOLVE_IN_ROOT): no link leads out of it.
// What is not protected: whoever may write to the root chooses what is booted.
package bootentry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// ErrNone says that the root holds nothing complete to boot, or not the entry
// asked for. The repair: install a kernel package, or correct the slice's entry
// name.
var ErrNone = errors.New("no boot entry")

// Bounds; files beyond them are damaged or hostile.
const (
	maxEntries   = 256
	maxEntrySize = 64 << 10
	maxCmdline   = 4096
)

// Entry is something to boot. Its paths are inside the root.
type Entry struct {
	Name    string // file name of the entry without .conf; "debian" for the links
	Title   string
	Kernel  string
	Initrds []string
	Cmdline string
	// Notes say what was passed over for this entry, and what was left out of
	// it.
	Notes []string

	sortKey, version, machine string
	boot                      string // $BOOT of a loader entry
	foreign                   bool   // of another machine than the root's
	chosen                    bool   // by who administers the root
}

// Root is an open directory in which all paths are resolved.
type Root struct{ dir *os.File }

// OpenRoot opens the mount point of an unlocked root.
func OpenRoot(dir string) (*Root, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the root: %w", err)
	}
	return &Root{dir: f}, nil
}

// Close gives the directory back, so that it can be unmounted.
func (r *Root) Close() error { return r.dir.Close() }

// Open opens a regular file or a directory inside the root for reading.
// Devices, sockets and pipes are refused before they are opened, which may
// block or act.
func (r *Root) Open(name string) (*os.File, error) {
	refuse := func(err error) (*os.File, error) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	// O_PATH finds the file and opens nothing (open(2)).
	place, err := unix.Openat2(int(r.dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return refuse(err)
	}
	defer unix.Close(place)
	var st unix.Stat_t
	if err := unix.Fstat(place, &st); err != nil {
		return refuse(err)
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return refuse(errors.New("not a regular file"))
	}
	// The very file that was looked at, whatever its name means by now.
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", place), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return refuse(err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (r *Root) read(name string, limit int64) (string, error) {
	f, err := r.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return "", fmt.Errorf("read %s: longer than %d bytes", name, limit)
	}
	return string(b), nil
}

func (r *Root) list(dir string) []string {
	f, err := r.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	// A directory that breaks off is used as far as it goes: its entries are
	// checked one by one anyway.
	names, _ := f.Readdirnames(maxEntries)
	slices.Sort(names)
	return names
}

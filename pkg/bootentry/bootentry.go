// Package bootentry finds what to boot on an unlocked root: a kernel, its
// initrds and a command line.
//
// Boot Loader Specification type 1 entries come first (below /boot/loader or
// /boot/efi/loader), then Debian's /vmlinuz and /initrd.img links. All paths
// are resolved inside the root, as chroot would (openat2 with
// RESOLVE_IN_ROOT): no link leads out of it. What is not protected: whoever
// may write to the root chooses what is booted.
package bootentry

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNone says that the root holds nothing to boot, or not the entry asked
// for. The repair: install a kernel package, or correct the slice's entry name.
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

	sortKey, version, machine string
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

func (r *Root) exists(name string) bool {
	f, err := r.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
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

// Find returns the entry of that name (with or without .conf), or the default
// one for "". The error wraps ErrNone when there is none.
func Find(root *Root, name string) (*Entry, error) {
	entries, faults := blsEntries(root)
	if e := debianEntry(root); e != nil {
		entries = append(entries, *e)
	}
	name = strings.TrimSuffix(name, ".conf")
	for i := range entries {
		if name == "" || entries[i].Name == name {
			return &entries[i], nil
		}
	}
	if name != "" {
		return nil, errors.Join(fmt.Errorf("%w named %q among %d", ErrNone, name, len(entries)), errors.Join(faults...))
	}
	return nil, errors.Join(fmt.Errorf("%w: no loader entry, no /vmlinuz and no /boot/vmlinuz-*", ErrNone), errors.Join(faults...))
}

// blsEntries reads type 1 entries, best first. $BOOT is /boot, /boot/efi or
// /efi as far as they are on the root's own file system.
func blsEntries(root *Root) ([]Entry, []error) {
	var entries []Entry
	var faults []error
	for _, boot := range []string{"/boot", "/efi", "/boot/efi"} {
		dir := path.Join(boot, "loader/entries")
		for _, file := range root.list(dir) {
			if !strings.HasSuffix(file, ".conf") {
				continue
			}
			text, err := root.read(path.Join(dir, file), maxEntrySize)
			if err != nil {
				faults = append(faults, err)
				continue
			}
			e, err := parseBLS(strings.TrimSuffix(file, ".conf"), boot, text)
			if err != nil {
				faults = append(faults, err)
				continue
			}
			entries = append(entries, *e)
		}
	}
	slices.SortStableFunc(entries, compare)
	return entries, faults
}

// parseBLS reads one entry (UAPI.1 Boot Loader Specification, "Type #1").
// Later lines of `initrd` and `options` add to earlier ones.
func parseBLS(name, boot, text string) (*Entry, error) {
	e := &Entry{Name: name, Title: name}
	var options []string
	sc := bufio.NewScanner(strings.NewReader(text))
	sc.Buffer(nil, maxEntrySize+1)
	for sc.Scan() {
		key, value, _ := strings.Cut(strings.ReplaceAll(strings.TrimSpace(sc.Text()), "\t", " "), " ")
		value = strings.TrimSpace(value)
		switch key {
		case "title":
			e.Title = value
		case "version":
			e.version = value
		case "sort-key":
			e.sortKey = value
		case "machine-id":
			e.machine = value
		case "linux":
			e.Kernel = path.Join(boot, value)
		case "initrd":
			e.Initrds = append(e.Initrds, path.Join(boot, value))
		case "options":
			options = append(options, value)
		case "efi", "uki", "uki-url":
			return nil, fmt.Errorf("entry %s: starts an EFI program, which kexec cannot", name)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("entry %s: %w", name, err)
	}
	if e.Kernel == "" {
		return nil, fmt.Errorf("entry %s: names no kernel", name)
	}
	e.Cmdline = strings.Join(options, " ")
	if len(e.Cmdline) > maxCmdline {
		return nil, fmt.Errorf("entry %s: command line longer than %d bytes", name, maxCmdline)
	}
	return e, nil
}

// debianEntry is what Debian's kernel packages maintain without a boot loader.
func debianEntry(root *Root) *Entry {
	e := &Entry{Name: "debian", Title: "Debian (/vmlinuz)"}
	for _, pair := range debianPairs(root) {
		if root.exists(pair[0]) {
			e.Kernel = pair[0]
			e.Initrds = []string{pair[1]}
			break
		}
	}
	if e.Kernel == "" {
		return nil
	}
	// systemd's kernel-install keeps the command line here; else the kernel's
	// defaults have to do, with root= from the handover.
	if text, err := root.read("/etc/kernel/cmdline", maxCmdline); err == nil {
		e.Cmdline = strings.Join(strings.Fields(text), " ")
	}
	return e
}

// debianPairs lists kernel and initrd, the preferred ones first.
func debianPairs(root *Root) [][2]string {
	pairs := [][2]string{{"/vmlinuz", "/initrd.img"}, {"/boot/vmlinuz", "/boot/initrd.img"}}
	var versions []string
	for _, name := range root.list("/boot") {
		if v, ok := strings.CutPrefix(name, "vmlinuz-"); ok {
			versions = append(versions, v)
		}
	}
	slices.SortFunc(versions, func(a, b string) int { return compareVersions(b, a) })
	for _, v := range versions {
		pairs = append(pairs, [2]string{"/boot/vmlinuz-" + v, "/boot/initrd.img-" + v})
	}
	return pairs
}

package bootentry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/kcmdline"
)

// maxTried is how many entries a console is told that were tried in vain.
const maxTried = 8

// Find returns the default entry for "": the first whose kernel and initrds are
// all there and whole. Else it is the entry of that name (with or without .conf,
// with or without its boot counter), and no other: those beside it are not even
// read. The error wraps ErrNone when there is none, and says what was tried.
func Find(root *Root, name string) (*Entry, error) {
	var faults, passed []error
	env, err := grubenv(root)
	if err != nil {
		faults = append(faults, err)
	}
	name = strings.TrimSuffix(name, ".conf")
	entries, more := candidates(root, name, env)
	faults = append(faults, more...)
	for i := range entries {
		e := &entries[i]
		if err := e.resolve(root); err != nil {
			passed = append(passed, err)
			continue
		}
		// Who names an entry does not ask about the others.
		if name == "" {
			passed = append(slices.DeleteFunc(faults, func(err error) bool { return errors.Is(err, errOtherLoader) }), passed...)
		}
		var notes []string
		for _, text := range texts(passed) {
			notes = append(notes, "passed over: "+text)
		}
		e.Notes = append(notes, e.Notes...)
		return e, nil
	}
	faults = few(append(passed, faults...), maxTried)
	switch {
	case name != "" && len(passed)+len(more) == 0:
		return nil, errors.Join(fmt.Errorf("%w named %q", ErrNone, name), errors.Join(faults...))
	case len(faults) > 0:
		return nil, errors.Join(fmt.Errorf("%w that is complete", ErrNone), errors.Join(faults...))
	}
	return nil, fmt.Errorf("%w: no loader entry, no /vmlinuz and no /boot/vmlinuz-*", ErrNone)
}

// candidates are the entries to try, the best first; for a name at most one.
func candidates(root *Root, name string, env variables) ([]Entry, []error) {
	files := loaderFiles(root)
	if name == "" {
		entries, faults := blsEntries(root, files, env)
		entries = append(entries, pairs(root, env)...)
		slices.SortStableFunc(entries, func(a, b Entry) int { return a.rank() - b.rank() })
		return entries, faults
	}
	files = named(files, name)
	if len(files) == 0 && name == pairName {
		entries := pairs(root, env)
		return entries[:min(len(entries), 1)], nil
	}
	return blsEntries(root, files, env)
}

// texts are faults as a console is told.
func texts(faults []error) []string {
	var told []string
	for _, err := range few(faults, maxTried) {
		told = append(told, err.Error())
	}
	return told
}

// resolve finds an entry's files, and looks whether they are what they are
// named for.
func (e *Entry) resolve(root *Root) error {
	kernel, err := e.locate(root, e.Kernel, func(f *os.File, size int64) error { return CheckKernel(f, size) })
	if err != nil {
		return fmt.Errorf("entry %s: %w", e.Name, err)
	}
	e.Kernel = kernel
	for i, name := range e.Initrds {
		if e.Initrds[i], err = e.locate(root, name, checkHead); err != nil {
			return fmt.Errorf("entry %s (%s): %w", e.Name, e.Kernel, err)
		}
	}
	return nil
}

// locate returns the first place of a file that holds what it should.
func (e *Entry) locate(root *Root, name string, check func(*os.File, int64) error) (string, error) {
	var missing []string
	var fault error
	for _, place := range e.places(name) {
		switch err := root.check(place, check); {
		case err == nil:
			return place, nil
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, place)
		case fault == nil:
			fault = fmt.Errorf("%s: %w", place, err)
		}
	}
	if fault == nil {
		fault = fmt.Errorf("%s: %w", strings.Join(missing, ", "), fs.ErrNotExist)
	}
	return "", fault
}

// places are the files inside the root that a path of a loader entry may mean.
// It is relative to the file system that holds it (Boot Loader Specification,
// "Type #1"): $BOOT, where that is one of its own. Where it is a folder of the
// root, kernel-install and grub2-mkrelpath write the path itself, below btrfs
// with the root's subvolume in front; kernel-install 252 mixes both in one entry.
func (e *Entry) places(name string) []string {
	if e.boot == "" {
		return []string{name}
	}
	whole := path.Join("/", name)
	places := []string{path.Join(e.boot, name), whole}
	if rest, ok := strings.CutPrefix(whole, subvolume(e.Cmdline)+"/"); ok && "/"+rest != whole {
		places = append(places, "/"+rest)
	}
	// The subvolume may be the file system's default, and named nowhere.
	if i := strings.Index(whole, e.boot+"/"); i > 0 && !slices.Contains(places, whole[i:]) {
		places = append(places, whole[i:])
	}
	return places
}

// subvolume returns the path of the root's subvolume, if the command line names
// one (btrfs(5), subvol=).
func subvolume(cmdline string) string {
	found := ""
	for _, w := range kcmdline.Split(cmdline) {
		if name, value, _ := kcmdline.Param(w); name == "rootflags" {
			for option := range strings.SplitSeq(value, ",") {
				if s, ok := strings.CutPrefix(option, "subvol="); ok {
					found = path.Join("/", s)
				}
			}
		}
	}
	return found
}

// check looks into a regular file.
func (r *Root) check(name string, check func(*os.File, int64) error) error {
	f, err := r.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	return check(f, info.Size())
}

func checkHead(f *os.File, size int64) error {
	head := make([]byte, min(16, size))
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return CheckInitrd(head)
}

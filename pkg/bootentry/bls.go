package bootentry

import (
	"bufio"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/kcmdline"
)

// errOtherLoader marks entries that are not for kexec, which is no fault.
var errOtherLoader = errors.New("starts an EFI program, which kexec cannot")

// architecture is ours, in EFI's words (Boot Loader Specification,
// "architecture").
const architecture = "x64"

// loaderFile is where a type 1 entry is.
type loaderFile struct{ boot, name string } // name without .conf

// loaderFiles lists the type 1 entries. $BOOT is /boot, /boot/efi or /efi as far
// as they are on the root's own file system.
func loaderFiles(root *Root) []loaderFile {
	var found []loaderFile
	for _, boot := range []string{"/boot", "/efi", "/boot/efi"} {
		for _, file := range root.list(path.Join(boot, loaderDir)) {
			if name, ok := strings.CutSuffix(file, ".conf"); ok {
				found = append(found, loaderFile{boot, name})
			}
		}
	}
	return found
}

// loaderDir is where $BOOT has its entries.
const loaderDir = "loader/entries"

// named returns the one file of that name, or none. A boot counter is no part
// of a name, unless somebody asks for a file with just this one; of several
// files, one whose counter has run out is the last.
func named(files []loaderFile, name string) []loaderFile {
	rank := func(f loaderFile) int {
		base, left := counter(f.name)
		switch {
		case f.name == name:
			return 0
		case base != name:
			return 3
		case left != 0:
			return 1
		}
		return 2
	}
	var best []loaderFile
	least := 3
	for i, f := range files {
		if r := rank(f); r < least {
			best, least = files[i:i+1], r
		}
	}
	return best
}

// blsEntries reads type 1 entries, best first.
func blsEntries(root *Root, files []loaderFile, env variables) ([]Entry, []error) {
	var entries []Entry
	var faults []error
	own := machineID(root)
	for _, file := range files {
		text, err := root.read(path.Join(file.boot, loaderDir, file.name+".conf"), maxEntrySize)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		e, err := parseBLS(file.name, file.boot, text, env)
		if err != nil {
			faults = append(faults, fmt.Errorf("entry %s: %w", file.name, err))
			continue
		}
		e.foreign = own != "" && e.of() != "" && e.of() != own
		e.chosen = e.Name == env["saved_entry"]
		entries = append(entries, *e)
	}
	slices.SortStableFunc(entries, compare)
	return entries, faults
}

// parseBLS reads one entry (UAPI.1 Boot Loader Specification, "Type #1"), in
// the specification's own dialect or in GRUB's (grub.go). Lines that begin with
// "#" are comments. Later lines of `initrd` and `options` add to earlier ones.
func parseBLS(name, boot, text string, env variables) (*Entry, error) {
	e := &Entry{Name: name, Title: name, boot: boot}
	var options []string
	x := newExpansion(env)
	var err error
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
		case "architecture":
			if !strings.EqualFold(value, architecture) {
				return nil, fmt.Errorf("is for the architecture %q, this is %s", value, architecture)
			}
		case "linux":
			e.Kernel, err = x.expand(value)
		case "initrd":
			value, err = x.expand(value)
			e.Initrds = append(e.Initrds, strings.Fields(value)...)
		case "options":
			value, err = x.expand(value)
			options = append(options, value)
		case "efi", "uki", "uki-url":
			return nil, errOtherLoader
		}
		if err != nil {
			return nil, err
		}
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	if e.Kernel == "" {
		return nil, errors.New("names no kernel")
	}
	if len(e.Initrds) > MaxInitrds {
		return nil, fmt.Errorf("names %d initrds, at most %d", len(e.Initrds), MaxInitrds)
	}
	return e, e.setCmdline(strings.Join(options, " "), x.faults(name))
}

// setCmdline takes a line's words, less those that systemd could read otherwise
// than the kernel. The notes say what was left out.
func (e *Entry) setCmdline(line string, faults []error) error {
	var words []string
	for _, w := range kcmdline.Split(line) {
		if kcmdline.Ambiguous(w) {
			faults = append(faults, fmt.Errorf("entry %s: %.60q has a ' or a \\ before a quote or blank, which systemd and the kernel read differently: left out", e.Name, w))
			continue
		}
		words = append(words, w)
	}
	e.Notes = texts(faults)
	if e.Cmdline = kcmdline.Join(words); len(e.Cmdline) > maxCmdline {
		return fmt.Errorf("command line longer than %d bytes", maxCmdline)
	}
	return nil
}

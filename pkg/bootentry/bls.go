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

// blsEntries reads type 1 entries, best first. $BOOT is /boot, /boot/efi or
// /efi as far as they are on the root's own file system.
func blsEntries(root *Root, env variables) ([]Entry, []error) {
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
			e, err := parseBLS(strings.TrimSuffix(file, ".conf"), boot, text, env)
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

// parseBLS reads one entry (UAPI.1 Boot Loader Specification, "Type #1"), in
// the specification's own dialect or in GRUB's (grub.go). Lines that begin with
// "#" are comments. Later lines of `initrd` and `options` add to earlier ones.
func parseBLS(name, boot, text string, env variables) (*Entry, error) {
	e := &Entry{Name: name, Title: name, boot: boot}
	var options []string
	var unknown []string
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
				return nil, fmt.Errorf("entry %s: is for the architecture %q, this is %s", name, value, architecture)
			}
		case "linux":
			e.Kernel = env.expand(value, &unknown)
		case "initrd":
			e.Initrds = append(e.Initrds, strings.Fields(env.expand(value, &unknown))...)
		case "options":
			options = append(options, env.expand(value, &unknown))
		case "efi", "uki", "uki-url":
			return nil, fmt.Errorf("entry %s: %w", name, errOtherLoader)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("entry %s: %w", name, err)
	}
	if e.Kernel == "" {
		return nil, fmt.Errorf("entry %s: names no kernel", name)
	}
	e.Cmdline = kcmdline.Normalize(strings.Join(options, " "))
	if len(e.Cmdline) > maxCmdline {
		return nil, fmt.Errorf("entry %s: command line longer than %d bytes", name, maxCmdline)
	}
	e.note(unknown)
	return e, nil
}

package bootentry

import (
	"strconv"
	"strings"
)

// compare orders entries as the specification wants ("Sorting"): those with a
// sort key first, by key, machine and version, newest first; then by file
// name. Entries whose boot counter has run out ("+0") come last, and before them
// those of another machine: an image that was installed elsewhere brings them
// along, and their order beside our own is that of random numbers.
func compare(a, b Entry) int {
	if c := last(exhausted(a.Name), exhausted(b.Name)); c != 0 {
		return c
	}
	if c := last(a.foreign, b.foreign); c != 0 {
		return c
	}
	if c := last(a.sortKey == "", b.sortKey == ""); c != 0 {
		return c
	}
	if a.sortKey != "" {
		if c := strings.Compare(a.sortKey, b.sortKey); c != 0 {
			return c
		}
		if c := strings.Compare(a.machine, b.machine); c != 0 {
			return c
		}
		if c := compareVersions(b.version, a.version); c != 0 {
			return c
		}
	}
	return compareVersions(b.Name, a.Name)
}

// last compares two entries of which one may come last.
func last(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// rank is an entry's place among all, pairs too: first the one that was chosen
// (GRUB's saved_entry: grubby(8), grub2-set-default(8)); last those without an
// initrd, by which nobody opens an encrypted root, unless the kernel has one built
// in.
func (e *Entry) rank() int {
	switch {
	case e.chosen:
		return 0
	case len(e.Initrds) > 0:
		return 1
	}
	return 2
}

// of is the machine ID of an entry: what it says itself, or what its name begins
// with (kernel-install(8)); "" if neither tells.
func (e *Entry) of() string {
	if e.machine != "" {
		return e.machine
	}
	id, _, _ := strings.Cut(e.Name, "-")
	return machine(id)
}

// machineID is the root's own (machine-id(5)); "" if it has none yet.
func machineID(root *Root) string {
	text, err := root.read("/etc/machine-id", 64)
	if err != nil {
		return "" // then every entry is as good as another
	}
	return machine(strings.TrimSpace(text))
}

// machine returns what is a machine ID, and "" for all else.
func machine(id string) string {
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return ""
	}
	return id
}

func exhausted(name string) bool {
	_, left := counter(name)
	return left == 0
}

// counter takes a boot counter off an entry's name: "+LEFT" or "+LEFT-DONE"
// (systemd, "Automatic Boot Assessment"). left is -1 where there is none.
func counter(name string) (base string, left int) {
	i := strings.LastIndexByte(name, '+')
	if i < 0 {
		return name, -1
	}
	tries, done, tried := strings.Cut(name[i+1:], "-")
	left, ok := count(tries)
	if _, doneOK := count(done); !ok || tried && !doneOK {
		return name, -1
	}
	return name[:i], left
}

// count reads decimal digits, as many as a counter may have.
func count(s string) (int, bool) {
	if digits, rest := span(s, isDigit); digits == "" || rest != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

// compareVersions orders version strings (UAPI.10 Version Format
// Specification): numbers by value, letters by byte, "~" before anything,
// "-" before "^" before ".".
func compareVersions(a, b string) int {
	for {
		a, b = strings.TrimLeftFunc(a, separator), strings.TrimLeftFunc(b, separator)
		if c, done := mark(a, b); c != 0 || done {
			return c
		}
		switch {
		case len(a) > 0 && len(b) > 0 && special(a[0]) && a[0] == b[0]:
			a, b = a[1:], b[1:]
			continue
		case digit(a) || digit(b):
			x, restA := span(a, isDigit)
			y, restB := span(b, isDigit)
			if c := compareNumbers(x, y); c != 0 {
				return c
			}
			a, b = restA, restB
		default:
			x, restA := span(a, isLetter)
			y, restB := span(b, isLetter)
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			a, b = restA, restB
		}
	}
}

// mark compares where one of the strings has ended or holds a special sign.
func mark(a, b string) (int, bool) {
	for _, sign := range []byte{'~', 0, '-', '^', '.'} {
		x, y := at(a) == sign, at(b) == sign
		switch {
		case x && y && sign == 0:
			return 0, true
		case x && y:
			return 0, false
		case x:
			return -1, true
		case y:
			return 1, true
		}
	}
	return 0, false
}

func at(s string) byte {
	if s == "" {
		return 0
	}
	return s[0]
}

func special(c byte) bool  { return c == '~' || c == '-' || c == '^' || c == '.' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func digit(s string) bool  { return s != "" && isDigit(s[0]) }
func separator(r rune) bool {
	return r >= 0x80 || !special(byte(r)) && !isDigit(byte(r)) && !isLetter(byte(r))
}

func span(s string, of func(byte) bool) (string, string) {
	i := 0
	for i < len(s) && of(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

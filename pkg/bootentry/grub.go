package bootentry

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// GRUB's dialect of loader entries: what it puts into its menu is a script, so
// several initrds stand on one line, and $NAME is a variable of GRUB's
// (blscfg.c in Fedora's GRUB, blsuki.c since 2.14). The kernel knows none. Of
// GRUB's variables only those can be known here that it keeps in grubenv; the
// others are made by the script grub.cfg, which nobody runs.

// variables are GRUB's, by name.
type variables map[string]string

// variable finds the first $NAME or ${NAME}: its place, and its name. A "$"
// before anything else is none, as in memmap=64K$0x18690000.
func variable(text string) (start, end int, name string) {
	for i := 0; i < len(text); i++ {
		if text[i] != '$' {
			continue
		}
		rest, braced := strings.CutPrefix(text[i+1:], "{")
		n := 0
		for n < len(rest) && (rest[n] == '_' || isLetter(rest[n]) || n > 0 && isDigit(rest[n])) {
			n++
		}
		switch {
		case n == 0:
		case !braced:
			return i, i + 1 + n, rest[:n]
		case n < len(rest) && rest[n] == '}':
			return i, i + 3 + n, rest[:n]
		}
	}
	return 0, 0, ""
}

// grubWord returns the name of the first variable in a text.
func grubWord(text string) string {
	_, _, name := variable(text)
	return name
}

// expansion puts variables' values into the texts of one entry.
type expansion struct {
	env     variables
	left    int      // bytes that all texts together may still come to
	unknown []string // names that env does not hold, in order, once each
	seen    map[string]bool
}

func newExpansion(env variables) *expansion {
	return &expansion{env: env, left: maxEntrySize, seen: map[string]bool{}}
}

// expand puts values in the place of variables, and nothing in the place of
// unknown ones, as GRUB does. Values may hold variables of their own: blscfg
// puts in the first, GRUB's shell the second, and there is no third. A fault
// when an entry would come to more than one may have: values can multiply.
func (x *expansion) expand(text string) (string, error) {
	longest := len(text)
	for _, env := range []variables{x.env, x.env, nil} {
		var done strings.Builder
		for {
			start, end, name := variable(text)
			if name == "" {
				break
			}
			value, ok := env[name]
			if !ok {
				x.leaveOut(name)
			}
			done.WriteString(text[:start])
			done.WriteString(value)
			text = text[end:]
			if done.Len()+len(text) > x.left {
				return "", fmt.Errorf("with GRUB's variables longer than %d bytes", maxEntrySize)
			}
		}
		text = done.String() + text
		longest = max(longest, len(text))
	}
	x.left -= longest
	return text, nil
}

func (x *expansion) leaveOut(name string) {
	if !x.seen[name] {
		x.seen[name] = true
		x.unknown = append(x.unknown, name)
	}
}

// faults say which variables were left out of the entry.
func (x *expansion) faults(entry string) []error {
	var faults []error
	for _, name := range x.unknown {
		faults = append(faults, fmt.Errorf("entry %s: $%s is a variable of GRUB's that grubenv does not hold: left out", entry, name))
	}
	return faults
}

// grubenvHead begins GRUB's environment block (lib/envblk.h).
const grubenvHead = "# GRUB Environment Block\n"

// maxGrubenv is the size of every environment block that grub-editenv makes
// (DEFAULT_ENVBLK_SIZE).
const maxGrubenv = 1024

// grubenv reads the environment block where Fedora or Debian keep it. Its
// absence is no error.
func grubenv(root *Root) (variables, error) {
	for _, name := range []string{"/boot/grub2/grubenv", "/boot/grub/grubenv"} {
		text, err := root.read(name, maxGrubenv)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		body, ok := strings.CutPrefix(text, grubenvHead)
		if !ok {
			return nil, fmt.Errorf("read %s: no environment block of GRUB's", name)
		}
		return parseGrubenv(body), nil
	}
	return nil, nil
}

// parseGrubenv reads the lines NAME=VALUE. In a value a backslash takes the next
// byte as it is, be it a backslash or the end of the line; lines that begin with
// "#" are comments or padding (GRUB's lib/envblk.c).
func parseGrubenv(text string) variables {
	env := variables{}
	for text != "" {
		var line []byte
		i := 0
		for ; i < len(text) && text[i] != '\n'; i++ {
			if text[i] == '\\' && i+1 < len(text) && text[0] != '#' {
				i++
			}
			line = append(line, text[i])
		}
		if name, value, ok := strings.Cut(string(line), "="); ok && text[0] != '#' {
			env[name] = value
		}
		text = text[min(i+1, len(text)):]
	}
	return env
}

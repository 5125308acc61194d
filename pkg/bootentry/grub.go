package bootentry

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
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

// expand puts values in the place of variables, and nothing in the place of
// unknown ones, as GRUB does, whose names it adds to unknown. Values may hold
// variables of their own: blscfg puts in the first, GRUB's shell the second, and
// there is no third.
func (v variables) expand(text string, unknown *[]string) string {
	for _, env := range []variables{v, v, nil} {
		var done strings.Builder
		for {
			start, end, name := variable(text)
			if name == "" {
				break
			}
			value, ok := env[name]
			if !ok && !slices.Contains(*unknown, name) {
				*unknown = append(*unknown, name)
			}
			done.WriteString(text[:start] + value)
			text = text[end:]
		}
		text = done.String() + text
	}
	return text
}

// note says which words were left out of the entry.
func (e *Entry) note(unknown []string) {
	for _, name := range unknown {
		e.Notes = append(e.Notes, fmt.Sprintf("entry %s: $%s is a variable of GRUB's that grubenv does not hold: left out", e.Name, name))
	}
}

// grubenvHead begins GRUB's environment block (lib/envblk.h).
const grubenvHead = "# GRUB Environment Block\n"

// grubenv reads the environment block where Fedora or Debian keep it. Its
// absence is no error.
func grubenv(root *Root) (variables, error) {
	for _, name := range []string{"/boot/grub2/grubenv", "/boot/grub/grubenv"} {
		text, err := root.read(name, maxEntrySize)
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

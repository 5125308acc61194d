// Package filestest hands every kind of file of the product, and of what people
// have lying about beside it, to a command, and judges what the command says.
// Only tests import it.
package filestest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/landfall-project/landfall/pkg/printable"
)

// Case is one place for a file.
type Case struct {
	// Command is a command line without the program's name; % stands for the file.
	Command string
	// Place is the file's path instead, where no argument names it: each kind is
	// there in turn, and then again what was there before.
	Place string
	// Takes and Skip are names of kinds. Those that are taken give no error; those
	// that are skipped are not tried.
	Takes, Skip string
	// Says is what the message about each other kind must hold, as it tells the
	// repair; a | stands between alternatives. A file that is too long, or that the
	// system does not let anybody read, needs none.
	Says string
	// Listed is for a command that goes on, and tells of the file in its output.
	Listed bool
}

// Run runs a command. What it prints goes to out.
type Run func(args []string, out *strings.Builder) error

// Set is a folder with a file of each kind.
type Set struct {
	t       testing.TB
	kinds   []string
	secrets map[string]string // of a part of a secret, the file that it is in
}

// Names of kinds that the system itself refuses to read as a file.
const (
	folder     = "folder"
	missing    = "missing"
	loop       = "loop"
	unreadable = "unreadable"
)

func system() []string { return []string{folder, missing, loop, unreadable} }

// Sweep runs the command of each case with each kind of file: it takes what it
// is for. Of all else it names the file, says what is wrong and what to do, in a
// few lines, in words that are no parser's; it changes nothing; and nothing that
// is secret in any file is in what it prints.
func (s *Set) Sweep(run Run, cases []Case) {
	s.t.Helper()
	for _, c := range cases {
		for _, known := range strings.Fields(c.Takes + " " + c.Skip) {
			if !slices.Contains(s.kinds, known) {
				s.t.Errorf("%s: there is no kind %s", c.Command, known)
			}
		}
		for _, kind := range s.kinds {
			if slices.Contains(strings.Fields(c.Skip), kind) {
				continue
			}
			for _, fault := range s.try(run, c, kind) {
				s.t.Errorf("%s, %s of kind %s: %s", c.Command, c.name(kind), kind, fault)
			}
		}
	}
}

// name is what the command knows the file by.
func (c Case) name(kind string) string {
	if c.Place != "" {
		return c.Place
	}
	return kind
}

func (s *Set) try(run Run, c Case, kind string) (faults []string) {
	if c.Place != "" {
		back := s.exchange(c.Place, kind)
		defer back()
	}
	before := s.state()
	var out strings.Builder
	err := run(strings.Fields(strings.ReplaceAll(c.Command, "%", kind)), &out)
	text := out.String()
	if err != nil {
		text += err.Error()
	}
	taken := slices.Contains(strings.Fields(c.Takes), kind)
	faults = s.printed(text)
	switch {
	case taken && err != nil:
		faults = append(faults, "refused: "+err.Error())
	case taken && c.Listed && says(c.Says, text):
		faults = append(faults, "told of: "+text)
	case taken:
		s.tidy(before)
		return faults
	case err == nil && !c.Listed:
		s.tidy(before)
		return append(faults, "taken")
	}
	if c.Listed && err != nil {
		faults = append(faults, "the command ends: "+err.Error())
	}
	if !taken {
		faults = append(faults, c.message(kind, text, err)...)
	}
	if diff := difference(before, s.state()); diff != "" {
		faults = append(faults, "although it was refused: "+diff)
	}
	return faults
}

// message judges what was said of a wrong file.
func (c Case) message(kind, text string, err error) (faults []string) {
	bad := func(what string) { faults = append(faults, what+": "+text) }
	if !strings.Contains(text, c.name(kind)) {
		bad("the message does not name the file")
	}
	if !slices.Contains(system(), kind) && !says(c.Says+"|has more than|longer than", text) {
		bad(fmt.Sprintf("the message does not say %q", c.Says))
	}
	for _, raw := range []string{" json:", "Go value", "Go struct", "cannot unmarshal", "unexpected end of JSON", "EOF", "malformed", "asn1:", "invalid database"} {
		if strings.Contains(text, raw) {
			bad(fmt.Sprintf("the message has a parser's words (%s)", raw))
		}
	}
	if strings.Contains(text, "invalid character") && !strings.Contains(text, "line ") {
		bad("the message names no line")
	}
	if err != nil && (strings.Count(err.Error(), "\n") > 4 || len(err.Error()) > 800) {
		bad("the message is too long")
	}
	return faults
}

func says(want, text string) bool {
	return slices.ContainsFunc(strings.Split(want, "|"), func(w string) bool { return strings.Contains(text, w) })
}

// printed judges all that a command printed, whatever came of it.
func (s *Set) printed(text string) (faults []string) {
	if printable.Text(text) != text {
		faults = append(faults, fmt.Sprintf("it drives the terminal: %q", text))
	}
	plain := strings.NewReplacer(" ", "", `\x`, "").Replace(text)
	for _, words := range []string{text, plain} {
		for i := 0; i+window <= len(words); i++ {
			if file, ok := s.secrets[words[i:i+window]]; ok {
				return append(faults, fmt.Sprintf("it prints a secret, of %s: %q", file, text))
			}
		}
	}
	return faults
}

// window is how much of a secret in one piece is a leak, in characters.
const window = 8

// hide keeps a secret: no part of it may be printed, as it is or, if it is no
// text, in hex.
func (s *Set) hide(file, secret string) {
	all := []string{secret}
	if !utf8.ValidString(secret) {
		all = append(all, hex.EncodeToString([]byte(secret)))
	}
	for _, text := range all {
		for i := 0; i+window <= len(text); i++ {
			s.secrets[text[i:i+window]] = file
		}
	}
}

// show takes back what of the secrets stands in a file that anybody may read.
func (s *Set) show(text string) {
	for i := 0; i+window <= len(text); i++ {
		delete(s.secrets, text[i:i+window])
	}
}

// exchange puts a file of a kind in the place of another one, until back is called.
func (s *Set) exchange(place, kind string) (back func()) {
	s.t.Helper()
	const aside = ".filestest-aside"
	moved := os.Rename(place, aside)
	if moved != nil && !errors.Is(moved, fs.ErrNotExist) {
		s.t.Fatal(moved)
	}
	if err := s.put(place, kind); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		err := os.RemoveAll(place)
		if moved == nil {
			err = errors.Join(err, os.Rename(aside, place))
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *Set) put(place, kind string) error {
	switch kind {
	case missing:
		return nil
	case folder:
		return os.Mkdir(place, 0o755)
	case loop:
		return os.Symlink(filepath.Base(place), place)
	case unreadable:
		target, err := os.Readlink(kind)
		return errors.Join(err, os.Symlink(target, place))
	}
	b, err := os.ReadFile(kind)
	return errors.Join(err, os.WriteFile(place, b, 0o600))
}

// file is what tells a change of a file.
type file struct {
	mode               fs.FileMode
	inode              uint64
	size, modification int64 // 0 of a folder: what comes and goes in it leaves its time
}

// state is that of each file below the folder.
func (s *Set) state() map[string]file {
	s.t.Helper()
	all := map[string]file{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f := file{mode: info.Mode()}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			f.inode = st.Ino
		}
		if !info.IsDir() {
			f.size, f.modification = info.Size(), info.ModTime().UnixNano()
		}
		all[path] = f
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

func difference(before, after map[string]file) string {
	var changes []string
	for path, is := range after {
		switch was, ok := before[path]; {
		case !ok:
			changes = append(changes, path+" was made")
		case was != is:
			changes = append(changes, path+" was changed")
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok {
			changes = append(changes, path+" was removed")
		}
	}
	slices.Sort(changes)
	return strings.Join(changes, ", ")
}

// tidy removes what a command made beside the kinds, so that the next one finds
// its place free.
func (s *Set) tidy(before map[string]file) {
	s.t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range entries {
		if _, there := before[e.Name()]; !there {
			if err := os.RemoveAll(e.Name()); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

// Copy copies a folder, modes kept.
func (s *Set) Copy(from, to string) {
	s.t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, info.Mode().Perm())
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

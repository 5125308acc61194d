// Package modules picks the kernel modules of an image: a list of names, their
// dependencies, and depmod's tables cut down to them.
package modules

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Set is what an image carries of a kernel's modules. Paths are relative to
// lib/modules/RELEASE.
type Set struct {
	Files []string // in load order: what a module needs comes before it
	// Tables are modules.dep, modules.alias and modules.builtin of Files, in
	// the formats of depmod(8); a loader needs no others.
	Tables map[string][]byte
}

// ParseList reads module names, one a line; '#' begins a comment.
func ParseList(r io.Reader) ([]string, error) {
	var names []string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, _, _ := strings.Cut(lines.Text(), "#")
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names, lines.Err()
}

// Resolve finds the named modules in dir, a folder with depmod's tables. A
// name that is neither a module nor built into the kernel is an error: an
// image that lacks a driver must not build.
func Resolve(dir string, names []string) (*Set, error) {
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("read module dependencies: %w; run depmod on the kernel's folder", err)
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("read built-in modules: %w", err)
	}
	alias, err := os.ReadFile(filepath.Join(dir, "modules.alias"))
	if err != nil {
		return nil, fmt.Errorf("read module aliases: %w", err)
	}
	r := resolver{deps: map[string][]string{}, paths: map[string]string{}, builtin: map[string]bool{}}
	r.parse(string(dep), string(builtin))
	for _, n := range names {
		if err := r.add(canonical(n)); err != nil {
			return nil, err
		}
	}
	return &Set{Files: r.files, Tables: map[string][]byte{
		"modules.dep":     r.depTable(),
		"modules.alias":   r.aliasTable(alias),
		"modules.builtin": builtin,
	}}, nil
}

type resolver struct {
	deps    map[string][]string // path → paths
	paths   map[string]string   // canonical name → path
	builtin map[string]bool
	files   []string
}

// canonical is the name as the kernel knows it: '-' and '_' are the same.
func canonical(name string) string {
	return strings.ReplaceAll(name, "-", "_")
}

func nameOf(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return canonical(name)
}

func (r *resolver) parse(dep, builtin string) {
	for line := range strings.Lines(dep) {
		file, rest, ok := strings.Cut(line, ":")
		if ok {
			r.paths[nameOf(file)] = file
			r.deps[file] = strings.Fields(rest)
		}
	}
	for line := range strings.Lines(builtin) {
		r.builtin[nameOf(strings.TrimSpace(line))] = true
	}
}

func (r *resolver) add(name string) error {
	file, ok := r.paths[name]
	if !ok {
		if r.builtin[name] {
			return nil
		}
		return fmt.Errorf("kernel has no module %s, neither loadable nor built in: correct the module list", name)
	}
	// modules.dep lists all dependencies, the deepest last.
	needed := slices.Clone(r.deps[file])
	slices.Reverse(needed)
	for _, f := range append(needed, file) {
		if !strings.HasSuffix(f, ".ko") {
			return fmt.Errorf("module %s is compressed (%s), and an image loads none such: unpack the kernel's modules (xz -d, unzstd), and run depmod again", name, f)
		}
		r.append(f)
	}
	return nil
}

func (r *resolver) append(file string) {
	if !slices.Contains(r.files, file) {
		r.files = append(r.files, file)
	}
}

func (r *resolver) depTable() []byte {
	var b bytes.Buffer
	for _, f := range r.files {
		fmt.Fprintf(&b, "%s:", f)
		for _, d := range r.deps[f] {
			fmt.Fprintf(&b, " %s", d)
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// aliasTable keeps the lines "alias PATTERN MODULE" of the set's modules.
func (r *resolver) aliasTable(alias []byte) []byte {
	have := map[string]bool{}
	for _, f := range r.files {
		have[nameOf(f)] = true
	}
	var b bytes.Buffer
	for line := range strings.Lines(string(alias)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "alias" && have[canonical(f[2])] {
			b.WriteString(line)
		}
	}
	return b.Bytes()
}

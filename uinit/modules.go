package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// modules loads kernel modules by name and by modalias, with what they depend
// on. Its tables are depmod's (modules.dep(5), modules.alias of depmod.d(5)),
// trimmed to the image by its builder; module files are not compressed.
type modules struct {
	dir     string
	init    func(path string) error
	deps    map[string][]string // module to files, itself first
	aliases map[string][]alias  // by kind: what stands before the first ':'

	mu    sync.Mutex
	state map[string]*moduleState // by file
}

type alias struct{ pattern, module string }

type moduleState struct {
	once sync.Once
	err  error
}

// errNoModule: not in the image; often because it is built into the kernel.
var errNoModule = errors.New("no such module in this image")

// readModules reads the tables below /lib/modules/RELEASE. An image without
// modules has none.
func readModules(dir string) *modules {
	ms := &modules{dir: dir, init: initModule, deps: map[string][]string{}, aliases: map[string][]alias{}, state: map[string]*moduleState{}}
	eachLine(filepath.Join(dir, "modules.dep"), func(line string) {
		file, deps, ok := strings.Cut(line, ":")
		if ok {
			ms.deps[moduleName(file)] = append([]string{file}, strings.Fields(deps)...)
		}
	})
	eachLine(filepath.Join(dir, "modules.alias"), func(line string) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "alias" {
			kind, _, _ := strings.Cut(f[1], ":")
			kind = strings.TrimSuffix(kind, "*") // "acpi*:PNP0C31:*"
			ms.aliases[kind] = append(ms.aliases[kind], alias{f[1], moduleName(f[2])})
		}
	})
	return ms
}

func eachLine(file string, do func(string)) {
	f, err := os.Open(file)
	if err != nil {
		return
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		do(sc.Text())
	}
}

// moduleName: dashes and underscores are the same to the kernel.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}

// load loads a module after what it depends on. Loading one that is there
// already is no error.
func (ms *modules) load(name string) error {
	files, ok := ms.deps[moduleName(name)]
	if !ok {
		return fmt.Errorf("module %s: %w", name, errNoModule)
	}
	// modules.dep lists all dependencies, the deepest last.
	for i := len(files) - 1; i >= 0; i-- {
		if err := ms.loadFile(files[i]); err != nil && (i == 0 || !errors.Is(err, unix.ENODEV)) {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	return nil
}

func (ms *modules) loadFile(file string) error {
	ms.mu.Lock()
	s := ms.state[file]
	if s == nil {
		s = new(moduleState)
		ms.state[file] = s
	}
	ms.mu.Unlock()
	s.once.Do(func() {
		if err := ms.init(filepath.Join(ms.dir, file)); err != nil && !errors.Is(err, unix.EEXIST) {
			s.err = fmt.Errorf("%s: %w", file, err)
		}
	})
	return s.err
}

func initModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// match returns the modules that drive a device (its modalias as in sysfs).
func (ms *modules) match(modalias string) []string {
	kind, _, _ := strings.Cut(modalias, ":")
	var names []string
	for _, a := range ms.aliases[kind] {
		if ok, err := path.Match(a.pattern, modalias); ok && err == nil {
			names = append(names, a.module)
		}
	}
	return names
}

// drives says whether the image has any driver for devices of a bus, as sysfs
// names it. Most machines have buses full of devices that need none.
func (ms *modules) drives(bus string) bool {
	kinds := []string{bus}
	switch bus {
	case "platform":
		kinds = append(kinds, "of", "acpi") // devices from firmware tables
	case "pnp":
		kinds = append(kinds, "acpi")
	}
	for _, kind := range kinds {
		if len(ms.aliases[kind]) > 0 {
			return true
		}
	}
	return false
}

// Package scenario drives whole-system scenarios: networks, TPMs and virtual
// machines that belong to one test or to the demo and end with it.
//
// Helpers end the scenario on an error (T.Fatalf), so that a scenario reads
// like the story it tells. The library does not depend on package testing: T
// is what it needs of it, and Run drives a scenario without it.
package scenario

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/landfall-project/landfall/image/cache"
	"github.com/landfall-project/landfall/image/kernel"
	"github.com/landfall-project/landfall/pkg/newc"
	"github.com/landfall-project/landfall/qemu/netlab"
	"github.com/landfall-project/landfall/qemu/swtpm"
	"github.com/landfall-project/landfall/qemu/vm"
)

// T is what a scenario needs of *testing.T.
type T interface {
	Helper()
	Name() string
	Context() context.Context
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
	Failed() bool
}

// Lab is one scenario's machines and networks.
type Lab struct {
	T
	Dir   string // images, states and logs; only the logs outlive a failure
	Cache *cache.Cache
	Repo  string // the repository's root

	ca     *swtpm.CA
	booted int
}

var unsafeName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// New starts a scenario. Its seconds are logged when it ends.
func New(t T) *Lab {
	t.Helper()
	repo, err := cache.RepoRoot()
	if err != nil {
		t.Fatalf("%v", err)
	}
	c, err := cache.Open(filepath.Join(repo, ".cache"))
	if err != nil {
		t.Fatalf("%v", err)
	}
	dir := filepath.Join(repo, "out", "lab", unsafeName.ReplaceAllString(t.Name(), "-"))
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		t.Fatalf("scenario folder: %v", err)
	}
	start := time.Now()
	l := &Lab{T: t, Dir: dir, Cache: c, Repo: repo}
	t.Cleanup(func() {
		t.Logf("scenario %s: %.1f s", t.Name(), time.Since(start).Seconds())
		if err := l.tidy(); err != nil {
			t.Logf("tidy %s: %v", dir, err)
		}
	})
	return l
}

// tidy removes the scenario's files; after a failure it keeps the logs.
func (l *Lab) tidy() error {
	if !l.Failed() {
		return os.RemoveAll(l.Dir)
	}
	l.Logf("logs are kept in %s", l.Dir)
	return filepath.WalkDir(l.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".log") {
			return err
		}
		return os.Remove(path)
	})
}

// Check ends the scenario on an error.
func (l *Lab) Check(err error) {
	l.Helper()
	if err != nil {
		l.Fatalf("%v", err)
	}
}

// Path is a file in the scenario's folder.
func (l *Lab) Path(name string) string { return filepath.Join(l.Dir, name) }

// onEnd registers a cleanup whose failure fails the scenario's log, not the
// scenario.
func (l *Lab) onEnd(what string, fn func() error) {
	l.Cleanup(func() {
		if err := fn(); err != nil {
			l.Logf("%s: %v", what, err)
		}
	})
}

// Network makes a network namespace whose bridge has the given addresses.
func (l *Lab) Network(addresses ...string) *netlab.Net {
	l.Helper()
	n, err := netlab.New(l.Context(), addresses...)
	l.Check(err)
	l.onEnd("remove network", n.Close)
	return n
}

// EKCA is the scenario's CA for EK certificates.
func (l *Lab) EKCA() *swtpm.CA {
	l.Helper()
	if l.ca == nil {
		ca, err := swtpm.NewCA(l.Path("ekca"))
		l.Check(err)
		l.ca = ca
	}
	return l.ca
}

// NewTPM makes a TPM with an EK certificate of EKCA.
func (l *Lab) NewTPM(name string) *swtpm.State {
	l.Helper()
	s, err := swtpm.Manufacture(l.Context(), l.Path("tpm-"+name), l.EKCA())
	l.Check(err)
	return s
}

// Kernel is Debian's cloud kernel.
func (l *Lab) Kernel() *kernel.Kernel {
	l.Helper()
	k, err := kernel.Fetch(l.Context(), l.Cache, kernel.Cloud)
	l.Check(err)
	return k
}

// GoBinary builds a main package of this module, statically, and returns the
// file.
func (l *Lab) GoBinary(pkg string) string {
	l.Helper()
	out := l.Path(filepath.Base(pkg))
	cmd := exec.CommandContext(l.Context(), "go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", out, pkg)
	cmd.Dir = l.Repo
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		l.Fatalf("build %s: %v\n%s", pkg, err, msg)
	}
	return out
}

// Initrd packs a static program as /init, with further files, into an initrd.
func (l *Lab) Initrd(init string, files map[string][]byte) string {
	l.Helper()
	bin, err := os.ReadFile(init)
	l.Check(err)
	var w newc.Writer
	w.Dir("dev", 0o755)
	w.File("init", 0o755, bin)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		w.File(name, 0o644, files[name])
	}
	path := init + ".cpio"
	l.Check(os.WriteFile(path, w.Bytes(), 0o644))
	return path
}

// CopyImage copies a disk image into the scenario's folder.
func (l *Lab) CopyImage(src, name string) string {
	l.Helper()
	dst := l.Path(name)
	l.Check(cache.CopyFile(dst, src))
	return dst
}

// Overlay makes a qcow2 file over a raw image that stays as it is.
func (l *Lab) Overlay(base, name string) vm.Disk {
	l.Helper()
	path := l.Path(name)
	abs, err := filepath.Abs(base)
	l.Check(err)
	out, err := exec.CommandContext(l.Context(), "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", abs, path).CombinedOutput()
	if err != nil {
		l.Fatalf("qemu-img create %s: %v: %s; package qemu-utils must be installed", path, err, out)
	}
	return vm.Disk{Path: path, Format: "qcow2"}
}

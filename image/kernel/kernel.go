// Package kernel fetches Debian's kernels and works out which of their modules
// an image carries.
//
// The package comes from the host's own apt sources, so apt has checked its
// signature; it is unpacked without being installed.
package kernel

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/landfall-project/landfall/image/cache"
)

// Flavour is one of Debian's kernel builds.
type Flavour string

// Debian's amd64 flavours that Landfall knows.
const (
	Cloud   Flavour = "cloud-amd64" // ext4, nvme and TPM drivers built in
	Generic Flavour = "amd64"       // ext4 and nvme are modules, every NIC driver is there
)

// Flavours lists them all.
func Flavours() []Flavour { return []Flavour{Cloud, Generic} }

// Name is how people and files name the flavour: cloud or generic.
func (f Flavour) Name() string {
	if f == Cloud {
		return "cloud"
	}
	return "generic"
}

// Kernel is an unpacked kernel package.
type Kernel struct {
	Flavour Flavour
	Release string // as uname -r prints it
	Image   string // path of vmlinuz
	Modules string // path of the folder lib/modules/RELEASE, with depmod's tables
}

// Fetch downloads the newest kernel of the flavour that the host's apt offers
// and unpacks it into the cache.
func Fetch(ctx context.Context, c *cache.Cache, f Flavour) (*Kernel, error) {
	pkg, version, err := candidate(ctx, f)
	if err != nil {
		return nil, err
	}
	dir, err := c.Make(ctx, "kernel-"+string(f), cache.Key("1", pkg, version), func(ctx context.Context, dir string) error {
		return unpack(ctx, dir, pkg+"="+version)
	})
	if err != nil {
		return nil, err
	}
	return Open(filepath.Join(dir, "root"))
}

// Open describes the kernel under root, a folder with boot/ and lib/modules/.
// There must be exactly one.
func Open(root string) (*Kernel, error) {
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil {
		return nil, err
	}
	if len(images) != 1 {
		return nil, fmt.Errorf("%d kernels under %s/boot, want 1", len(images), root)
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	flavour := Generic
	if strings.HasSuffix(release, "-"+string(Cloud)) {
		flavour = Cloud
	}
	return &Kernel{
		Flavour: flavour,
		Release: release,
		Image:   images[0],
		Modules: filepath.Join(root, "lib", "modules", release),
	}, nil
}

// candidate resolves the flavour's metapackage to the package that holds the
// kernel, and its version.
func candidate(ctx context.Context, f Flavour) (pkg, version string, err error) {
	out, err := output(ctx, "apt-cache", "depends", "linux-image-"+string(f))
	if err != nil {
		return "", "", fmt.Errorf("find Debian's kernel: %w; run apt-get update on a Debian host", err)
	}
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(name, "linux-image-") {
			pkg = name
			break
		}
	}
	if pkg == "" {
		return "", "", fmt.Errorf("linux-image-%s names no kernel package", f)
	}
	out, err = output(ctx, "apt-cache", "policy", pkg)
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); ok && v != "(none)" {
			return pkg, v, nil
		}
	}
	return "", "", fmt.Errorf("apt offers no version of %s; run apt-get update", pkg)
}

func unpack(ctx context.Context, dir, pkg string) error {
	get := exec.CommandContext(ctx, "apt-get", "download", "-q", pkg)
	get.Dir = dir
	if out, err := get.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download %s: %w\n%s", pkg, err, out)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download %s left %d files (%v)", pkg, len(debs), err)
	}
	root := filepath.Join(dir, "root")
	if _, err := output(ctx, "dpkg-deb", "-x", debs[0], root); err != nil {
		return err
	}
	if err := os.Remove(debs[0]); err != nil {
		return err
	}
	k, err := Open(root)
	if err != nil {
		return err
	}
	// The package has no modules.dep: Debian makes it when it is installed.
	_, err = output(ctx, "depmod", "-b", root, k.Release)
	return err
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out), nil
}

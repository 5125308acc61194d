// Package bootvolume makes what machines start from: a unified kernel image
// (UKI), the disk image that carries one as a SmartNIC presents it, and the
// iPXE script that chains one.
//
// A UKI is systemd's EFI stub with kernel, initramfs, command line and name as
// sections of one PE file (systemd-stub(7)). The firmware measures the whole
// file, the stub its sections; docs/spec/pcr.md says which value ends where.
// Nothing in it is encrypted, and without a signature of [Sign] no firmware
// refuses to start a changed one: what a changed one is given is decided by
// what was measured.
//
// The same inputs, Debian packages included, make the same bytes; only a
// signature holds the time at which it was made.
package bootvolume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/landfall-project/landfall/image/kernel"
	"github.com/landfall-project/landfall/pkg/measure"
)

// DefaultCmdline is the command line for real machines: both the screen and the
// first serial port are consoles, and a kernel that panics restarts the
// machine. It chooses nothing else: what matters is in the signed slice.
const DefaultCmdline = "console=tty0 console=ttyS0,115200 panic=-1 quiet"

// stub is systemd's EFI stub in Debian's package systemd-boot-efi.
const stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// maxSection bounds kernel and initramfs, in bytes: far more than a boot volume
// holds.
const maxSection = 256 << 20

// Options says what a UKI consists of.
type Options struct {
	Kernel  *kernel.Kernel
	Initrd  string       // file
	Cmdline string       // DefaultCmdline if empty; printable ASCII
	Image   string       // name, such as landfall-server: small letters, digits and -._
	Version string       // semantic version without "v" (measure.ValidVersion)
	Role    measure.Role // what the initrd is for, as its /etc/landfall/role says
}

// UKI writes a UKI. It verifies its inputs' form only: an initrd that the
// kernel cannot unpack is found out by booting it.
func UKI(_ context.Context, o Options, out string) error {
	if o.Cmdline == "" {
		o.Cmdline = DefaultCmdline
	}
	if err := o.check(); err != nil {
		return err
	}
	base, err := os.ReadFile(stub)
	if err != nil {
		return fmt.Errorf("EFI stub: %w; package systemd-boot-efi must be installed", err)
	}
	// The order of these is the order in the file. The stub measures them in an
	// order of its own.
	sections := []section{{".osrel", []byte(o.osRelease())}, {".cmdline", []byte(o.Cmdline)}}
	for _, s := range []struct{ name, file string }{{".initrd", o.Initrd}, {".linux", o.Kernel.Image}} {
		b, err := os.ReadFile(s.file)
		if err != nil {
			return fmt.Errorf("section %s: %w", s.name, err)
		}
		if len(b) == 0 || len(b) > maxSection {
			return fmt.Errorf("section %s: %s has %d bytes, want 1 to %d", s.name, s.file, len(b), maxSection)
		}
		sections = append(sections, section{s.name, b})
	}
	b, err := addSections(base, sections)
	if err != nil {
		return err
	}
	return replace(out, func(file string) error { return os.WriteFile(file, b, 0o644) })
}

var (
	imageName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	printable = regexp.MustCompile(`^[ -~]{1,1000}$`)
)

// check refuses what would end up in a section as something else than was
// meant. The stub turns the command line into UTF-16; beyond ASCII that has
// pitfalls, and a line break would end it in some tools and not in others.
func (o Options) check() error {
	switch {
	case o.Kernel == nil:
		return errors.New("a UKI needs a kernel")
	case !imageName.MatchString(o.Image):
		return fmt.Errorf("image name %q: use up to 64 small letters, digits and -._", o.Image)
	case !measure.ValidVersion(o.Version):
		return fmt.Errorf("version %q is no semantic version: write 1.4 or 1.4.2", o.Version)
	case !slices.Contains(measure.Roles(), o.Role):
		return fmt.Errorf("role %q: want one of %v", o.Role, measure.Roles())
	case !printable.MatchString(o.Cmdline):
		return fmt.Errorf("command line %q: use printable ASCII, at most 1000 characters", o.Cmdline)
	}
	return nil
}

// osRelease names the image as os-release(5) does; boot menus show it. It is
// measured, and the manifest carries it: by VARIANT_ID a fleet knows the role.
func (o Options) osRelease() string {
	return fmt.Sprintf("ID=landfall\nNAME=Landfall\nPRETTY_NAME=\"%s %s\"\nIMAGE_ID=%s\nVERSION_ID=%s\nIMAGE_VERSION=%s\nVARIANT_ID=%s\n",
		o.Image, o.Version, o.Image, o.Version, o.Version, o.Role)
}

// Sign writes a copy of a UKI with a Secure Boot signature (sbsign(1)). Key and
// cert are PEM files; the key has no passphrase. A key that never leaves its
// hardware signs with sbsign's --engine, by hand. What the firmware measures of
// the file does not depend on the signature, but on Secure Boot being on the
// stub starts the kernel otherwise: form uki-secureboot.
func Sign(ctx context.Context, uki, key, cert, out string) error {
	return replace(out, func(file string) error {
		if err := run(exec.CommandContext(ctx, "sbsign", "--key", key, "--cert", cert, "--output", file, uki), "sbsigntool"); err != nil {
			return fmt.Errorf("sign %s: %w", uki, err)
		}
		if err := run(exec.CommandContext(ctx, "sbverify", "--cert", cert, file), "sbsigntool"); err != nil {
			return fmt.Errorf("sign %s: %w; do key and certificate belong together?", uki, err)
		}
		return nil
	})
}

// replace lets fn make a file in a temporary folder beside out, and puts it in
// out's place when it is whole.
func replace(out string, fn func(file string) error) error {
	dir, err := os.MkdirTemp(filepath.Dir(out), ".landfall-")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "out")
	err = fn(file)
	if err == nil {
		err = os.Chmod(file, 0o644)
	}
	if err == nil {
		err = os.Rename(file, out)
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// run runs a program of a Debian package.
func run(cmd *exec.Cmd, pkg string) error {
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w; package %s must be installed", err, pkg)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, out)
	}
	return nil
}

// Package builder makes Landfall's boot images: u-root's mkuimage compiles the
// commands of a flavour, and this package adds kernel modules, the region's
// public keys, the role and, for the factory, programs of the build host.
//
// Nothing about one device goes in. The same inputs give the same bytes: times
// are zero, entries are sorted, binaries carry no paths and no build IDs.
package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/landfall-project/landfall/image/cache"
	"github.com/landfall-project/landfall/image/kernel"
)

// Flavour is a kind of image; it is also the role that the image's manifest
// gives it.
type Flavour string

// The flavours.
const (
	Server    Flavour = "server"    // unlocks and starts production
	Keyserver Flavour = "keyserver" // serves addresses and keys, and stays
	Factory   Flavour = "factory"   // seals
	Debug     Flavour = "debug"     // has a shell; never released to
)

// Flavours lists them all.
func Flavours() []Flavour { return []Flavour{Server, Keyserver, Factory, Debug} }

// Options says what to build.
type Options struct {
	Repo    string // the repository's root
	Config  string // folder of mkuimage.yaml and the lists; image/config if empty
	Cache   *cache.Cache
	Flavour Flavour
	Kernel  *kernel.Kernel // whose modules to add; nil: none
	// RegionPub is the region root's note verifier, PolicyPub the policy key's
	// public part (PEM). Either may be nil for an image that only boots in a lab.
	RegionPub, PolicyPub []byte
}

// Image is a built image.
type Image struct {
	Path   string // the compressed initramfs
	SHA256 [32]byte
	Size   int64 // compressed, bytes
	Raw    int64 // unpacked archive, bytes
}

// Build makes an image, or finds it in the cache.
func Build(ctx context.Context, o Options) (*Image, error) {
	if !slices.Contains(Flavours(), o.Flavour) {
		return nil, fmt.Errorf("image flavour %q is unknown: use server, keyserver, factory or debug", o.Flavour)
	}
	if err := o.checkKeys(); err != nil {
		return nil, err
	}
	base, err := o.compile(ctx)
	if err != nil {
		return nil, err
	}
	archive, err := o.assemble(ctx, base)
	if err != nil {
		return nil, fmt.Errorf("assemble %s image: %w", o.Flavour, err)
	}
	sum := sha256.Sum256(archive)
	dir, err := o.Cache.Make(ctx, o.cacheName(), cache.Key("zstd 2", string(sum[:])), func(ctx context.Context, dir string) error {
		return compress(ctx, filepath.Join(dir, "initramfs.cpio.zst"), archive)
	})
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "initramfs.cpio.zst")
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return &Image{Path: path, SHA256: sha256.Sum256(b), Size: int64(len(b)), Raw: int64(len(archive))}, nil
}

// cacheName keeps the images of one kernel from pushing out another's.
func (o Options) cacheName() string {
	if o.Kernel == nil || o.Kernel.Flavour == kernel.Cloud {
		return "image-" + string(o.Flavour)
	}
	return "image-" + string(o.Flavour) + "-" + o.Kernel.Flavour.Name()
}

// compile runs mkuimage and returns the archive with the flavour's commands.
func (o Options) compile(ctx context.Context) (string, error) {
	key, err := o.sourceKey(ctx)
	if err != nil {
		return "", err
	}
	dir, err := o.Cache.Make(ctx, "uroot-"+o.uroot(), key, func(ctx context.Context, dir string) error {
		// mkuimage keeps its folder when a build fails; in dir it goes with dir.
		tmp := filepath.Join(dir, "tmp")
		cmd := o.goCommand(ctx, "tool", "mkuimage", "-tmp-dir", tmp, "-base=/dev/null", "-config-file", o.configFile("mkuimage.yaml"),
			"-config", o.uroot(), "-o", filepath.Join(dir, "base.cpio"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("mkuimage: %w\n%s", err, out)
		}
		return os.RemoveAll(tmp)
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "base.cpio"), nil
}

// uroot names the configuration in mkuimage.yaml: that of the keyserver image is
// the server's, to which its daemon is added.
func (o Options) uroot() string {
	if o.Flavour == Keyserver {
		return string(Server)
	}
	return string(o.Flavour)
}

// KeyServer is the daemon of the keyserver image. It is a program of its own:
// every init() of a Go program runs at its start, and those of a key server have
// no business in front of uinit.
const KeyServer = "bin/kekd"

// keyServer builds the daemon and returns its file.
func (o Options) keyServer(ctx context.Context) (string, error) {
	const pkg = "github.com/landfall-project/landfall/cmds/kekd"
	key, err := o.packagesKey(ctx, nil, []string{pkg})
	if err != nil {
		return "", err
	}
	dir, err := o.Cache.Make(ctx, "kekd", key, func(ctx context.Context, dir string) error {
		out, err := o.goCommand(ctx, "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", filepath.Join(dir, "kekd"), pkg).CombinedOutput()
		if err != nil {
			return fmt.Errorf("build kekd: %w\n%s", err, out)
		}
		return nil
	})
	return filepath.Join(dir, "kekd"), err
}

func (o Options) configFile(name string) string {
	if o.Config != "" {
		return filepath.Join(o.Config, name)
	}
	return filepath.Join(o.Repo, "image", "config", name)
}

// goCommand runs the go tool with an environment that decides the bytes of its
// output, whatever the caller's is.
func (o Options) goCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = o.Repo
	cmd.Env = append(os.Environ(), buildEnv()...)
	return cmd
}

func buildEnv() []string {
	return []string{
		"CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOEXPERIMENT=",
		"GOFLAGS=-buildvcs=false", "GOWORK=off", "LC_ALL=C",
	}
}

// compress writes a zstd file. The kernel unpacks it about 0.7 s sooner than
// xz under TCG, for 14 % more bytes. Level 19 is the highest whose window
// (8 MiB) the kernel accepts. One thread: several would cut the data into
// jobs, and the bytes would depend on zstd's build.
func compress(ctx context.Context, path string, archive []byte) error {
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "zstd", "-19", "--single-thread", "--quiet", "--stdout", "-")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(archive), &out, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("zstd: %w: %s; package zstd must be installed", err, stderr.String())
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

var errNoPackages = errors.New("go list found no packages")

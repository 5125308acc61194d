package builder

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/image/cache"
	"github.com/landfall-project/landfall/image/kernel"
)

// Size targets of the server image, compressed, in bytes.
const (
	maxBare    = 2_600_000 // without modules
	maxModules = 3_200_000 // with the cloud VM's
	maxGeneric = 7_500_000 // with the drivers for physical servers
)

func options(t *testing.T, f Flavour) Options {
	t.Helper()
	return optionsFor(t, f, kernel.Cloud)
}

func optionsFor(t *testing.T, f Flavour, kf kernel.Flavour) Options {
	t.Helper()
	repo, err := cache.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	c, err := cache.OpenDefault()
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernel.Fetch(t.Context(), c, kf)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Repo: repo, Cache: c, Flavour: f, Kernel: k, RegionPub: []byte("region\n"), PolicyPub: []byte("policy\n")}
}

func build(t *testing.T, o Options) (*Image, []string) {
	t.Helper()
	img, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := os.ReadFile(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("zstd", "-dcq")
	cmd.Stdin = bytes.NewReader(packed)
	raw, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	names, err := List(raw)
	if err != nil {
		t.Fatal(err)
	}
	return img, names
}

// TestServerFiles lists everything in the server image. A new file has to be
// allowed here; a shell never is.
func TestServerFiles(t *testing.T) {
	o := options(t, Server)
	img, names := build(t, o)
	want := []string{
		"bbin", "bbin/bb", "bbin/uinit", "dev", "dev/console", "dev/null",
		"etc", "etc/landfall", "etc/landfall/policy.pub", "etc/landfall/region.pub", "etc/landfall/role",
		"init", "lib", "lib/modules", "proc", "run", "sys", "tmp",
	}
	module := regexp.MustCompile(`^lib/modules/` + regexp.QuoteMeta(o.Kernel.Release) + `(/kernel(/[a-z0-9_-]+)*(/[a-z0-9_-]+\.ko)?|/modules\.(dep|alias|builtin))?$`)
	for _, name := range names {
		if !slices.Contains(want, name) && !module.MatchString(name) {
			t.Errorf("server image holds %s", name)
		}
	}
	for _, name := range want {
		if !slices.Contains(names, name) {
			t.Errorf("server image lacks %s", name)
		}
	}
	t.Logf("server image with modules: %d bytes, %d unpacked", img.Size, img.Raw)
	if img.Size > maxModules {
		t.Errorf("server image is %d bytes, at most %d are allowed", img.Size, maxModules)
	}
	o.Kernel = nil
	bare, _ := build(t, o)
	t.Logf("server image without modules: %d bytes", bare.Size)
	if bare.Size > maxBare {
		t.Errorf("server image without modules is %d bytes, at most %d are allowed", bare.Size, maxBare)
	}
}

// TestFactoryFiles shows that the factory image has what sealing needs and no
// shell, and that the debug image alone has one.
func TestFactoryFiles(t *testing.T) {
	shell := regexp.MustCompile(`(^|/)(sh|bash|dash|gosh|defaultsh|busybox)$`)
	for f, wantShell := range map[Flavour]bool{Factory: false, Debug: true} {
		_, names := build(t, options(t, f))
		if got := slices.ContainsFunc(names, shell.MatchString); got != wantShell {
			t.Errorf("%s image has a shell: %v, want %v", f, got, wantShell)
		}
		if f == Factory {
			for _, want := range []string{"bbin/seal", "sbin/cryptsetup", "sbin/resize2fs", "sbin/e2fsck"} {
				if !slices.Contains(names, want) {
					t.Errorf("factory image lacks %s", want)
				}
			}
		}
	}
}

// TestGenericImage shows that the image for physical servers has a driver for
// the cards and controllers that they come with, and how big that makes it. A
// listed module that the kernel lacks fails the build.
func TestGenericImage(t *testing.T) {
	o := optionsFor(t, Server, kernel.Generic)
	img, names := build(t, o)
	t.Logf("server image for the generic kernel: %d bytes, %d unpacked", img.Size, img.Raw)
	if img.Size > maxGeneric {
		t.Errorf("server image for the generic kernel is %d bytes, at most %d are allowed", img.Size, maxGeneric)
	}
	have := map[string]bool{}
	for _, name := range names {
		have[filepath.Base(name)] = true
	}
	for _, m := range []string{"e1000e", "igb", "ixgbe", "i40e", "ice", "bnxt_en", "mlx5_core", "tg3", "virtio_net", "nvme", "ahci", "sd_mod", "megaraid_sas", "mpt3sas", "ext4", "dm-crypt"} {
		if !have[m+".ko"] {
			t.Errorf("no driver %s in it", m)
		}
	}
	set, err := o.Modules()
	if err != nil {
		t.Fatal(err)
	}
	// Intel's 82574L, and any NVMe controller, as PCI names them.
	for _, alias := range []string{"pci:v00008086d000010D3", "bc01sc08i02"} {
		if !strings.Contains(string(set.Tables["modules.alias"]), alias) {
			t.Errorf("no driver answers to %s", alias)
		}
	}
}

// TestReproducible builds the server image from two copies of the sources in
// folders of different names, each with an empty cache, and compares bytes.
func TestReproducible(t *testing.T) {
	o := options(t, Server)
	var images [][]byte
	for _, name := range []string{"first", "the-second-one"} {
		dir := filepath.Join(t.TempDir(), name)
		copySources(t, dir, o.Repo)
		c, err := cache.Open(filepath.Join(dir, "cache"))
		if err != nil {
			t.Fatal(err)
		}
		o := o
		o.Repo, o.Cache = dir, c
		t.Setenv("TMPDIR", t.TempDir())
		img, err := Build(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(img.Path)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, b)
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two builds of the same sources differ")
	}
}

func copySources(t *testing.T, dst, repo string) {
	t.Helper()
	err := filepath.WalkDir(repo, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(repo, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", ".cache", "out", "docs"}, rel) || d.Name() == "testdata" {
				return filepath.SkipDir
			}
			return os.MkdirAll(filepath.Join(dst, rel), 0o755)
		}
		if strings.HasSuffix(rel, "_test.go") || !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dst, rel), b, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnknownFlavour(t *testing.T) {
	if _, err := Build(t.Context(), Options{Flavour: "shell"}); err == nil {
		t.Error("an unknown flavour was built")
	}
}

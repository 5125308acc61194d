package builder

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/u-root/u-root/pkg/cpio"

	"github.com/landfall-project/landfall/image/bootvolume"
	"github.com/landfall-project/landfall/image/cache"
	"github.com/landfall-project/landfall/image/kernel"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/uki"
	"github.com/landfall-project/landfall/qemu/perfpage"
)

// sized compares an image's sizes with docs/performance.md.
func sized(t *testing.T, figure string, img *Image) {
	t.Helper()
	if err := perfpage.Check(figure, perfpage.Count{Numbers: []int64{img.Size, img.Raw}}); err != nil {
		t.Error(err)
	}
}

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
	return Options{Repo: repo, Cache: c, Flavour: f, Kernel: k, RegionPub: testdata(t, "root.pub"), PolicyPub: testdata(t, "policy.pub")}
}

// testdata reads a key as `kekctl init` writes it; the private part is nowhere.
func testdata(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
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
	names, err := List(unpack(t, packed))
	if err != nil {
		t.Fatal(err)
	}
	return img, names
}

func unpack(t *testing.T, packed []byte) []byte {
	t.Helper()
	cmd := exec.Command("zstd", "-dcq")
	cmd.Stdin = bytes.NewReader(packed)
	raw, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return raw
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
	sized(t, perfpage.ServerCloud, img)
	o.Kernel = nil
	bare, _ := build(t, o)
	sized(t, perfpage.ServerBare, bare)
}

// TestKeyserverFiles shows that the key server's image is the server's, another
// role and the daemon.
func TestKeyserverFiles(t *testing.T) {
	img, names := build(t, options(t, Keyserver))
	_, server := build(t, options(t, Server))
	want := slices.Sorted(slices.Values(append(server, "bin", KeyServer)))
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("files of the keyserver image (-want +got):\n%s", diff)
	}
	packed, err := os.ReadFile(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	role := fmt.Sprintf("0100444 %s %x", RoleFile, sha256.Sum256([]byte("keyserver\n")))
	if !slices.Contains(listing(t, packed), role) {
		t.Error("its role is not keyserver")
	}
	sized(t, perfpage.Keyserver, img)
}

// TestFactoryFiles shows that the factory image has what sealing needs and no
// shell, and that the debug image alone has one.
func TestFactoryFiles(t *testing.T) {
	shell := regexp.MustCompile(`(^|/)(sh|bash|dash|gosh|defaultsh|busybox)$`)
	for f, wantShell := range map[Flavour]bool{Factory: false, Debug: true} {
		img, names := build(t, options(t, f))
		if got := slices.ContainsFunc(names, shell.MatchString); got != wantShell {
			t.Errorf("%s image has a shell: %v, want %v", f, got, wantShell)
		}
		if f == Factory {
			sized(t, perfpage.Factory, img)
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
	sized(t, perfpage.ServerGeneric, img)
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

// TestReproducible builds the server image, its UKI and its boot volume, and the
// keyserver image from two copies of the sources, in folders of different names:
// the first one with the cache that all builds share, so that its parts are of
// whatever time and folder they were made in, the second one later, with an empty
// cache, another umask and another time zone. Bytes and predicted PCRs are compared.
func TestReproducible(t *testing.T) {
	o := options(t, Server)
	dirs := [2]string{filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "the-second-one")}
	copySources(t, dirs[0], o.Repo)
	copySources(t, dirs[1], dirs[0]) // not from o.Repo, where somebody may be at work
	o.Repo = dirs[0]
	first := buildAll(t, o, t.TempDir())
	t.Setenv("TZ", "Pacific/Auckland")
	t.Setenv("LANG", "tr_TR.UTF-8")
	t.Setenv("TMPDIR", t.TempDir())
	defer syscall.Umask(syscall.Umask(0o077))
	time.Sleep(time.Until(first.done.Add(2100 * time.Millisecond))) // FAT's clock ticks every 2 s
	o.Repo, o.Cache = dirs[1], emptyCache(t)
	second := buildAll(t, o, t.TempDir())
	if !bytes.Equal(first.initrd, second.initrd) {
		t.Errorf("two builds of the same sources differ (-first +second):\n%s", cmp.Diff(listing(t, first.initrd), listing(t, second.initrd)))
	}
	if !bytes.Equal(first.keyserver, second.keyserver) {
		t.Errorf("two builds of the keyserver image differ (-first +second):\n%s", cmp.Diff(listing(t, first.keyserver), listing(t, second.keyserver)))
	}
	if !bytes.Equal(first.uki, second.uki) {
		t.Error("the UKIs of two builds differ")
	}
	if !bytes.Equal(first.disk, second.disk) {
		t.Error("the boot volumes of two builds differ")
	}
	for _, form := range []measure.Form{measure.FormUKI, measure.FormUKIiPXE} {
		a, b := predict(t, first.uki, form), predict(t, second.uki, form)
		if diff := cmp.Diff(a, b); diff != "" {
			t.Errorf("predicted PCRs of form %s differ (-first +second):\n%s", form, diff)
		}
		t.Logf("form %s: %v", form, a)
	}
}

// listing tells an image's entries apart: mode, name and content.
func listing(t *testing.T, packed []byte) []string {
	t.Helper()
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(unpack(t, packed))))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range records {
		content, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%07o %s %x", r.Mode, r.Name, sha256.Sum256(content)))
	}
	return lines
}

// predict is what starting a UKI leaves in each image PCR, in hex.
func predict(t *testing.T, file []byte, form measure.Form) map[int]string {
	t.Helper()
	img, err := uki.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	events, err := img.Events(form)
	if err != nil {
		t.Fatal(err)
	}
	pcrs := map[int]string{}
	for n, value := range measure.Replay(events) {
		pcrs[n] = hex.EncodeToString(value)
	}
	return pcrs
}

// built is what one of the two builds made.
type built struct {
	initrd, keyserver, uki, disk []byte
	done                         time.Time
}

func emptyCache(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// buildAll builds what o says in all boot forms, and the image of key servers. The
// UKI and the boot volume are made in dir.
func buildAll(t *testing.T, o Options, dir string) built {
	t.Helper()
	img, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	o.Flavour = Keyserver
	keyserver, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	efi, disk := filepath.Join(dir, "a.efi"), filepath.Join(dir, "a.disk")
	if err := bootvolume.UKI(t.Context(), bootvolume.Options{Kernel: o.Kernel, Initrd: img.Path, Image: "landfall-server", Version: "1.0", Role: measure.RoleServer}, efi); err != nil {
		t.Fatal(err)
	}
	if err := bootvolume.Disk(t.Context(), efi, []byte("content"), 512, disk); err != nil {
		t.Fatal(err)
	}
	b := built{done: time.Now()}
	for file, dst := range map[string]*[]byte{img.Path: &b.initrd, keyserver.Path: &b.keyserver, efi: &b.uki, disk: &b.disk} {
		if *dst, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	return b
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

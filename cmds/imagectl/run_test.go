package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/uki/ukitest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"imagectl": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: func(env *testscript.Env) error {
		for _, region := range []string{"north", "south"} {
			if err := makeRegion(filepath.Join(env.WorkDir, region), region); err != nil {
				return err
			}
		}
		return makeImages(env.WorkDir, filepath.Join(env.WorkDir, "north"))
	}})
}

// makeImages writes UKIs of a region that differ in one component each, and a disk
// image.
func makeImages(dir, region string) error {
	const cmdline = "console=ttyS0 quiet"
	keys, err := imageKeys(region)
	if err != nil {
		return err
	}
	withKeys := func(files ...string) []byte { return ukitest.Initrd(append(files, keys...)...) }
	initrd := withKeys("init", "uinit", "etc/motd", "hello", "etc/landfall/role", "server\n")
	of := func(variant, kernel, cmdline, version string, initrd []byte) []byte {
		return ukitest.Build(
			ukitest.Section{Name: ".osrel", Data: []byte("ID=landfall\nIMAGE_ID=landfall-server\nIMAGE_VERSION=" + version + "\n" + variant)},
			ukitest.Section{Name: ".cmdline", Data: []byte(cmdline)},
			ukitest.Section{Name: ".initrd", Data: initrd},
			ukitest.Section{Name: ".linux", Data: ukitest.Kernel(kernel)},
		)
	}
	image := func(kernel, cmdline, version string, initrd []byte) []byte {
		return of("VARIANT_ID=server\n", kernel, cmdline, version, initrd)
	}
	debug := withKeys("init", "uinit", "etc/landfall/role", "debug\n")
	part := snapshot.Part{}
	content, err := part.Bytes()
	if err != nil {
		return err
	}
	disk4k, err := snapshot.DiskImage(content, 4<<20, 4096)
	if err != nil {
		return err
	}
	disk, err := snapshot.DiskImage(content, 4<<20, 512)
	if err != nil {
		return err
	}
	esp, err := bootDisk()
	if err != nil {
		return err
	}
	good := image("kernel", cmdline, "1.4", initrd)
	for name, b := range map[string][]byte{
		"good.efi":     good,
		"signed.efi":   ukitest.Sign(good, "signature"),
		"kernel.efi":   image("lernel", cmdline, "1.4", initrd),
		"initrd.efi":   image("kernel", cmdline, "1.4", slices.Concat(compressed(initrd), ukitest.Initrd("etc/motd", "hullo", "etc/\x1b[2Jmore", "x"))),
		"cmdline.efi":  image("kernel", cmdline+" debug", "1.4", initrd),
		"next.efi":     image("kernel", cmdline, "1.5", initrd),
		"section.efi":  ukitest.Build(ukitest.Section{Name: ".linux", Data: ukitest.Kernel("kernel")}, ukitest.Section{Name: ".splash", Data: []byte("BM")}),
		"plain.efi":    ukitest.Image("kernel", cmdline, "1.4", initrd),
		"debug.efi":    of("VARIANT_ID=debug\n", "kernel", cmdline, "1.4", debug),
		"posing.efi":   of("VARIANT_ID=server\n", "kernel", cmdline, "1.4", debug),
		"old.efi":      of("", "kernel", cmdline, "1.4", initrd),
		"roleless.efi": image("kernel", cmdline, "1.4", ukitest.Initrd("init", "uinit")),
		"twice.efi":    image("kernel", cmdline, "1.4", slices.Concat(initrd, ukitest.Initrd("/etc/landfall/role", "debug\n"))),
		"link.efi":     image("kernel", cmdline, "1.4", slices.Concat(initrd, ukitest.Initrd("./etc/landfall", "elsewhere"))),
		"disk.raw":     disk,
		"disk4k.raw":   disk4k,
		"boot.raw":     esp,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// bootDisk is a disk with an EFI system partition of another name than ours.
func bootDisk() ([]byte, error) {
	const mib = 1 << 20
	f, err := os.CreateTemp("", "")
	if err != nil {
		return nil, err
	}
	defer func() { _ = errors.Join(f.Close(), os.Remove(f.Name())) }()
	if err := f.Truncate(4 * mib); err != nil {
		return nil, err
	}
	table := snapshot.GPT{Sector: 512, ID: [16]byte{1}, Partitions: []snapshot.GPTPartition{
		{Type: snapshot.GPTESP(), ID: [16]byte{2}, Name: "boot", Offset: mib, Size: mib},
	}}
	if err := table.Write(f, 4*mib); err != nil {
		return nil, err
	}
	return os.ReadFile(f.Name())
}

// imageKeys are the names and contents of the keys that an image of a region has.
func imageKeys(region string) ([]string, error) {
	root, errRoot := os.ReadFile(filepath.Join(region, "public/root.pub"))
	policy, errPolicy := os.ReadFile(filepath.Join(region, "public/policy.pub"))
	return []string{"etc/landfall/region.pub", string(root), "etc/landfall/policy.pub", string(policy)}, errors.Join(errRoot, errPolicy)
}

// compressed is a zstd frame.
func compressed(b []byte) []byte {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return e.EncodeAll(b, nil)
}

// makeRegion writes the keys as kekctl init does.
func makeRegion(dir, name string) error {
	skey, vkey, err := note.GenerateKey(rand.Reader, name+"/manifest")
	if err != nil {
		return err
	}
	_, root, err := note.GenerateKey(rand.Reader, name+"/root")
	if err != nil {
		return err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	for file, b := range map[string][]byte{
		"public/root.pub":      []byte(root + "\n"),
		"offline/manifest.key": []byte(skey + "\n"),
		"public/manifest.pub":  []byte(vkey + "\n"),
		"offline/policy.key":   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		"public/policy.pub":    pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}),
	} {
		file = filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

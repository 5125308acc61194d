package bootvolume

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/landfall-project/landfall/image/cache"
	"github.com/landfall-project/landfall/image/kernel"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// inputs are a real kernel and a file in place of the initramfs: nothing here
// looks into it.
func inputs(t *testing.T) Options {
	t.Helper()
	c, err := cache.OpenDefault()
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernel.Fetch(t.Context(), c, kernel.Cloud)
	if err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(initrd, bytes.Repeat([]byte("initrd"), 12345), 0o600); err != nil {
		t.Fatal(err)
	}
	return Options{Kernel: k, Initrd: initrd, Image: "landfall-server", Version: "1.4", Role: measure.RoleServer}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// volume makes a UKI and a disk with it, and returns both files.
func volume(t *testing.T, o Options, landfall []byte) (uki, disk string) {
	t.Helper()
	dir := t.TempDir()
	uki, disk = filepath.Join(dir, "a.efi"), filepath.Join(dir, "a.disk")
	if err := UKI(t.Context(), o, uki); err != nil {
		t.Fatal(err)
	}
	if err := Disk(t.Context(), uki, landfall, 512, disk); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("files left behind: %v (%v)", left, err)
	}
	return uki, disk
}

func TestUKISections(t *testing.T) {
	t.Parallel()
	o := inputs(t)
	uki, _ := volume(t, o, nil)
	f, err := pe.Open(uki)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, want := range map[string][]byte{
		".linux": read(t, o.Kernel.Image), ".initrd": read(t, o.Initrd), ".cmdline": []byte(DefaultCmdline),
		".osrel": []byte("ID=landfall\nNAME=Landfall\nPRETTY_NAME=\"landfall-server 1.4\"\nIMAGE_ID=landfall-server\nVERSION_ID=1.4\nIMAGE_VERSION=1.4\nVARIANT_ID=server\n"),
	} {
		s := f.Section(name)
		if s == nil {
			t.Fatalf("the UKI has no section %s", name)
		}
		got, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		// What is measured has the section's size in memory, without the file's
		// padding.
		if int(s.VirtualSize) != len(want) || !bytes.Equal(got[:s.VirtualSize], want) {
			t.Errorf("section %s has %d bytes, want the %d that went in", name, s.VirtualSize, len(want))
		}
		if s.VirtualAddress%sectionAlign != 0 {
			t.Errorf("section %s begins at %#x", name, s.VirtualAddress)
		}
	}
	// Bytes that belong to no section are hashed by some and not by others.
	sum := f.OptionalHeader.(*pe.OptionalHeader64).SizeOfHeaders
	for _, s := range f.Sections {
		sum += s.Size
	}
	if got := len(read(t, uki)); got != int(sum) {
		t.Errorf("%d bytes of the UKI belong to no section", got-int(sum))
	}
}

// TestDisk reads the disk image with tools that did not make it, for disks with
// sectors of either size.
func TestDisk(t *testing.T) {
	t.Parallel()
	part := &snapshot.Part{Policies: [][]byte{[]byte(`{"policy": 1}`)}}
	content, err := part.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	uki, _ := volume(t, inputs(t), content)
	for _, sector := range snapshot.SectorSizes() {
		disk := filepath.Join(t.TempDir(), "disk")
		if err := Disk(t.Context(), uki, content, sector, disk); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(disk)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		landfallAt := espStart + espSize(sector)
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		at, size, err := snapshot.FindPartition(f, info.Size(), snapshot.SectorSizes())
		if err != nil || at != landfallAt || size != landfallSize {
			t.Fatalf("LANDFALL partition: %d bytes at %d, %v", size, at, err)
		}
		got := make([]byte, len(content))
		if _, err := f.ReadAt(got, at); err != nil || !bytes.Equal(got, content) {
			t.Errorf("the LANDFALL partition does not begin with its content (%v)", err)
		}
		verify := exec.Command("fdisk", "-b", fmt.Sprint(sector), disk)
		verify.Stdin = strings.NewReader("v\nq\n")
		if out, err := verify.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("No errors detected")) || bytes.Contains(out, []byte("corrupt")) {
			t.Errorf("fdisk, sectors of %d: %v: %s", sector, err, out)
		}
		esp := filepath.Join(t.TempDir(), "esp")
		if out, err := exec.Command("dd", "if="+disk, "of="+esp, "bs=1M", "skip=1", fmt.Sprintf("count=%d", espSize(sector)/mib), "conv=sparse").CombinedOutput(); err != nil {
			t.Fatalf("dd: %v: %s", err, out)
		}
		// It says so when there are too few clusters for FAT32.
		if out, err := exec.Command("fsck.vfat", "-n", "-v", esp).CombinedOutput(); err != nil || !bytes.Contains(out, fmt.Appendf(nil, "%d bytes per logical sector", sector)) {
			t.Errorf("fsck.vfat: %v: %s", err, out)
		}
		boot := make([]byte, 90)
		if b, err := os.Open(esp); err != nil {
			t.Error(err)
		} else if _, err := b.ReadAt(boot, 0); err != nil || b.Close() != nil {
			t.Error(err)
		}
		le := binary.LittleEndian
		clusters := (le.Uint32(boot[32:]) - uint32(le.Uint16(boot[14:])) - uint32(boot[16])*le.Uint32(boot[36:])) / uint32(boot[13])
		if clusters < 65525 {
			t.Errorf("%d clusters: too few for FAT32", clusters)
		}
		if b, err := exec.Command("mtype", "-i", esp, "::/EFI/BOOT/BOOTX64.EFI").Output(); err != nil || !bytes.Equal(b, read(t, uki)) {
			t.Errorf("the EFI system partition holds another file than the UKI (%v)", err)
		}
	}
}

// TestVolumesDiffer shows that two volumes with the same UKI and different
// documents can be told apart, since a machine may see both.
func TestVolumesDiffer(t *testing.T) {
	t.Parallel()
	o := inputs(t)
	_, a := volume(t, o, []byte("one"))
	_, b := volume(t, o, []byte("two"))
	const header = 512
	if x, y := read(t, a)[header:2*header], read(t, b)[header:2*header]; bytes.Equal(x, y) {
		t.Error("two different volumes have the same GPT identifiers")
	}
}

// TestReproducibleVolume makes UKI and disk image twice: at other times, in
// other folders, with another umask, time zone, locale and mtools settings.
func TestReproducibleVolume(t *testing.T) {
	o := inputs(t)
	uki, disk := volume(t, o, []byte("content"))
	time.Sleep(2100 * time.Millisecond) // FAT's clock ticks every 2 s

	other := filepath.Join(t.TempDir(), "another folder")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(other, "the same initrd")
	if err := os.WriteFile(initrd, read(t, o.Initrd), 0o644); err != nil {
		t.Fatal(err)
	}
	settings := filepath.Join(other, ".mtoolsrc")
	if err := os.WriteFile(settings, []byte("MTOOLS_LOWER_CASE=1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"TZ": "Asia/Tokyo", "TMPDIR": other, "HOME": other, "MTOOLSRC": settings, "SOURCE_DATE_EPOCH": "1234567890"} {
		t.Setenv(name, value)
	}
	defer syscall.Umask(syscall.Umask(0o077))
	o.Initrd = initrd
	uki2, disk2 := volume(t, o, []byte("content"))
	if !bytes.Equal(read(t, uki), read(t, uki2)) {
		t.Error("two UKIs of the same parts differ")
	}
	if !bytes.Equal(read(t, disk), read(t, disk2)) {
		t.Error("two disk images of the same parts differ")
	}
	if info, err := os.Stat(uki2); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the UKI's mode depends on the umask: %v", info.Mode())
	}
}

func TestSign(t *testing.T) {
	t.Parallel()
	uki, _ := volume(t, inputs(t), nil)
	dir := t.TempDir()
	pair := func(name string) (key, cert string) {
		key, cert = filepath.Join(dir, name+".key"), filepath.Join(dir, name+".pem")
		if out, err := exec.Command("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN="+name, "-keyout", key, "-out", cert).CombinedOutput(); err != nil {
			t.Fatalf("openssl: %v: %s", err, out)
		}
		return key, cert
	}
	key, cert := pair("operator")
	_, other := pair("other")
	out := filepath.Join(dir, "signed.efi")
	if err := Sign(t.Context(), uki, key, cert, out); err != nil {
		t.Fatal(err)
	}
	if b, err := exec.Command("sbverify", "--cert", other, out).CombinedOutput(); err == nil {
		t.Errorf("the signature verifies by another certificate: %s", b)
	}
	if err := Sign(t.Context(), uki, key, other, filepath.Join(dir, "mixed.efi")); err == nil {
		t.Error("signed with a key that the certificate does not belong to")
	}
	if _, err := os.Stat(filepath.Join(dir, "mixed.efi")); err == nil {
		t.Error("a failed signing left a file")
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	good := inputs(t)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Options){
		"kernel":        func(o *Options) { o.Kernel = nil },
		"version":       func(o *Options) { o.Version = "v1" },
		"image name":    func(o *Options) { o.Image = "a\nVERSION_ID=9" },
		"command line":  func(o *Options) { o.Cmdline = "quiet\nx" },
		"has 0 bytes":   func(o *Options) { o.Initrd = empty },
		"no such file":  func(o *Options) { o.Initrd = "/nowhere" },
		"command line ": func(o *Options) { o.Cmdline = "é" },
	} {
		o := good
		change(&o)
		out := filepath.Join(t.TempDir(), "x.efi")
		if err := UKI(t.Context(), o, out); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("error = %v, want one about %q", err, want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: a UKI was left", want)
		}
	}
	if err := Disk(t.Context(), empty, make([]byte, landfallSize+1), 512, filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("more content than the LANDFALL partition holds was accepted")
	}
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, espSize(512)); err != nil {
		t.Fatal(err)
	}
	if err := Disk(t.Context(), big, nil, 512, filepath.Join(t.TempDir(), "x")); err == nil || !strings.Contains(err.Error(), fmt.Sprint(espSize(512)-4*mib)) {
		t.Errorf("a UKI as big as its partition: %v", err)
	}
}

// TestIPXE pins what the scenarios rely on: no load options, and a loop.
func TestIPXE(t *testing.T) {
	script := string(IPXE("http://10.0.0.1/a.efi"))
	for _, want := range []string{"#!ipxe\n", "\nchain --name= http://10.0.0.1/a.efi || goto again\n", "\ngoto start\n"} {
		if !strings.Contains(script, want) {
			t.Errorf("the script lacks %q:\n%s", want, script)
		}
	}
	if !strings.HasPrefix(script, "#!ipxe\n") || strings.Contains(script, "shell") {
		t.Errorf("not a script of ours:\n%s", script)
	}
}

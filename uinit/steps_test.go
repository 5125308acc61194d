package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/bootentry"
	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/handover"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm"
)

func code(err error) report.Code {
	var p *report.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}

// TestEachTroubleHasItsOwnCode wraps each error as the packages do.
func TestEachTroubleHasItsOwnCode(t *testing.T) {
	tests := []struct {
		of   func(error) error
		err  error
		want report.Code
	}{
		{tpmProblem, tpm.ErrLockout, report.TPMLockout},
		{tpmProblem, tpm.ErrCleared, report.TPMCleared},
		{tpmProblem, tpm.ErrOtherTPM, report.TPMOther},
		{tpmProblem, tpm.ErrDevice, report.TPMFailed},
		{nvProblem, tpm.ErrNVLocked, report.NVLocked},
		{nvProblem, tpm.ErrNVBlank, report.NVMissing},
		{nvProblem, tpm.ErrCleared, report.NVMissing},
		{nvProblem, tpm.ErrNVFull, report.NVFull},
		{nvProblem, nvslot.ErrForeign, report.NVForeign},
		{nvProblem, tpm.ErrPolicy, report.NVPolicyBad},
		{nvProblem, tpm.ErrDevice, report.TPMFailed},
		{nvProblem, tpm.ErrOtherTPM, report.TPMOther},
		{nvProblem, keyblob.ErrCorrupt, report.NVDamaged},
		{nvProblem, keyblob.ErrAuth, report.NVForeign},
		{nvProblem, keyblob.ErrMismatch, report.NVForeign},
		{diskProblem, errors.New("no disk with this volume was found"), report.DiskMissing},
		{diskProblem, disk.ErrTwins, report.DiskDuplicate},
		{diskProblem, errors.Join(luks2.ErrNoKeyslot, luks2.ErrMAC), report.DiskMAC},
		{diskProblem, luks2.ErrNoKeyslot, report.DiskKey},
		{diskProblem, luks2.ErrNoToken, report.DiskUnsealed},
		{diskProblem, &luks2.HeaderError{Code: "x"}, report.DiskHeader},
	}
	for _, tt := range tests {
		if got := code(tt.of(fmt.Errorf("read: %w", tt.err))); got != tt.want {
			t.Errorf("%v: got %s, want %s", tt.err, got, tt.want)
		}
	}
}

func TestPortConfig(t *testing.T) {
	cfg, mac, err := portConfig(testSlice(t).Interfaces[0])
	if err != nil {
		t.Fatal(err)
	}
	want := netconf.Want{Address: netip.MustParsePrefix("10.0.7.12/24"), Router: netip.MustParseAddr("10.0.7.1")}
	if cfg.Want != want || mac.String() != "52:54:00:00:00:01" {
		t.Errorf("got %+v %s, want %+v", cfg.Want, mac, want)
	}
}

// TestTheMostTellingProblemIsShown: of two ports one has no cable, on the other
// a wrong server answers; a retry without an answer does not hide that.
func TestTheMostTellingProblemIsShown(t *testing.T) {
	m, _ := testMachine(t, "/")
	n := &network{m: m, got: make(chan struct{}, 1), leases: map[string]*netconf.Lease{}, problems: map[string]*report.Problem{}}
	n.trouble("eth1", report.Errorf(report.NetNoCarrier, "eth1 has no carrier"))
	if got := code(n.worst()); got != report.NetNoCarrier {
		t.Errorf("got %s", got)
	}
	n.trouble("eth0", report.Errorf(report.NetWrongLease, "10.0.0.9 offers 10.0.0.5/24"))
	n.trouble("eth0", report.Errorf(report.NetNoLease, "nobody answers"))
	if err := n.worst(); code(err) != report.NetWrongLease || !strings.Contains(err.Error(), "10.0.0.9") {
		t.Errorf("got %v", err)
	}
	n.trouble("eth0", report.Errorf(report.NetNoCarrier, "eth0 has no carrier"))
	if err := n.worst(); code(err) != report.NetNoCarrier || !strings.Contains(err.Error(), "eth0 has no carrier\neth1 has no carrier") {
		t.Errorf("got %v, want both ports", err)
	}
}

func TestRootFirst(t *testing.T) {
	vols := rootFirst(testSlice(t).Volumes)
	if vols[0].Name != "root" || vols[1].Name != "data0" {
		t.Errorf("got %s, %s", vols[0].Name, vols[1].Name)
	}
}

func TestFilesystem(t *testing.T) {
	dir := t.TempDir()
	ext4 := filepath.Join(dir, "ext4")
	if err := os.WriteFile(ext4, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", ext4).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs (package e2fsprogs): %v\n%s", err, out)
	}
	kind, options, err := filesystem(ext4)
	if err != nil || kind != "ext4" || options != "noload" {
		t.Errorf("got %s, %s, %v", kind, options, err)
	}
	blank := filepath.Join(dir, "blank")
	if err := os.WriteFile(blank, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := filesystem(blank); err == nil {
		t.Error("a blank disk is taken for a file system")
	}
}

// TestInitrdInMemory: what is measured is the file as on the disk; what is
// loaded has the handover behind it, at a multiple of 4 bytes.
func TestInitrdInMemory(t *testing.T) {
	dir := t.TempDir()
	content := "070701 is how a cpio archive begins" // 35 bytes
	write(t, dir, "boot/initrd.img", content)
	write(t, dir, "boot/ucode.img", "070701 microcode")
	root, err := bootentry.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f, digests, err := readInitrd(root, []string{"/boot/initrd.img"}, 55)
	if err != nil {
		t.Fatal(err)
	}
	if initrdDigest(digests) != sha256.Sum256([]byte(content)) {
		t.Errorf("digests %x are not the file's", digests)
	}
	plain := f.size
	vols := []handover.Volume{{Name: "root", UUID: snapshot.VolumeUUID("a", "root"), Passphrase: secret.Take([]byte("correct horse")), Header: []byte("LUKS"), Root: true}}
	if err := appendHandover(f, vols); err != nil {
		t.Fatal(err)
	}
	all := make([]byte, f.size)
	if _, err := f.ReadAt(all, 0); err != nil {
		t.Fatal(err)
	}
	if plain != 36+4 || !bytes.HasPrefix(all[plain:], []byte("070701")) || !bytes.Contains(all, []byte("correct horse")) {
		t.Errorf("handover at %d of %d bytes: %.60q", plain, f.size, all[plain:])
	}
	if err := f.wipe(plain); err != nil {
		t.Error(err)
	}

	two, both, err := readInitrd(root, []string{"/boot/ucode.img", "/boot/initrd.img"}, 16+4+35)
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	a, b := sha256.Sum256([]byte("070701 microcode")), sha256.Sum256([]byte(content))
	if !slices.Equal(both, [][32]byte{a, b}) || initrdDigest(both) != sha256.Sum256(append(a[:], b[:]...)) || two.size != 16+4+36+4 {
		t.Errorf("two initrds: %d bytes, digests %x", two.size, both)
	}
	write(t, dir, "boot/bad.img", "hello")
	if _, _, err := readInitrd(root, []string{"/boot/bad.img"}, 55); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("no archive: got %v", err)
	}
	if _, _, err := readInitrd(root, []string{"/boot/gone.img"}, 55); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: got %v", err)
	}
}

// TestMemoryIsBounded: a root cannot fill the memory, with one file or several.
func TestMemoryIsBounded(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "vmlinuz", kernelFile("Linux"))
	write(t, dir, "initrd.img", "070701 initrd 16")
	write(t, dir, "large", "070701")
	if err := os.Truncate(filepath.Join(dir, "large"), 8<<20); err != nil {
		t.Fatal(err)
	}
	root, err := bootentry.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	kernel := int64(len(kernelFile("Linux")))
	tests := []struct {
		name    string
		kernel  string
		initrds []string
		limit   int64
		refused bool
	}{
		{"a kernel that just fits", "/vmlinuz", nil, kernel, false},
		{"a kernel that does not", "/vmlinuz", nil, kernel - 1, true},
		{"initrds that just fit", "", []string{"/initrd.img", "/initrd.img"}, 16 + 4 + 16, false},
		{"two that do not", "", []string{"/initrd.img", "/initrd.img"}, 16 + 4 + 15, true},
		{"a large one", "", []string{"/initrd.img", "/large"}, 1 << 20, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var f *memory
			var err error
			if tt.kernel != "" {
				f, _, err = readKernel(root, tt.kernel, tt.limit)
			} else {
				f, _, err = readInitrd(root, tt.initrds, tt.limit)
			}
			if err == nil {
				f.Close()
			}
			if refused := err != nil && strings.Contains(err.Error(), "a quarter of this machine's memory"); refused != tt.refused || !refused && err != nil {
				t.Errorf("got %v, want refused %v", err, tt.refused)
			}
		})
	}
}

func TestWipeOfMemoryFile(t *testing.T) {
	f, err := newMemory("test", 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := f.Write(bytes.Repeat([]byte("secret"), 20000))
	if err != nil {
		t.Fatal(err)
	}
	f.size = int64(n)
	dup, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer dup.Close()
	if err := f.wipe(6); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", dup.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(left, append([]byte("secret"), make([]byte, n-6)...)) {
		t.Errorf("not wiped: %.40q", left)
	}
}

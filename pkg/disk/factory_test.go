package disk

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"golang.org/x/crypto/xts"
)

// testDevice differs from run to run: cryptsetup's lock goes by UUID, for the
// whole host.
var testDevice = fmt.Sprintf("r07-u%d", os.Getpid())

func testDEK(seed string) *secret.Bytes {
	sum := sha256.Sum256([]byte(seed))
	return secret.Take(sum[:])
}

func volume(name, way, disk string, partition int) snapshot.Volume {
	use, need := "data", "optional"
	if name == "root" {
		use, need = "root", "required"
	}
	return snapshot.Volume{Name: name, UUID: snapshot.VolumeUUID(testDevice, name), Use: use, Need: need,
		Factory: &snapshot.Factory{Way: way, Disk: disk, Partition: partition}}
}

func command0(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// addExt adds a disk with a filesystem of fsMiB that holds some real data.
func (f *fakeTree) addExt(name, serial string, fsMiB, diskMiB int64) {
	f.t.Helper()
	plainOnly(f.t)
	f.disk(name, serial, fsMiB<<20)
	data := filepath.Join(f.dir, "data-"+name)
	b := make([]byte, 24<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	f.write(filepath.Join(data, "file"), string(b))
	command0(f.t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", data, f.path(name))
	if err := os.Truncate(f.path(name), diskMiB<<20); err != nil {
		f.t.Fatal(err)
	}
	f.add(name, name, 0, map[string]string{"serial": serial})
}

func newMaker(t testing.TB, f *fakeTree) *Maker {
	return &Maker{Tree: f.tree(), Dir: t.TempDir(), Logf: t.Logf}
}

// seal plans and makes all volumes, as cmds/seal does.
func seal(ctx context.Context, m *Maker, dek *secret.Bytes, vols ...snapshot.Volume) error {
	jobs, err := m.Plan(ctx, vols)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if err := m.Make(ctx, dek, j); err != nil {
			return err
		}
		if err := m.Seal(ctx, dek, testDevice, j, false); err != nil {
			return err
		}
	}
	return nil
}

// decrypted opens the volume by Finder, as a boot does, and returns its first n
// bytes as production will see them.
func decrypted(t testing.TB, f *fakeTree, dek *secret.Bytes, v snapshot.Volume, n int) []byte {
	t.Helper()
	v.Need = "required" // a busy machine takes longer than a boot waits for an optional one
	finder := &Finder{Tree: f.tree(), Volumes: []snapshot.Volume{v}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := finder.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	vol, err := finder.Open(ctx, dek, testDevice, v)
	if err != nil {
		t.Fatal(err)
	}
	defer vol.Key.Wipe()
	c, err := xts.NewCipher(aes.NewCipher, vol.Key.Key.Expose())
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	file, err := os.Open(vol.Device.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.ReadAt(b, int64(vol.Key.Offset)); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < n; i += 512 {
		c.Decrypt(b[i:i+512], b[i:i+512], uint64(i/512))
	}
	return b
}

func TestShrink(t *testing.T) {
	f := newTree(t)
	f.addExt("vda", "DISK-A", 160, 160)
	dek, v := testDEK("dek"), volume("root", "in-place", "DISK-A", 0)
	m := newMaker(t, f)
	jobs, err := m.Plan(context.Background(), []snapshot.Volume{v})
	if err != nil || jobs[0].Shrink != tailSize || !strings.Contains(jobs[0].String(), "shrunk by 32 MiB") {
		t.Fatalf("Plan = %v, %v", jobs, err)
	}
	if err := seal(context.Background(), m, dek, v); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "fs")
	f.write(image, string(decrypted(t, f, dek, v, 128<<20)))
	command0(t, "e2fsck", "-f", "-n", image)
	want := readFile(t, filepath.Join(f.dir, "data-vda/file"))
	out := filepath.Join(t.TempDir(), "file")
	command0(t, "debugfs", "-R", "dump /file "+out, image)
	if !bytes.Equal(readFile(t, out), want) {
		t.Error("the file in the shrunk filesystem differs")
	}
}

func TestFormat(t *testing.T) {
	f := newTree(t)
	f.disk("vdb", "DISK-B", 64<<20)
	dek, v := testDEK("dek"), volume("data0", "format", "DISK-B", 0)
	m := newMaker(t, f)
	jobs, err := m.Plan(context.Background(), []snapshot.Volume{v})
	if err != nil {
		t.Fatal(err)
	}
	if jobs[0].InUse() {
		t.Error("a blank disk counts as encrypted")
	}
	// Cut off before it was finished: made anew.
	if err := m.Make(context.Background(), testDEK("first try"), jobs[0]); err != nil {
		t.Fatal(err)
	}
	command0(t, "cryptsetup", "config", "--label", unfinishedLabel, f.path("vdb"))
	if jobs, err := m.Plan(context.Background(), []snapshot.Volume{v}); err != nil || jobs[0].State != StateToDo || jobs[0].InUse() {
		t.Fatalf("Plan of an unfinished volume = %v, %v", jobs, err)
	}
	if err := seal(context.Background(), m, dek, v); err != nil {
		t.Fatal(err)
	}
	if got := command0(t, "cryptsetup", "luksDump", f.path("vdb")); !strings.Contains(got, "sector: 4096") {
		t.Errorf("not the sector size of a fresh volume:\n%s", got)
	}
	if err := seal(context.Background(), m, dek, v); err != nil {
		t.Errorf("a run on a sealed volume: %v", err)
	}
}

// TestFormatKeepsData: a volume that was in use and has lost its token is
// never formatted again.
func TestFormatKeepsData(t *testing.T) {
	plainOnly(t)
	ctx := context.Background()
	dek, v := testDEK("dek"), volume("data0", "format", "DISK-B", 0)
	for name, damage := range map[string]func(path string){
		"token": func(path string) { command0(t, "cryptsetup", "token", "remove", "--token-id", "0", path) },
		"token, and a header that no server takes": func(path string) {
			command0(t, "cryptsetup", "token", "remove", "--token-id", "0", path)
			spoilKeyslot(t, path, dek, v.UUID)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTree(t)
			f.disk("vdb", "DISK-B", 64<<20)
			m := newMaker(t, f)
			if err := seal(ctx, m, dek, v); err != nil {
				t.Fatal(err)
			}
			want := decrypted(t, f, dek, v, 4096)
			damage(f.path("vdb"))
			before := readFile(t, f.path("vdb"))
			jobs, err := m.Plan(ctx, []snapshot.Volume{v})
			if name == "token" && (err != nil || jobs[0].State != StateEncrypted || !jobs[0].InUse() || !strings.Contains(jobs[0].String(), "data kept")) {
				t.Fatalf("Plan = %v, %v", jobs, err)
			}
			if err := seal(ctx, m, testDEK("another"), v); err == nil {
				t.Error("sealed under a key that does not open it")
			}
			if !bytes.Equal(before, readFile(t, f.path("vdb"))) {
				t.Fatal("the disk was written")
			}
			err = seal(ctx, m, dek, v)
			if name != "token" {
				if err == nil {
					t.Error("a header that no server takes was sealed")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(decrypted(t, f, dek, v, 4096), want) {
				t.Error("the volume's content is another")
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	head := func(f *fakeTree, name string, off int, magic string) {
		b := readFile(f.t, f.path(name))
		copy(b[off:], magic)
		f.write(f.path(name), string(b))
	}
	for _, tc := range []struct {
		name string
		vol  snapshot.Volume
		want string
		prep func(*fakeTree)
	}{
		{"no disk", volume("root", "in-place", "DISK-Z", 0), "no such disk; there are vda (serial DISK-A)", nil},
		{"two disks", volume("root", "in-place", "pci-0000:00:04.0", 0), "several disks", func(f *fakeTree) { f.disk("vdb", "DISK-B", 1<<20) }},
		{"XFS", volume("root", "in-place", "DISK-A", 0), "XFS cannot shrink", func(f *fakeTree) { head(f, "vda", 0, "XFSB") }},
		{"btrfs", volume("root", "in-place", "DISK-A", 0), "holds btrfs", func(f *fakeTree) { head(f, "vda", 65536+64, "_BHRfS_M") }},
		{"blank", volume("root", "in-place", "DISK-A", 0), "holds blank", func(f *fakeTree) { f.disk("vda", "DISK-A", 160<<20) }},
		{"RAID 1.2", volume("root", "in-place", "DISK-A", 0), "RAID member", func(f *fakeTree) { head(f, "vda", 4096, "\xfc\x4e\x2b\xa9") }},
		{"RAID 1.0", volume("root", "in-place", "DISK-A", 0), "RAID member", func(f *fakeTree) { head(f, "vda", 160<<20-8192, "\xfc\x4e\x2b\xa9") }},
		{"RAID 0.90", volume("data0", "format", "DISK-A", 0), "RAID member", func(f *fakeTree) {
			f.disk("vda", "DISK-A", 160<<20)
			head(f, "vda", 160<<20-65536, "\xfc\x4e\x2b\xa9")
		}},
		{"LVM", volume("root", "in-place", "DISK-A", 0), "LVM", func(f *fakeTree) { head(f, "vda", 512, "LABELONE") }},
		{"swap", volume("root", "in-place", "DISK-A", 0), "holds swap", func(f *fakeTree) {
			f.disk("vda", "DISK-A", 160<<20)
			head(f, "vda", 4096-10, "SWAPSPACE2")
		}},
		{"RAID 1.1", volume("data0", "format", "DISK-A", 0), "RAID member", func(f *fakeTree) { head(f, "vda", 0, "\xfc\x4e\x2b\xa9") }},
		{"LUKS1", volume("root", "in-place", "DISK-A", 0), "holds LUKS1", func(f *fakeTree) { head(f, "vda", 0, "LUKS\xba\xbe\x00\x01") }},
		{"format too small", volume("data0", "format", "DISK-B", 0), "too small for a volume", func(f *fakeTree) { f.disk("vdb", "DISK-B", 20<<20) }},
		{"too small", volume("root", "in-place", "DISK-B", 0), "too small", func(f *fakeTree) { f.addExt("vdb", "DISK-B", 64, 64) }},
		{"cut disk", volume("root", "in-place", "DISK-B", 0), "larger than the disk", func(f *fakeTree) { f.addExt("vdb", "DISK-B", 200, 130) }},
		{"blocks below the sectors", withSector(volume("root", "in-place", "DISK-B", 0), 4096), "would not mount from encryption sectors of 4096", func(f *fakeTree) {
			f.disk("vdb", "DISK-B", 160<<20)
			command0(f.t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", f.path("vdb"), "100M")
		}},
		{"read-only", volume("root", "in-place", "DISK-A", 0), "read-only", func(f *fakeTree) { f.add("vda", "vda", 0, map[string]string{"serial": "DISK-A", "ro": "1"}) }},
		{"mapped", volume("root", "in-place", "DISK-A", 0), "in use by md127", func(f *fakeTree) {
			f.add("vda", "vda", 0, map[string]string{"serial": "DISK-A", "holders/md127/x": ""})
		}},
		{"whole disk with partitions", volume("root", "in-place", "DISK-A", 0), "has partitions", func(f *fakeTree) {
			f.write(f.path("vda1"), strings.Repeat("x", 4096))
			f.add("vda1", "vda", 1, nil)
		}},
		{"other LUKS volume", volume("root", "in-place", "DISK-B", 0), "holds LUKS volume", func(f *fakeTree) {
			f.disk("vdb", "DISK-B", 160<<20)
			other := volume("data7", "format", "DISK-B", 0)
			m := &Maker{Tree: f.tree(), Dir: f.t.TempDir()}
			if err := seal(context.Background(), m, testDEK("dek"), other); err != nil {
				f.t.Fatal(err)
			}
		}},
		{"format over data", volume("data0", "format", "DISK-A", 0), "which formatting would destroy", nil},
		{"format over anything", volume("data0", "format", "DISK-B", 0), "unknown data", func(f *fakeTree) {
			f.disk("vdb", "DISK-B", 64<<20)
			head(f, "vdb", 9999, "x")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newTree(t)
			f.addExt("vda", "DISK-A", 96, 160)
			if tc.prep != nil {
				tc.prep(f)
			}
			jobs, err := newMaker(t, f).Plan(context.Background(), []snapshot.Volume{tc.vol})
			var refused *RefusedError
			var p *report.Problem
			if !errors.As(err, &p) || p.Code != report.FactoryDisk || p.Do == "" {
				t.Errorf("Plan: %v; want code %s with a repair", err, report.FactoryDisk)
			}
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), tc.want) || refused.Do == "" {
				t.Errorf("Plan = %v, %v; want a refusal with %q", jobs, err, tc.want)
			}
		})
	}
}

// TestPlanAll: all reasons come at once, and two volumes never share a device.
func TestPlanAll(t *testing.T) {
	f := newTree(t)
	f.disk("vdb", "DISK-B", 64<<20)
	_, err := newMaker(t, f).Plan(context.Background(), []snapshot.Volume{
		volume("root", "in-place", "DISK-A", 0), volume("data0", "format", "vdb", 0), volume("data1", "format", "DISK-B", 0)})
	if err == nil || !strings.Contains(err.Error(), "no such disk") || !strings.Contains(err.Error(), "volume data0 lies there too") {
		t.Errorf("Plan: %v", err)
	}
}

// TestPlanRefusesMounted takes a real block device, of which the kernel knows
// that it is in use.
func TestPlanRefusesMounted(t *testing.T) {
	f := newTree(t)
	f.addExt("vda", "DISK-A", 96, 160)
	loop := strings.TrimSpace(command0(t, "losetup", "--find", "--show", f.path("vda")))
	t.Cleanup(func() { command0(t, "losetup", "--detach", loop) })
	dir := t.TempDir()
	v := volume("root", "in-place", filepath.Base(loop), 0)
	m := &Maker{Dir: t.TempDir()}
	if _, err := m.Plan(context.Background(), []snapshot.Volume{v}); err != nil {
		t.Fatalf("before it is mounted: %v", err)
	}
	command0(t, "mount", "-o", "ro", loop, dir)
	t.Cleanup(func() { command0(t, "umount", dir) })
	jobs, err := m.Plan(context.Background(), []snapshot.Volume{v})
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "it is in use: mounted") {
		t.Errorf("Plan = %v, %v", jobs, err)
	}
}

// TestSecretsStayInside looks for DEK and passphrase where others could read
// them: arguments and environment of every program that runs meanwhile, the
// disk, the work folder, what is told.
func TestSecretsStayInside(t *testing.T) {
	f := newTree(t)
	f.addExt("vda", "DISK-A", 96, 160)
	dek, v := testDEK("dek"), volume("root", "in-place", "DISK-A", 0)
	pass := testPassphrase(t, dek, v.UUID)
	m := newMaker(t, f)
	var said bytes.Buffer
	m.Logf = func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }
	done := make(chan struct{})
	seen := make(chan map[string]bool)
	go func() { seen <- watchProcesses(done) }()
	if err := seal(context.Background(), m, dek, v); err != nil {
		t.Fatal(err)
	}
	close(done)
	programs := 0
	for text := range <-seen {
		if strings.Contains(text, "cryptsetup") {
			programs++
		}
		said.WriteString(text)
	}
	if programs == 0 {
		t.Error("saw no run of cryptsetup: the test looks in the wrong place")
	}
	said.Write(readFile(t, f.path("vda")))
	for _, s := range []*secret.Bytes{dek, pass} {
		for _, form := range [][]byte{s.Expose(), []byte(fmt.Sprintf("%x", s.Expose()))} {
			if bytes.Contains(said.Bytes(), form) {
				t.Error("a secret was found")
			}
		}
	}
	if left, err := os.ReadDir(m.Dir); err != nil || len(left) > 0 {
		t.Errorf("left in the work folder: %v, %v", left, err)
	}
}

// watchProcesses collects argument lists and environments until done.
func watchProcesses(done <-chan struct{}) map[string]bool {
	seen := map[string]bool{}
	for {
		select {
		case <-done:
			return seen
		default:
		}
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, name := range files {
			cmd, err := os.ReadFile(name)
			if err != nil || !bytes.Contains(cmd, []byte("cryptsetup")) && !bytes.Contains(cmd, []byte("e2fs")) {
				continue
			}
			env, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "environ"))
			seen[string(cmd)+string(env)] = true
		}
	}
}

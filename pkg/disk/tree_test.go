package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeTree is a sysfs and a /dev whose devices are files: Tree, Finder and
// cryptsetup see the same as of real disks. The tests with real disks are the
// scenarios in qemu/.
type fakeTree struct {
	t   testing.TB
	dir string
}

func newTree(t testing.TB) *fakeTree {
	return &fakeTree{t, t.TempDir()}
}

func (f *fakeTree) tree() Tree {
	return Tree{Sys: filepath.Join(f.dir, "sys"), Dev: filepath.Join(f.dir, "dev")}
}

func (f *fakeTree) path(name string) string { return filepath.Join(f.dir, "dev", name) }

func (f *fakeTree) write(name, text string) {
	f.t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// add makes a disk, or with a partition number one partition of disk; name is
// the kernel's. The content is the file's, which must be at /dev/name already.
func (f *fakeTree) add(name, disk string, partition int, attrs map[string]string) {
	f.t.Helper()
	dir := filepath.Join(f.dir, "sys/devices/pci0000:00/0000:00:04.0/virtio1/block", disk)
	if partition > 0 {
		dir = filepath.Join(dir, name)
		f.write(filepath.Join(dir, "partition"), fmt.Sprintln(partition))
	}
	st, err := os.Stat(f.path(name))
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(filepath.Join(dir, "size"), fmt.Sprintln(st.Size()/512))
	f.write(filepath.Join(dir, "ro"), "0\n")
	for k, v := range attrs {
		f.write(filepath.Join(dir, k), v)
	}
	link := filepath.Join(f.dir, "sys/class/block", name)
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		f.t.Fatal(err)
	}
	_ = os.Remove(link)
	if err := os.Symlink(dir, link); err != nil {
		f.t.Fatal(err)
	}
}

// disk adds a whole disk of size bytes, all zeros, with a serial number.
func (f *fakeTree) disk(name, serial string, size int64) {
	f.t.Helper()
	f.write(f.path(name), "")
	if err := os.Truncate(f.path(name), size); err != nil {
		f.t.Fatal(err)
	}
	f.add(name, name, 0, map[string]string{"serial": serial + "\n"})
}

func TestScan(t *testing.T) {
	f := newTree(t)
	f.disk("vda", "DISK-A", 8<<20)
	f.write(f.path("vda1"), "")
	if err := os.Truncate(f.path("vda1"), 4<<20); err != nil {
		t.Fatal(err)
	}
	f.add("vda1", "vda", 1, map[string]string{"uevent": "DEVNAME=vda1\nPARTN=1\nPARTNAME=LANDFALL\n", "ro": "1", "holders/dm-0/x": ""})
	f.disk("dm-0", "", 1<<20)
	f.disk("sr0", "", 1<<20)
	f.disk("vdb", "", 0)
	f.disk("sda", "", 1<<20)
	f.write(filepath.Join(f.dir, "sys/class/block/sda/device/vpd_pg80"), "\x00\x80\x00\x06 S12 ")
	got, err := f.tree().Scan()
	if err != nil {
		t.Fatal(err)
	}
	const pci = "0000:00:04.0"
	want := []Device{
		{Name: "sda", Path: f.path("sda"), Size: 1 << 20, Disk: "sda", Serial: "S12", PCI: pci},
		{Name: "vda", Path: f.path("vda"), Size: 8 << 20, Disk: "vda", Serial: "DISK-A", PCI: pci},
		{Name: "vda1", Path: f.path("vda1"), Size: 4 << 20, Disk: "vda", Partition: 1, PartName: "LANDFALL", Serial: "DISK-A", PCI: pci, ReadOnly: true, Holders: []string{"dm-0"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Scan (-want +got):\n%s", diff)
	}
	if l := Landfall(got); len(l) != 1 || l[0].Name != "vda1" {
		t.Errorf("Landfall = %v", l)
	}
}

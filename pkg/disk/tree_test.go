package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/snapshot"
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
	pci := []string{"0000:00:04.0"}
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

// TestNVMeMultipath: sysfs of a drive with two ports, as Linux 6 shows it with
// native multipath. The namespace is a virtual device below its subsystem, and
// each path to it a hidden disk below a controller; only the namespace has a
// node. It answers to its serial number and to either port's PCI address.
func TestNVMeMultipath(t *testing.T) {
	f := newTree(t)
	f.write(f.path("nvme6n1"), "")
	if err := os.Truncate(f.path("nvme6n1"), 8<<20); err != nil {
		t.Fatal(err)
	}
	sys := filepath.Join(f.dir, "sys")
	link := func(to, from string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(sys, from)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(sys, to), filepath.Join(sys, from)); err != nil {
			t.Fatal(err)
		}
	}
	const subsystem = "devices/virtual/nvme-subsystem/nvme-subsys6"
	f.write(filepath.Join(sys, subsystem, "serial"), "S6CKNE0T\n")
	disk := func(name, dir, hidden, size string) {
		t.Helper()
		f.write(filepath.Join(sys, dir, name, "size"), size)
		f.write(filepath.Join(sys, dir, name, "hidden"), hidden)
		link(dir, filepath.Join(dir, name, "device"))
		link(filepath.Join(dir, name), "class/block/"+name)
	}
	disk("nvme6n1", subsystem, "0\n", "16384\n")
	for controller, function := range map[string]string{"nvme6": "pci0000:00/0000:00:1d.0/0000:3d:00.0", "nvme7": "pci0000:80/0000:80:1d.0/0000:bd:00.0"} {
		dir := filepath.Join("devices", function, "nvme", controller)
		f.write(filepath.Join(sys, dir, "serial"), "S6CKNE0T\n")
		link(dir, filepath.Join(subsystem, controller))
		disk("nvme6c"+controller[4:]+"n1", dir, "1\n", "16384\n")
	}
	got, err := f.tree().Scan()
	if err != nil {
		t.Fatal(err)
	}
	want := []Device{{Name: "nvme6n1", Path: f.path("nvme6n1"), Size: 8 << 20, Disk: "nvme6n1", Serial: "S6CKNE0T",
		PCI: []string{"0000:3d:00.0", "0000:bd:00.0"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Scan (-want +got):\n%s", diff)
	}
	for _, name := range []string{"nvme6n1", "S6CKNE0T", "pci-0000:3d:00.0", "pci-0000:bd:00.0"} {
		d, err := locate(got, snapshot.Volume{Name: "root", Factory: &snapshot.Factory{Disk: name}})
		if err != nil || d.Name != "nvme6n1" {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

// Package disk finds block devices and opens a device's LUKS2 volumes; in the
// factory it also makes them.
//
// Opening believes nothing that a disk says: of all devices with a volume's
// UUID only the one is taken whose volume-key MAC holds under the device's DEK
// (pkg/luks2). Making is cryptsetup's job, which this package drives, and whose
// result it opens with its own code before a volume counts as sealed.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// sectorSize is the unit of /sys/class/block/*/size, whatever the disk's own.
const sectorSize = 512

// Tree is where the kernel shows its block devices. Its zero value is the
// running machine: /sys and /dev.
type Tree struct {
	Sys string
	Dev string
}

func (t Tree) sys() string { return orDefault(t.Sys, "/sys") }
func (t Tree) dev() string { return orDefault(t.Dev, "/dev") }

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// Device is a block device: a disk or a partition.
type Device struct {
	Name      string   // the kernel's: vda, nvme0n1p2
	Path      string   // /dev/vda
	Size      int64    // bytes
	Block     int      // logical block size in bytes; 0 where the kernel does not say
	Disk      string   // name of the whole disk, Name itself when it is one
	Partition int      // from 1; 0 for a whole disk
	PartName  string   // GPT partition name
	Serial    string   // of the disk; "" when it has none
	WWID      string   // of the disk, if it has a name that no other has
	PCI       []string // addresses of the PCI functions closest to the disk, 0000:00:04.0: one, or one for each port of an NVMe drive
	ReadOnly  bool     // the kernel refuses writes
	Holders   []string // devices on top of it: dm-0, md127
}

// Scan lists the disks and partitions that can hold a volume, sorted by name.
// Mappings, RAM disks, empty drives and the single paths to a multipath NVMe
// namespace, which have no node, are left out; loop devices are in.
func (t Tree) Scan() ([]Device, error) {
	class := filepath.Join(t.sys(), "class/block")
	entries, err := os.ReadDir(class) // sorted by name, and so is what Scan returns
	if err != nil {
		return nil, fmt.Errorf("list block devices: %w", err)
	}
	var out []Device
	for _, e := range entries {
		if skipName(e.Name()) {
			continue
		}
		d, err := t.read(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // unplugged meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("block device %s: %w", e.Name(), err)
		}
		if d != nil && d.Size > 0 {
			out = append(out, *d)
		}
	}
	return out, nil
}

func skipName(name string) bool {
	for _, p := range []string{"dm-", "ram", "zram", "sr", "fd", "nbd"} {
		if rest, ok := strings.CutPrefix(name, p); ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			return true
		}
	}
	return false
}

// read returns nil for a disk that the kernel hides.
func (t Tree) read(name string) (*Device, error) {
	dir := filepath.Join(t.sys(), "class/block", name)
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	if readText(real, "hidden") == "1" {
		return nil, nil
	}
	size, err := readInt(real, "size")
	if err != nil {
		return nil, err
	}
	d := &Device{Name: name, Path: filepath.Join(t.dev(), name), Size: size * sectorSize, Disk: name}
	disk := real
	if n, err := readInt(real, "partition"); err == nil {
		d.Partition = int(n)
		disk = filepath.Dir(real)
		d.Disk = filepath.Base(disk)
	}
	for _, line := range strings.Split(readText(real, "uevent"), "\n") {
		if v, ok := strings.CutPrefix(line, "PARTNAME="); ok {
			d.PartName = v
		}
	}
	d.Serial, d.WWID = serial(disk), wwid(disk)
	d.PCI = pciAddresses(disk)
	if n, err := readInt(disk, "queue/logical_block_size"); err == nil {
		d.Block = int(n)
	}
	d.ReadOnly = readText(real, "ro") == "1"
	holders, _ := os.ReadDir(filepath.Join(real, "holders")) // absent: none
	for _, h := range holders {
		d.Holders = append(d.Holders, h.Name())
	}
	return d, nil
}

// serial looks where virtio, NVMe, MMC and SCSI drivers show it.
func serial(disk string) string {
	for _, f := range []string{"serial", "device/serial"} {
		if s := readText(disk, f); s != "" {
			return s
		}
	}
	// Unit Serial Number page (SPC-4, 7.8.18): 4 bytes of header, then text.
	if page, err := os.ReadFile(filepath.Join(disk, "device/vpd_pg80")); err == nil && len(page) > 4 {
		return strings.TrimSpace(string(page[4:]))
	}
	return ""
}

// wwid is a name that no other disk has: an NAA or EUI-64 identifier (SPC-4,
// 7.8.6). Vendors' texts ("t10.") are none: cheap drives share them.
func wwid(disk string) string {
	for _, f := range []string{"device/wwid", "wwid"} {
		if s := readText(disk, f); strings.HasPrefix(s, "naa.") || strings.HasPrefix(s, "eui.") {
			return s
		}
	}
	return ""
}

// samePlace says whether two devices are two paths to one place: a SAS drive with
// two ports is a disk at each of them. Not protected: a copy that claims the
// drive's WWID may be taken for it, as it would be alone.
func samePlace(a, b Device) bool {
	return a.WWID != "" && a.WWID == b.WWID && a.Partition == b.Partition && a.Size == b.Size
}

// pciAddresses returns the PCI functions that a disk hangs on. A namespace of an
// NVMe subsystem with multipath is a virtual device; the subsystem, the folder
// that it lies in, has a link to each controller.
func pciAddresses(disk string) []string {
	if a := pciAddress(disk); a != "" {
		return []string{a}
	}
	subsystem := filepath.Dir(disk)
	if !strings.HasPrefix(filepath.Base(subsystem), "nvme-subsys") {
		return nil
	}
	entries, err := os.ReadDir(subsystem)
	if err != nil {
		return nil // unplugged meanwhile
	}
	var all []string
	for _, e := range entries {
		controller, err := filepath.EvalSymlinks(filepath.Join(subsystem, e.Name()))
		if err != nil || filepath.Base(filepath.Dir(controller)) != "nvme" {
			continue
		}
		if a := pciAddress(controller); a != "" {
			all = append(all, a)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// pciAddress takes the last component of the form dddd:bb:dd.f.
func pciAddress(path string) string {
	found := ""
	for _, c := range strings.Split(path, "/") {
		if len(c) == 12 && c[4] == ':' && c[7] == ':' && c[10] == '.' {
			found = c
		}
	}
	return found
}

func readText(dir, file string) string {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return "" // an attribute that this driver lacks
	}
	return strings.TrimSpace(string(b))
}

func readInt(dir, file string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || n < 0 || n > 1<<53 {
		return 0, fmt.Errorf("%s is no size: %q", file, b)
	}
	return n, nil
}

// Landfall returns the partitions named LANDFALL. There may be several, for
// anybody can make one: the content decides.
func Landfall(devs []Device) []Device {
	var out []Device
	for _, d := range devs {
		if d.PartName == snapshot.PartitionName {
			out = append(out, d)
		}
	}
	return out
}

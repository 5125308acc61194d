package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestDiskImage: util-linux sees the same as our reader, and no damage in either
// copy, on disks with sectors of either size.
func TestDiskImage(t *testing.T) {
	part := readTestdata(t, "part-v1.img")
	for sector, start := range map[int]string{512: "2048", 4096: "256"} {
		disk, err := DiskImage(part, 4<<20, sector)
		if err != nil {
			t.Fatal(err)
		}
		g, err := ReadGPT(bytes.NewReader(disk), SectorSizes())
		if err != nil || g.Sector != sector || len(g.Partitions) != 1 || g.Partitions[0].Type != GPTLinux() || g.Partitions[0].Size != 2<<20 {
			t.Errorf("ReadGPT = %+v, %v", g, err)
		}
		off, size, err := FindPartition(bytes.NewReader(disk), 4<<20, SectorSizes())
		if err != nil || off != 1<<20 {
			t.Fatalf("FindPartition = %d, %d, %v", off, size, err)
		}
		if _, err := ReadPart(io.NewSectionReader(bytes.NewReader(disk), off, size), size); err != nil {
			t.Error(err)
		}
		file := filepath.Join(t.TempDir(), "disk.img")
		if err := os.WriteFile(file, disk, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("fdisk", "-b", strconv.Itoa(sector), "-l", "-o", "Start,Type,Name", file).CombinedOutput()
		if err != nil || !slices.Equal(strings.Fields(string(out[bytes.LastIndex(out, []byte("Name"))+4:])), []string{start, "Linux", "filesystem", "LANDFALL"}) {
			t.Errorf("fdisk -l: %v\n%s", err, out)
		}
		check := exec.Command("fdisk", "-b", strconv.Itoa(sector), file)
		check.Stdin = strings.NewReader("v\nq\n")
		if out, err := check.CombinedOutput(); err != nil || !strings.Contains(string(out), "No errors detected") || strings.Contains(string(out), "corrupt") {
			t.Errorf("fdisk verifies: %v\n%s", err, out)
		}
	}
}

// sum makes the checksums of a table right.
func sum(disk []byte, sector int) []byte {
	h, le := disk[sector:][:gptHeaderSize], binary.LittleEndian
	if n, at := int(le.Uint32(h[80:])*le.Uint32(h[84:])), int(le.Uint64(h[72:]))*sector; at+n <= len(disk) {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(disk[at:at+n]))
	}
	le.PutUint32(h[16:], 0)
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	return disk
}

// flip returns a disk with one bit that is another.
func flip(disk []byte, at int) []byte {
	d := bytes.Clone(disk)
	d[at] ^= 1
	return d
}

// TestFindPartitionAlone: a LANDFALL partition that lies where something else
// does, or nowhere, is not one to write to.
func TestFindPartitionAlone(t *testing.T) {
	const size = 4 << 20
	landfall := func(first, last uint64) []byte {
		d := make(memory, size)
		g := GPT{Sector: 512, Partitions: []GPTPartition{
			{Type: GPTLinux(), Name: PartitionName, Offset: 1 << 20, Size: 1 << 20},
			{Type: GPTLinux(), Name: "root", Offset: 2 << 20, Size: 1 << 20}}}
		if err := g.Write(d, size); err != nil {
			t.Fatal(err)
		}
		return sum(lie(d, first, last), 512)
	}
	twice := landfall(2048, 4095)
	copy(twice[1024+128+56:], twice[1024+56:1024+128])
	both, err := DiskImage(nil, size, 4096)
	if err != nil {
		t.Fatal(err)
	}
	copy(both[512:], landfall(2048, 4095)[512:604])
	binary.LittleEndian.PutUint64(both[512+40:], 512+32)
	binary.LittleEndian.PutUint64(both[512+72:], 512)
	copy(both[512*512:], landfall(2048, 4095)[1024:][:gptEntries*gptEntrySize])
	sum(both, 512)
	beyond := landfall(2048, 4095)
	binary.LittleEndian.PutUint64(beyond[512+32:], 1<<31)
	binary.LittleEndian.PutUint64(beyond[512+48:], 1<<30)
	for name, tt := range map[string]struct {
		disk    []byte
		sectors []int
		want    string
	}{
		"alone":               {landfall(2048, 4095), SectorSizes(), ""},
		"two of the name":     {sum(twice, 512), SectorSizes(), "more than one"},
		"over another":        {landfall(2048, 4096), SectorSizes(), `over the partition "root"`},
		"in another":          {landfall(4100, 4103), SectorSizes(), `over the partition "root"`},
		"over the table":      {landfall(0, 4095), SectorSizes(), "over the partition table"},
		"over the copy":       {landfall(6144, 8191), SectorSizes(), "over the partition table"},
		"beyond the usable":   {landfall(8192, 1<<30), SectorSizes(), "over the partition table"},
		"beyond the disk":     {sum(lie(beyond, 6144, 9000), 512), SectorSizes(), "ends at 4608512 of 4194304 bytes"},
		"two tables":          {both, SectorSizes(), "two GPTs"},
		"two, sectors of 512": {both, []int{512}, ""},
		"two, sectors of 4 K": {both, []int{4096}, ""},
	} {
		off, length, err := FindPartition(bytes.NewReader(tt.disk), size, tt.sectors)
		if tt.want == "" && err == nil && off == 1<<20 && length > 0 {
			continue
		}
		if tt.want == "" || err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, ErrNoPartition) {
			t.Errorf("%s: FindPartition = %d, %d, %v; want %q", name, off, length, err, tt.want)
		}
	}
}

// lie says where the first partition begins and ends.
func lie(disk []byte, first, last uint64) []byte {
	binary.LittleEndian.PutUint64(disk[1024+32:], first)
	binary.LittleEndian.PutUint64(disk[1024+40:], last)
	return disk
}

func TestFindPartitionRefuses(t *testing.T) {
	disk, err := DiskImage(nil, 4<<20, 512)
	if err != nil {
		t.Fatal(err)
	}
	patch := func(off int, b ...byte) []byte {
		d := bytes.Clone(disk)
		copy(d[off:], b)
		return sum(d, 512)
	}
	for name, d := range map[string][]byte{
		"short":               disk[:100],
		"no GPT":              patch(512, 0),
		"other name":          patch(1024+56, 'X'),
		"longer name":         patch(1024+56+16, 'X'),
		"many entries":        patch(512+80, 0xff, 0xff, 0xff),
		"of other sectors":    append(append(bytes.Clone(disk[:512]), make([]byte, 3584)...), patch(512+72, 9)[512:]...),
		"in another place":    patch(512+24, 2),
		"tiny entries":        patch(512+84, 1, 0, 0, 0),
		"ends before start":   patch(1024+40, 0, 0),
		"a wrong header":      flip(disk, 512+56),
		"wrong entries":       flip(disk, 1024+40),
		"sectors of 4 KiB":    disk[512:], // a header, where it would be, that is not in its place
		"usable from MBR":     patch(512+40, 0, 0),
		"usable over entries": patch(512+40, 33, 0),
		"the MBR is usable, entries at the end": func() []byte {
			d := patch(512+40, 0, 0)
			copy(d[512+72:], []byte{0xdf, 0x1f})
			return sum(d, 512)
		}(),
		"usable to the copy": patch(512+48, 0xff, 0x1f),
	} {
		if off, size, err := FindPartition(bytes.NewReader(d), int64(len(d)), SectorSizes()); !errors.Is(err, ErrNoPartition) {
			t.Errorf("%s: FindPartition = %d, %d, %v", name, off, size, err)
		}
	}
	for name, g := range map[string]GPT{
		"sectors of 2 KiB":       {Sector: 2048},
		"no whole sectors":       {Sector: 4096, Partitions: []GPTPartition{{Offset: 1<<20 + 512, Size: 4096}}},
		"over the second copy":   {Sector: 512, Partitions: []GPTPartition{{Offset: 1 << 20, Size: 3 << 20}}},
		"over the first entries": {Sector: 512, Partitions: []GPTPartition{{Offset: 4096, Size: 1 << 20}}},
	} {
		if err := g.Write(make(memory, 4<<20), 4<<20); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	if _, err := DiskImage(make([]byte, 3<<20), 4<<20, 512); err == nil {
		t.Error("content does not fit and was accepted")
	}
}

func TestComplete(t *testing.T) {
	want := goodSlice(t)
	region := &Region{Type: RegionType, Name: want.Region, Members: want.Fleet.Members}
	keys := TPMKeys{want.Device.EKName, want.Device.AKName, want.Device.SRKName, want.Device.SRKPublic}
	desc := []byte(`{"device": {"id": "r07-u12", "roles": ["server"]},
		"interfaces": [{"name": "eth0", "mac": "52:54:00:00:00:01", "addresses": ["10.0.7.12/24"]}],
		"volumes": [{"name": "root", "use": "root", "need": "required"}]}`)
	s, err := ParseDescription(desc)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Complete(region, want.Fleet.CA, keys); err != nil {
		t.Fatal(err)
	}
	if s.Device.AKName != keys.AKName || s.Volumes[0].UUID != VolumeUUID("r07-u12", "root") || s.Policy.Lease != "strict" || s.Generation != 1 {
		t.Errorf("completed to %+v", s)
	}
	s, _ = ParseDescription(desc)
	s.Region = "south"
	if err := s.Complete(region, want.Fleet.CA, keys); err == nil {
		t.Error("a description of another region was accepted")
	}
	for _, bad := range []string{`{"devices": {}}`, `{} {}`, `[`} {
		if _, err := ParseDescription([]byte(bad)); err == nil {
			t.Errorf("%s accepted", bad)
		}
	}
}

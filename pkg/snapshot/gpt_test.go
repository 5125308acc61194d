package snapshot

import (
	"bytes"
	"errors"
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
		g, err := ReadGPT(bytes.NewReader(disk))
		if err != nil || g.Sector != sector || len(g.Partitions) != 1 || g.Partitions[0].Type != GPTLinux() || g.Partitions[0].Size != 2<<20 {
			t.Errorf("ReadGPT = %+v, %v", g, err)
		}
		off, size, err := FindPartition(bytes.NewReader(disk))
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

func TestFindPartitionRefuses(t *testing.T) {
	disk, err := DiskImage(nil, 4<<20, 512)
	if err != nil {
		t.Fatal(err)
	}
	patch := func(off int, b ...byte) []byte {
		d := bytes.Clone(disk)
		copy(d[off:], b)
		return d
	}
	for name, d := range map[string][]byte{
		"short":             disk[:100],
		"no GPT":            patch(512, 0),
		"other name":        patch(1024+56, 'X'),
		"longer name":       patch(1024+56+16, 'X'),
		"many entries":      patch(512+80, 0xff, 0xff, 0xff),
		"of other sectors":  append(append(bytes.Clone(disk[:512]), make([]byte, 3584)...), patch(512+72, 9)[512:]...),
		"in another place":  patch(512+24, 2),
		"tiny entries":      patch(512+84, 1, 0, 0, 0),
		"ends before start": patch(1024+40, 0, 0),
	} {
		if off, size, err := FindPartition(bytes.NewReader(d)); !errors.Is(err, ErrNoPartition) {
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

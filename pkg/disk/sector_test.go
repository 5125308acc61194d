package disk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// filesystem returns an image with a filesystem of 32 MiB, made by args.
func filesystem(t *testing.T, args ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs")
	if err := os.WriteFile(path, make([]byte, 32<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	command0(t, args[0], append(args[1:], path)...)
	return readFile(t, path)
}

func withSector(v snapshot.Volume, size int) snapshot.Volume {
	v.Factory.SectorSize = size
	return v
}

// TestImageMounts: a filesystem whose blocks are smaller than what dm-crypt would
// have is encrypted in sectors that it mounts from, or refused.
func TestImageMounts(t *testing.T) {
	plainOnly(t)
	small := filesystem(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024")
	large := filesystem(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096")
	for _, tc := range []struct {
		name   string
		image  []byte
		sector int    // the plan's
		disk   string // logical block size
		want   uint32 // encryption sector; 0: refused
		do     string
	}{
		{"default", small, 0, "512", 512, ""},
		{"as the plan says", large, 4096, "512", 4096, ""},
		{"disk of 4096", large, 0, "4096", 512, ""},
		{"plan's too large", small, 4096, "512", 0, "\"sector_size\": 512"},
		{"disk's too large", small, 0, "4096", 0, "larger blocks"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newTree(t)
			f.disk("vdb", "DISK-B", 64<<20)
			f.add("vdb", "vdb", 0, map[string]string{"serial": "DISK-B", "queue/logical_block_size": tc.disk + "\n"})
			m := newMaker(t, f)
			m.Images = &memoryImage{b: bytes.Clone(tc.image)}
			err := seal(context.Background(), m, testDEK("dek"), imageVolume(tc.sector))
			if tc.want == 0 {
				var p *report.Problem
				if !errors.As(err, &p) || p.Code != report.FactoryImage || !strings.Contains(p.Do, tc.do) {
					t.Fatalf("got %v", err)
				}
				// The plan, or the disk, is mended: it starts over.
				f.add("vdb", "vdb", 0, map[string]string{"serial": "DISK-B", "queue/logical_block_size": "512\n"})
				m.Images = &memoryImage{b: bytes.Clone(tc.image)}
				err, tc.want = seal(context.Background(), m, testDEK("dek"), imageVolume(0)), 512
			}
			if err != nil {
				t.Fatal(err)
			}
			if h := headerOf(t, f.path("vdb")); h.SectorSize != tc.want {
				t.Errorf("encryption sectors of %d bytes, want %d", h.SectorSize, tc.want)
			}
		})
	}
}

// TestSizeOfAnySectors: a partition may end at any sector of its disk.
func TestSizeOfAnySectors(t *testing.T) {
	plainOnly(t)
	const whole = 160 << 20
	for _, tc := range []struct {
		name, way string
		size      int64
		sector    int    // the plan's
		want      uint32 // encryption sector; 0: refused
	}{
		{"whole sectors", "format", whole, 0, 4096},
		{"one of 512 more", "format", whole + 512, 0, 512},
		{"as the plan says", "format", whole + 512, 512, 512},
		{"the plan's are too large", "format", whole + 512, 4096, 0},
		{"the plan's are too large, in place", "in-place", whole + 3*512, 4096, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newTree(t)
			f.disk("vdb", "DISK-B", tc.size)
			err := seal(context.Background(), newMaker(t, f), testDEK("dek"), withSector(volume("data", tc.way, "DISK-B", 0), tc.sector))
			if tc.want == 0 {
				var refused *RefusedError
				if !errors.As(err, &refused) || !strings.Contains(refused.Why, "no whole number of encryption sectors of 4096") || !strings.Contains(refused.Do, "smaller") {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if h := headerOf(t, f.path("vdb")); h.SectorSize != tc.want {
				t.Errorf("encryption sectors of %d bytes, want %d", h.SectorSize, tc.want)
			}
		})
	}
}

// TestLeastBlock knows the filesystems that it names, and nothing else.
func TestLeastBlock(t *testing.T) {
	xfs := make([]byte, 512)
	copy(xfs, "XFSB")
	xfs[102] = 2 // sb_sectsize, big-endian: 512
	for name, tc := range map[string]struct {
		head []byte
		want int
	}{
		"ext4 of 1024": {filesystem(t, "mke2fs", "-q", "-F", "-b", "1024"), 1024},
		"ext4 of 4096": {filesystem(t, "mke2fs", "-q", "-F", "-b", "4096"), 4096},
		"XFS of 512":   {xfs, 512},
		"zeros":        {make([]byte, 4096), 0},
		"a short one":  {[]byte("XFSB"), 0},
	} {
		if got := leastBlock(tc.head); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}

// TestDiskOf4096 encrypts in place on a block device that takes whole blocks of
// 4096 bytes only.
func TestDiskOf4096(t *testing.T) {
	plainOnly(t)
	f, content := newTree(t), filesystem(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096")
	f.disk("vdb", "DISK-B", 160<<20)
	f.write(f.path("vdb"), string(content))
	if err := os.Truncate(f.path("vdb"), 160<<20); err != nil {
		t.Fatal(err)
	}
	loop := strings.TrimSpace(command0(t, "losetup", "--find", "--show", "--sector-size", "4096", f.path("vdb")))
	t.Cleanup(func() { command0(t, "losetup", "--detach", loop) })
	m, v := &Maker{Dir: t.TempDir(), Logf: t.Logf}, volume("root", "in-place", filepath.Base(loop), 0)
	jobs, err := m.Plan(context.Background(), []snapshot.Volume{v})
	if err != nil || jobs[0].Device.Block != 4096 {
		t.Fatalf("Plan = %+v, %v", jobs, err)
	}
	if err := seal(context.Background(), m, testDEK("dek"), v); err != nil {
		t.Fatal(err)
	}
	command0(t, "sync")
	if !bytes.Equal(decrypted(t, f, testDEK("dek"), v, len(content)), content) {
		t.Error("the data is not what it was")
	}
}

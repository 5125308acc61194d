package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// TestDiskFails: a disk that fails half-way is named with its serial number and
// the place, and once it works the next run goes on.
func TestDiskFails(t *testing.T) {
	ctx := context.Background()
	ext := newTree(t)
	ext.addExt("vda", "DISK-A", 64, 128)
	filesystem := readFile(t, ext.path("vda"))
	content := noise(9 << 20)
	for _, tc := range []struct {
		name     string
		way      string
		from, to int64
		read     bool
		want     string
	}{
		{"in place, write", "in-place", 30 << 20, 30<<20 + 4096, false, "at byte "},
		{"in place, read", "in-place", 20 << 20, 20<<20 + 4096, true, "at byte "},
		{"in place, saved head", "in-place", 118 << 20, 118<<20 + 4096, false, ""},
		{"in place, header", "in-place", 4096, 8192, false, ""},
		{"image, content", "image", 20 << 20, 20<<20 + 4096, false, "write at byte 20971520"},
		{"image, header", "image", 0, 4096, false, ""},
		{"image, keyslots", "image", 64 << 10, 128 << 10, false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newTree(t)
			v := volume("data0", "in-place", "DISK-B", 0)
			before := filesystem
			if tc.way == "image" {
				v, before = imageVolume(0), make([]byte, 64<<20)
			}
			d := onDisk(t, f, "vdb", "DISK-B", bytes.Clone(before))
			m, dek := newMaker(t, f), testDEK("dek")
			m.Recovery = testDEK("recovery")
			m.Images = &memoryImage{b: bytes.Clone(content)}
			if tc.read {
				d.FailReads(tc.from, tc.to)
			} else {
				d.FailWrites(tc.from, tc.to)
			}
			err := seal(ctx, m, dek, v)
			var p *report.Problem
			if !errors.As(err, &p) || p.Code != report.FactoryDiskError || !strings.Contains(p.What, "serial DISK-B") || !strings.Contains(p.What, tc.want) {
				t.Fatalf("got %v, want %s with %q", err, report.FactoryDiskError, tc.want)
			}
			d.Repair()
			if err := seal(ctx, m, dek, v); err != nil {
				t.Fatal(err)
			}
			if tc.way == "image" {
				if got := plain(t, f, dek, v, len(content)); !bytes.Equal(got, content) {
					t.Error("another content")
				}
			} else if got := decrypted(t, f, dek, v, 64<<20); !bytes.Equal(got, before[:64<<20]) {
				t.Error("the decrypted volume differs from the original filesystem")
			}
		})
	}
}

// TestToolFails: a program that fails for a reason of its own.
func TestToolFails(t *testing.T) {
	f := newTree(t)
	f.disk("vdb", "DISK-B", 64<<20)
	v := volume("data0", "format", "DISK-B", 0)
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "cryptsetup"), []byte("#!/bin/sh\necho first line >&2\necho something odd >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	err := seal(context.Background(), newMaker(t, f), testDEK("dek"), v)
	var p *report.Problem
	if !errors.As(err, &p) || p.Code != report.FactoryTool || !strings.Contains(p.What, "something odd") || strings.Contains(p.What, "first line") {
		t.Errorf("got %v, want %s", err, report.FactoryTool)
	}
}

// TestRefusalsAreOneProblem: all disks are listed, each with its repair.
func TestRefusalsAreOneProblem(t *testing.T) {
	f := newTree(t)
	f.disk("vdb", "DISK-B", 64<<20)
	f.add("vdb", "vdb", 0, map[string]string{"serial": "DISK-B", "ro": "1"})
	missing, readOnly := volume("root", "in-place", "DISK-A", 0), volume("data0", "format", "DISK-B", 0)
	plan := func(vols ...snapshot.Volume) *report.Problem {
		_, err := newMaker(t, f).Plan(context.Background(), vols)
		var p *report.Problem
		if !errors.As(err, &p) || p.Code != report.FactoryDisk {
			t.Fatalf("got %v, want %s", err, report.FactoryDisk)
		}
		return p
	}
	if p := plan(readOnly); p.Do != "remove its write protection, or replace it" {
		t.Errorf("the repair of one disk: %q", p.Do)
	}
	p := plan(missing, readOnly)
	for _, want := range []string{"no such disk", "seat the disk", "read-only", "write protection"} {
		if !strings.Contains(p.What, want) {
			t.Errorf("%q is missing in:\n%s", want, p.What)
		}
	}
	if p.Do != "" {
		t.Errorf("one repair for two disks: %q", p.Do)
	}
}

// TestTooFull: a filesystem without room for the shift is refused before
// anything is written, not by resize2fs half-way.
func TestTooFull(t *testing.T) {
	f := newTree(t)
	f.addExt("vda", "DISK-A", 160, 160)
	b := readFile(t, f.path("vda"))
	binary.LittleEndian.PutUint32(b[1024+12:], 100)
	f.write(f.path("vda"), string(b))
	_, err := newMaker(t, f).Plan(context.Background(), []snapshot.Volume{volume("root", "in-place", "DISK-A", 0)})
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Why, "too full") {
		t.Errorf("Plan: %v", err)
	}
}

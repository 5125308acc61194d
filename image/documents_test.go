package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// TestKeepDocuments: what a person wrote onto a boot volume is not built over.
func TestKeepDocuments(t *testing.T) {
	part := readFile(t, "../pkg/snapshot/testdata/part-v1.img")
	volume := func(content []byte, sector int) []byte {
		b, err := snapshot.DiskImage(content, 4<<20, sector)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, tt := range []struct {
		name      string
		disk      []byte // server.disk; nil without
		partition []byte
		force     bool
		want      string // part of the error; none without
	}{
		{"nothing", nil, nil, false, ""},
		{"an earlier build's", volume(nil, 512), nil, false, ""},
		{"documents", volume(part, 512), nil, false, "is not empty (`snapshot part show "},
		{"documents, sectors of 4096", volume(part, 4096), nil, false, "-force writes over it"},
		{"documents, others to come", volume(part, 512), part[:512], false, "is not empty"},
		{"documents of the same -part", volume(part, 512), part, false, ""},
		{"something else", volume([]byte("hello"), 512), nil, false, "is not empty"},
		{"no disk image", []byte("hello"), nil, false, "is no boot volume that image wrote"},
		{"documents, and -force", volume(part, 512), nil, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := job{settings: settings{out: t.TempDir(), force: tt.force}, partition: tt.partition, flavours: []builder.Flavour{builder.Factory, builder.Server}}
			name := filepath.Join(j.out, "server.disk")
			if tt.disk != nil {
				if err := os.WriteFile(name, tt.disk, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := j.keepDocuments()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), name)) {
				t.Errorf("got %v, want the file and %q", err, tt.want)
			}
		})
	}
}

// TestKeptBeforeBuilding: the command itself asks, before it builds.
func TestKeptBeforeBuilding(t *testing.T) {
	out := t.TempDir()
	b, err := snapshot.DiskImage(readFile(t, "../pkg/snapshot/testdata/part-v1.img"), 4<<20, 512)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(out, "server.disk"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = settings{flavour: "server", kernel: "cloud", version: "1", sectorSize: 512, out: out}.job(nil, nil)
	if err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("got %v, want a refusal", err)
	}
}

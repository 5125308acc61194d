package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/uki/ukitest"
)

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestListInitrd: whatever the kernel would unpack is listed, wherever in the
// initrd it is, and what cannot be listed is an error.
func TestListInitrd(t *testing.T) {
	one, two := ukitest.Initrd("one", "1"), ukitest.Initrd("two", "22")
	zeros := make([]byte, 512)
	tests := []struct {
		name   string
		initrd []byte
		want   string // names, or part of the error
		fails  bool
	}{
		{"empty", nil, "", false},
		{"plain", one, "one", false},
		{"two plain", slices.Concat(one, zeros, two), "one two", false},
		{"zstd", compressed(one), "one", false},
		{"gzip", gzipped(t, one), "one", false},
		{"one behind zstd", slices.Concat(compressed(one), two), "one two", false},
		{"one behind gzip", slices.Concat(gzipped(t, one), zeros, compressed(two)), "one two", false},
		{"two in zstd", compressed(slices.Concat(one, zeros, two)), "one two", false},
		{"two in gzip", gzipped(t, slices.Concat(one, two)), "one two", false},
		{"microcode, then zstd", slices.Concat(one, compressed(two), zeros), "one two", false},
		{"something behind an archive in zstd", compressed(slices.Concat(one, []byte("x"))), "something else than an archive", true},
		{"zstd in zstd", compressed(compressed(one)), "something else than an archive", true},
		{"xz", []byte("\xfd7zXZ\x00"), "neither cpio nor zstd nor gzip", true},
		{"something behind an archive", append(bytes.Clone(one), "x"...), "neither cpio nor zstd nor gzip", true},
		{"cut off", one[:115], "EOF", true},
		{"zstd cut off", compressed(one)[:20], "cut off", true},
		{"broken header", bytes.Replace(one, []byte("070701"), []byte("07070z"), 1), "no header", true},
		{"broken number", bytes.Replace(one, []byte("070701"), []byte("070701-"), 1), "invalid syntax", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files, err := listInitrd(tt.initrd)
			if tt.fails {
				if !errors.Is(err, errInitrd) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
				return
			}
			var names []string
			for _, f := range files {
				names = append(names, f.name)
			}
			if diff := cmp.Diff(tt.want, strings.Join(names, " ")); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// TestZstdFrame measures frames of the program that makes our images, with and
// without checksum and size.
func TestZstdFrame(t *testing.T) {
	for _, args := range [][]string{{"-19"}, {"--no-check"}, {"--no-content-size"}, {"-1", "--no-check", "--no-content-size"}} {
		for _, size := range []int{0, 100, 1 << 12, 1 << 20} {
			cmd := exec.Command("zstd", append(args, "-qc")...)
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(i * i >> 7)
			}
			cmd.Stdin = bytes.NewReader(data)
			frame, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			if n, err := zstdFrame(append(frame, 0x28, 0xb5, 0x2f, 0xfd)); err != nil || n != len(frame) {
				t.Errorf("zstd %v of %d bytes: got %d, %v, want %d", args, size, n, err, len(frame))
			}
		}
	}
}

func FuzzInitrd(f *testing.F) {
	one := ukitest.Initrd("one", "1")
	f.Add(one)
	f.Add(compressed(one))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := listInitrd(b); err != nil && !errors.Is(err, errInitrd) {
			t.Errorf("another error: %v", err)
		}
	})
}

package diskimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// disk is a raw image of n bytes with text at an offset.
func disk(n, at int, text string) []byte {
	b := make([]byte, n)
	copy(b[at:], text)
	return b
}

// TestExamine: what is said of a file before it is fetched. The qcow2 and zstd
// files are those of qemu-img and zstd's own encoder.
func TestExamine(t *testing.T) {
	const n = 1 << 20
	ext4 := disk(n, 1080, "\x53\xef")
	piped := func() []byte {
		var b bytes.Buffer
		w, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(ext4); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil { // a stream whose size is not known yet
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}()
	for name, tt := range map[string]struct {
		file   []byte
		format Format
		want   string // "": nothing
	}{
		"raw":               {ext4, Raw, ""},
		"zstd":              {pack(t, ext4), RawZstd, ""},
		"qcow2":             {cow(t, ext4), Qcow2, ""},
		"smallest":          {make([]byte, 4096), Raw, ""},
		"empty":             {nil, Raw, "it is empty"},
		"text":              {[]byte("abc\n"), Raw, "4 bytes, too few"},
		"cut":               {ext4[:n-1], Raw, "no whole sectors"},
		"vmdk":              {disk(n, 0, "KDMV"), Raw, "it is a vmdk; `qemu-img convert"},
		"vmdk, old":         {disk(n, 0, "COWD"), Raw, "it is a vmdk"},
		"vmdk description":  {disk(n, 0, "# Disk DescriptorFile\n"), Raw, "description of a vmdk"},
		"vhdx":              {disk(n, 0, "vhdxfile"), Raw, "it is a vhdx"},
		"vhd":               {disk(n, 0, "conectix"), Raw, "it is a vhd;"},
		"vdi":               {disk(n, 0x40, "\x7f\x10\xda\xbe"), Raw, "it is a vdi"},
		"gzip":              {disk(n, 0, "\x1f\x8b\x08"), Raw, "gunzip"},
		"xz":                {disk(n, 0, "\xfd7zXZ\x00"), Raw, "unxz"},
		"bzip2":             {disk(n, 0, "BZh9"), Raw, "bunzip2"},
		"lz4":               {disk(n, 0, "\x04\x22\x4d\x18"), Raw, "unlz4"},
		"zip":               {disk(n, 0, "PK\x03\x04"), Raw, "it is a zip"},
		"7z":                {disk(n, 0, "7z\xbc\xaf\x27\x1c"), Raw, "it is a 7z"},
		"tar":               {disk(n, 257, "ustar"), Raw, "it is a tar"},
		"ISO":               {disk(n, 32769, "CD001"), Raw, "it is an ISO"},
		"GPT":               {disk(n, 512, "EFI PART"), Raw, "disk with partitions"},
		"GPT, 4096":         {disk(n, 4096, "EFI PART"), Raw, "disk with partitions"},
		"GPT in zstd":       {pack(t, disk(n, 512, "EFI PART")), RawZstd, "disk with partitions"},
		"GPT in qcow2":      {cow(t, disk(n, 512, "EFI PART")), Qcow2, "disk with partitions"},
		"vmdk as qcow2":     {disk(n, 0, "KDMV"), Qcow2, "it is a vmdk"},
		"raw as qcow2":      {ext4, Qcow2, "it is no qcow2: its format is raw"},
		"qcow2 as raw":      {cow(t, ext4), Raw, "it is no raw: its format is qcow2"},
		"zstd as raw":       {pack(t, ext4), Raw, "it is no raw: its format is raw.zst"},
		"zstd of a pipe":    {piped, RawZstd, "not through a pipe"},
		"pzstd":             {disk(n, 0, "\x50\x2a\x4d\x18\x04\x00\x00\x00"), RawZstd, "not with pzstd"},
		"zstd of a text":    {pack(t, []byte("abc\n")), RawZstd, "too few"},
		"backing file":      {edited(cow(t, ext4), 8, 1024), Qcow2, "has a backing file; `qemu-img convert"},
		"not closed":        {edited(cow(t, ext4), 72, 1), Qcow2, "not closed cleanly"},
		"qcow2, cut":        {cow(t, ext4)[:70000], Qcow2, "qcow2"},
		"zstd, cut at once": {pack(t, noise(n))[:20], RawZstd, "of 1048576 bytes only"},
	} {
		err := Examine(bytes.NewReader(tt.file), int64(len(tt.file)), tt.format)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	if err := Examine(bytes.NewReader(piped), int64(len(piped)), RawZstd); !errors.Is(err, ErrFormat) {
		t.Errorf("not the machine's own words: %v", err)
	}
}

// cow is content in a qcow2 file of qemu-img's.
func cow(t *testing.T, content []byte) []byte {
	t.Helper()
	raw, name := filepath.Join(t.TempDir(), "raw"), filepath.Join(t.TempDir(), "qcow2")
	if err := os.WriteFile(raw, content, 0o644); err != nil {
		t.Fatal(err)
	}
	qemu(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, name)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// edited puts a number of 8 bytes into a qcow2 header.
func edited(b []byte, at int, value uint64) []byte {
	binary.BigEndian.PutUint64(b[at:], value)
	return b
}

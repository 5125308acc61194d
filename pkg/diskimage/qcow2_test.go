package diskimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/report"
)

// qemu runs a program of Debian's package qemu-utils.
func qemu(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v (Debian's package qemu-utils): %v\n%s", args, err, out)
	}
}

// rawOf is the guest's bytes as qemu-img sees them.
func rawOf(t *testing.T, image string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "raw")
	qemu(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, out)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// guest is n bytes with holes, text, noise and zeros, none of them aligned.
func guest(n int) []byte {
	b := make([]byte, n)
	copy(b[n/16:], noise(n/8))
	copy(b[n/3:], strings.Repeat("the quick brown fox jumps over the lazy dog ", n/300+1)[:n/8])
	copy(b[n-n/7:], noise(n/7))
	return b
}

func readQcow2(t *testing.T, name string) (*qcow2, []byte, error) {
	t.Helper()
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	q, err := newQcow2(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil, nil, err
	}
	defer q.Close()
	got, err := io.ReadAll(q)
	return q, got, err
}

// TestQcow2AsQEMUDoes compares what is read with what qemu-img reads, of images
// that it made.
func TestQcow2AsQEMUDoes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, size := range []int{66048, 5<<20 + 512} {
		raw := filepath.Join(dir, "raw")
		if err := os.WriteFile(raw, guest(size), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, cluster := range []string{"512", "64k", "2M"} {
			for _, options := range []string{
				"compat=0.10", "compat=1.1", "compat=1.1,compression_type=zstd", "compat=1.1,preallocation=metadata",
				"compat=1.1,preallocation=full", "compat=1.1,lazy_refcounts=on,refcount_bits=64",
			} {
				for _, flags := range []string{"", "-c", "-S0"} {
					if flags == "-c" && strings.Contains(options, "prealloc") {
						continue // qemu-img refuses both
					}
					name := filepath.Join(dir, "image.qcow2")
					args := []string{"qemu-img", "convert", "-O", "qcow2", "-o", options + ",cluster_size=" + cluster}
					if flags != "" {
						args = append(args, flags)
					}
					qemu(t, append(args, raw, name)...)
					what := fmt.Sprintf("%d bytes, clusters of %s, %s %s", size, cluster, options, flags)
					q, got, err := readQcow2(t, name)
					if err != nil {
						t.Errorf("%s: %v", what, err)
						continue
					}
					if q.size != int64(size) || !bytes.Equal(got, guest(size)) {
						t.Errorf("%s: other bytes (size %d)", what, q.size)
					}
				}
			}
		}
	}
}

// TestQcow2Written compares images that a guest wrote to: zero clusters,
// discards, compressed beside plain ones, snapshots, grown ones.
func TestQcow2Written(t *testing.T) {
	t.Parallel()
	for _, cluster := range []string{"512", "64k"} {
		for _, create := range []string{"compat=0.10", "compat=1.1", "compat=1.1,compression_type=zstd"} {
			name := filepath.Join(t.TempDir(), "image.qcow2")
			qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", create+",cluster_size="+cluster, name, "3145728")
			io := []string{"qemu-io", "-f", "qcow2", "-c", "write -q -P 0x11 0 1M", "-c", "write -q -z 65536 131072", "-c", "write -q -P 0x22 1000448 512",
				"-c", "discard -q 524288 65536", "-c", "write -q -c -P 0x33 1310720 65536", "-c", "write -q -P 0x44 1310720 1024", "-c", "write -q -c -P 0x55 1572864 65536",
				"-c", "write -q -P 0x66 3145216 512"}
			qemu(t, append(io, name)...)
			qemu(t, "qemu-img", "snapshot", "-q", "-c", "before", name)
			qemu(t, "qemu-io", "-f", "qcow2", "-c", "write -q -P 0x77 2048 4096", "-c", "write -q -z 1310720 65536", name)
			_, got, err := readQcow2(t, name)
			if err != nil {
				t.Fatal(create, err)
			}
			if want := rawOf(t, name); !bytes.Equal(got, want) || want[2048] != 0x77 {
				t.Errorf("%s, clusters of %s: other bytes than qemu-img's", create, cluster)
			}
			if create == "compat=0.10" {
				continue // no snapshot may be of another size
			}
			qemu(t, "qemu-img", "resize", "-q", name, "3200000")
			_, got, err = readQcow2(t, name)
			if want := rawOf(t, name); err != nil || len(want) < 3200000 || !bytes.Equal(got, want) {
				t.Errorf("%s, clusters of %s, grown: %v", create, cluster, err)
			}
		}
	}
}

func TestQcow2OverHTTPS(t *testing.T) {
	dir := t.TempDir()
	raw, name := filepath.Join(dir, "raw"), filepath.Join(dir, "image.qcow2")
	content := guest(30 << 20)
	if err := os.WriteFile(raw, content, 0o644); err != nil {
		t.Fatal(err)
	}
	qemu(t, "qemu-img", "convert", "-c", "-O", "qcow2", raw, name)
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	s := newStation(t, file)
	im, err := s.fetcher(t).Open(ctx, s.source(Qcow2))
	if err != nil {
		t.Fatal(err)
	}
	if im.Size != 30<<20 {
		t.Errorf("size = %d", im.Size)
	}
	head := make([]byte, 1000)
	if _, err := io.ReadFull(im, head); err != nil {
		t.Fatal(err)
	}
	s.misbehave(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	rest, err := io.ReadAll(im)
	if err != nil || !bytes.Equal(append(head, rest...), content) {
		t.Errorf("read %d bytes: %v", 1000+len(rest), err)
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}

	// Not one byte of another file is parsed, be it another from the beginning or
	// from the second reading on.
	src := s.source(Qcow2)
	src.SHA256[3] ^= 1
	if _, err := s.fetcher(t).Open(ctx, src); codeOf(err) != report.FactoryImage || !errors.Is(err, ErrDigest) {
		t.Errorf("another file: %v", err)
	}
	if im, err = s.fetcher(t).Open(ctx, s.source(Qcow2)); err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	changed := bytes.Clone(file)
	changed[len(changed)-100] ^= 1
	s.replace(changed)
	n, err := io.Copy(io.Discard, im)
	if codeOf(err) != report.FactoryImage || !errors.Is(err, ErrDigest) || n == im.Size {
		t.Errorf("changed meanwhile: %d bytes, %v", n, err)
	}
}

// small is an image with clusters of 512 bytes, of each kind.
func small(t testing.TB, options string) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "small.qcow2")
	for _, args := range [][]string{
		{"qemu-img", "create", "-q", "-f", "qcow2", "-o", options + ",cluster_size=512", name, "40k"},
		{"qemu-io", "-f", "qcow2", "-c", "write -q -P 1 0 512", "-c", "write -q -c -P 2 512 512", "-c", "write -q -z 1024 512", "-c", "write -q -P 3 39424 1024", name},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(b []byte, at int, v any) {
	if _, err := binary.Encode(b[at:], binary.BigEndian, v); err != nil {
		panic(err)
	}
}

func TestQcow2Refused(t *testing.T) {
	good := small(t, "compat=1.1")
	l1 := int(binary.BigEndian.Uint64(good[40:]))
	l2 := int(binary.BigEndian.Uint64(good[l1:]) & entryOffset)
	for name, edit := range map[string]func(b []byte) []byte{
		"empty":                  func(b []byte) []byte { return nil },
		"header cut off":         func(b []byte) []byte { return b[:100] },
		"magic":                  func(b []byte) []byte { b[3]++; return b },
		"version 1":              func(b []byte) []byte { put(b, 4, uint32(1)); return b },
		"version 4":              func(b []byte) []byte { put(b, 4, uint32(4)); return b },
		"backing file":           func(b []byte) []byte { put(b, 8, uint64(200)); return b },
		"clusters of 256":        func(b []byte) []byte { put(b, 20, uint32(8)); return b },
		"clusters of 4 MiB":      func(b []byte) []byte { put(b, 20, uint32(22)); return b },
		"encrypted":              func(b []byte) []byte { put(b, 32, uint32(2)); return b },
		"dirty":                  func(b []byte) []byte { put(b, 72, uint64(1)); return b },
		"corrupt":                func(b []byte) []byte { put(b, 72, uint64(2)); return b },
		"data file":              func(b []byte) []byte { put(b, 72, uint64(4)); return b },
		"zstd, but deflate":      func(b []byte) []byte { put(b, 72, uint64(8)); return b },
		"extended L2":            func(b []byte) []byte { put(b, 72, uint64(16)); return b },
		"unknown feature":        func(b []byte) []byte { put(b, 72, uint64(1)<<63); return b },
		"header length":          func(b []byte) []byte { put(b, 100, uint32(96)); return b },
		"header of 4 GiB":        func(b []byte) []byte { put(b, 100, uint32(0xfffffff8)); return b },
		"compression unknown":    func(b []byte) []byte { put(b, 72, uint64(8)); b[104] = 2; return b },
		"size absurd":            func(b []byte) []byte { put(b, 24, ^uint64(0)); return b },
		"size above the table":   func(b []byte) []byte { put(b, 24, uint64(1)<<30); return b },
		"table of 4 G entries":   func(b []byte) []byte { put(b, 36, ^uint32(0)); return b },
		"table too short":        func(b []byte) []byte { put(b, 36, uint32(0)); return b },
		"table past the end":     func(b []byte) []byte { put(b, 36, uint32(1<<20)); return b },
		"table not aligned":      func(b []byte) []byte { put(b, 40, uint64(l1)+8); return b },
		"table outside":          func(b []byte) []byte { put(b, 40, uint64(1)<<40); return b },
		"L1 reserved bit":        func(b []byte) []byte { b[l1+7] |= 1; return b },
		"L1 reserved high bit":   func(b []byte) []byte { b[l1] |= 0x40; return b },
		"L2 outside":             func(b []byte) []byte { put(b, l1, uint64(1)<<40); return b },
		"L2 not aligned":         func(b []byte) []byte { b[l1+6] ^= 2; put(b, 20, uint32(10)); return b },
		"entry reserved bit":     func(b []byte) []byte { b[l2+7] |= 2; return b },
		"entry reserved high":    func(b []byte) []byte { b[l2] |= 0x20; return b },
		"cluster outside":        func(b []byte) []byte { put(b, l2, uint64(1)<<40); return b },
		"compressed outside":     func(b []byte) []byte { put(b, l2, uint64(entryCompressed|1<<40)); return b },
		"compressed is none":     func(b []byte) []byte { put(b, l2, uint64(entryCompressed|l1)); return b },
		"compressed is cut off":  func(b []byte) []byte { put(b, l2, uint64(entryCompressed|(len(b)-1))); return b },
		"version 2 zero cluster": func(b []byte) []byte { put(b, 4, uint32(2)); return b },
	} {
		b := edit(bytes.Clone(good))
		q, err := newQcow2(bytes.NewReader(b), int64(len(b)))
		if err == nil {
			_, err = io.Copy(io.Discard, q)
		}
		if !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := newQcow2(bytes.NewReader(good), int64(len(good))); err != nil {
		t.Errorf("the image that these were made of: %v", err)
	}
}

var update = flag.Bool("update", false, "write the fuzzer's first inputs anew")

func FuzzQcow2(f *testing.F) {
	if *update {
		for name, options := range map[string]string{"v2": "compat=0.10", "v3": "compat=1.1", "zstd": "compat=1.1,compression_type=zstd"} {
			dir := filepath.Join("testdata", "fuzz", "FuzzQcow2")
			text := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", small(f, options))
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "qemu-"+name), []byte(text), 0o644)); err != nil {
				f.Fatal(err)
			}
		}
	}
	const limit = 1 << 20
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := newQcow2(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		defer q.Close()
		if len(q.l1)*8 > len(b) {
			t.Errorf("a table of %d entries from %d bytes", len(q.l1), len(b))
		}
		n, err := io.Copy(io.Discard, io.LimitReader(q, limit))
		if err == nil && n != min(q.size, limit) || err != nil && !errors.Is(err, ErrFormat) {
			t.Errorf("%d of %d bytes: %v", n, q.size, err)
		}
	})
}

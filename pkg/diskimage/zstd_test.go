package diskimage

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/landfall-project/landfall/pkg/report"
)

// pack compresses with the real zstd: a file, so that its size is in the header.
func pack(t testing.TB, content []byte, args ...string) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("zstd", append(args, "-q", "-c", name)...).Output()
	if err != nil {
		t.Fatalf("zstd (Debian's package zstd): %v", err)
	}
	return out
}

// sparse is an image that compresses: noise, zeros, noise.
func sparse(n int) []byte {
	b := make([]byte, n)
	copy(b, noise(n/8))
	copy(b[n-n/8:], noise(n/8))
	return b
}

func TestZstd(t *testing.T) {
	content := sparse(5<<20 + 3)
	for _, args := range [][]string{{"-3"}, {"-19"}, {"--long=27"}, {"--no-check"}} {
		s := newStation(t, pack(t, content, args...))
		s.misbehave(cut(s, 2000))
		im, err := s.fetcher(t).Open(ctx, s.source(RawZstd))
		if err != nil {
			t.Fatal(args, err)
		}
		if im.Size != int64(len(content)) {
			t.Errorf("%v: size = %d", args, im.Size)
		}
		if got, err := io.ReadAll(im); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%v: %d bytes, %v", args, len(got), err)
		}
		if err := im.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestZstdRefused(t *testing.T) {
	content := sparse(1 << 20)
	good := pack(t, content)
	pipe := exec.Command("zstd", "-q", "-c")
	pipe.Stdin = bytes.NewReader(content)
	piped, err := pipe.Output()
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, file := range map[string][]byte{
		"empty":           {},
		"no content size": piped,
		"cut off":         good[:len(good)-10],
		"two frames":      append(bytes.Clone(good), good...),
		"garbage behind":  append(bytes.Clone(good), "garbage"...),
		"damaged":         flipped,
		"skippable first": append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, good...),
	} {
		s := newStation(t, file)
		im, err := s.fetcher(t).Open(ctx, s.source(RawZstd))
		if err == nil {
			_, err = io.Copy(io.Discard, im)
			im.Close()
		}
		if codeOf(err) != report.FactoryImage || !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Another file that decodes: only its digest tells.
	s := newStation(t, good)
	src := s.source(RawZstd)
	src.SHA256[0] ^= 1
	im, err := s.fetcher(t).Open(ctx, src)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if n, err := io.Copy(io.Discard, im); n != 1<<20 || !errors.Is(err, ErrDigest) {
		t.Errorf("another file: %d bytes, %v", n, err)
	}
}

// TestZstdClosedEarly: whoever stops in the middle waits for nobody.
func TestZstdClosedEarly(t *testing.T) {
	s := newStation(t, pack(t, noise(8<<20)))
	im, err := s.fetcher(t).Open(ctx, s.source(RawZstd))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(im, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}
	if _, err := im.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("a closed image that was not read to its end: %v", err)
	}
}

// FuzzZstd is about memory and time: what is decoded is bounded by what the
// header says, as Image.Read does.
func FuzzZstd(f *testing.F) {
	for _, args := range [][]string{{"-3"}, {"--no-check"}, {"-19", "--long=27"}} {
		f.Add(pack(f, sparse(3000), args...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		size, dec, err := openZstd(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		defer dec.Close()
		im := &Image{Size: size, left: size, body: dec, url: "https://station/images/x", fetched: func() error { return nil }, verify: func() error { return nil }}
		n, err := io.CopyN(io.Discard, im, 1<<20)
		if err == io.EOF && n != size || n > size || err != nil && err != io.EOF && codeOf(err) != report.FactoryImage {
			t.Errorf("%d of %d bytes: %v", n, size, err)
		}
	})
}

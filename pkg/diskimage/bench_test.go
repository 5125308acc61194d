package diskimage

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkFetch fetches, verifies and decodes 64 MiB over loopback, without a
// disk behind it.
func BenchmarkFetch(b *testing.B) {
	content := sparse(64 << 20)
	name := filepath.Join(b.TempDir(), "raw")
	if err := os.WriteFile(name, content, 0o644); err != nil {
		b.Fatal(err)
	}
	packed := filepath.Join(b.TempDir(), "qcow2")
	qemu(b, "qemu-img", "convert", "-c", "-O", "qcow2", name, packed)
	cow, err := os.ReadFile(packed)
	if err != nil {
		b.Fatal(err)
	}
	for format, file := range map[Format][]byte{Raw: content, RawZstd: pack(b, content), Qcow2: cow} {
		b.Run(string(format), func(b *testing.B) {
			s := newStation(b, file)
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				im, err := s.fetcher(b).Open(ctx, s.source(format))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, im); err != nil {
					b.Fatal(err)
				}
				im.Close()
			}
		})
	}
}

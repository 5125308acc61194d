package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/disk/disktest"
	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// memoryImage is an image in memory. It ends as its digest says, and may be cut.
type memoryImage struct {
	b    []byte
	size int64        // what it says; 0: its length
	end  error        // instead of io.EOF
	at   func(n int)  // told how many bytes were read
	open func() error // may refuse
}

func (i *memoryImage) Open(_ context.Context, _ *snapshot.VolumeImage) (io.ReadCloser, int64, error) {
	if i.open != nil {
		if err := i.open(); err != nil {
			return nil, 0, err
		}
	}
	size := i.size
	if size == 0 {
		size = int64(len(i.b))
	}
	return &imageReader{i, 0}, size, nil
}

type imageReader struct {
	*memoryImage
	n int
}

func (r *imageReader) Read(p []byte) (int, error) {
	n := copy(p, r.b[r.n:])
	r.n += n
	if r.at != nil {
		r.at(r.n)
	}
	if n == 0 && r.end != nil {
		return 0, r.end
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (r *imageReader) Close() error { return nil }

func imageVolume(sectorSize int) snapshot.Volume {
	v := volume("data0", "image", "DISK-B", 0)
	v.Factory.SectorSize = sectorSize
	v.Factory.Image = &snapshot.VolumeImage{URL: "images/debian.raw", Format: "raw.zst"}
	return v
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// plain decrypts a copy of the disk with cryptsetup, which knows nothing of our
// own XTS.
func plain(t *testing.T, f *fakeTree, dek *secret.Bytes, v snapshot.Volume, n int) []byte {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	f.write(path, string(readFile(t, f.path("vdb"))))
	cmd := exec.Command("cryptsetup", "reencrypt", "--decrypt", "-q", "--force-offline-reencrypt", "--header", filepath.Join(dir, "header"), "--key-file", "-", path)
	cmd.Stdin = bytes.NewReader(testPassphrase(t, dek, v.UUID).Expose())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return readFile(t, path)[:n]
}

// TestImage writes images of odd lengths, with both sector sizes, and has
// cryptsetup decrypt them.
func TestImage(t *testing.T) {
	for _, sector := range []int{0, 512, 4096} {
		f := newTree(t)
		f.disk("vdb", "DISK-B", 64<<20)
		dek, v := testDEK("dek"), imageVolume(sector)
		content := noise(9<<20 + 700)
		m := newMaker(t, f)
		m.Images = &memoryImage{b: content}
		var last [3]int64
		m.Progress = func(name string, done, total, rate int64) { last = [3]int64{done, total, min(rate, 1)} }
		if err := seal(context.Background(), m, dek, v); err != nil {
			t.Fatal(err)
		}
		if got := plain(t, f, dek, v, len(content)); !bytes.Equal(got, content) {
			t.Errorf("sector size %d: cryptsetup decrypts something else", sector)
		}
		if n := int64(len(content)); last != [3]int64{n, n, 1} {
			t.Errorf("progress ends with %v", last)
		}
		if h := headerOf(t, f.path("vdb")); sector != 0 && int(h.SectorSize) != sector || h.Label != "" {
			t.Errorf("sector size %d, label %q", h.SectorSize, h.Label)
		}
	}
}

// TestImageNoPlaintext looks at every write that reached the disk.
func TestImageNoPlaintext(t *testing.T) {
	plainOnly(t)
	f := newTree(t)
	d := onDisk(t, f, "vdb", "DISK-B", make([]byte, 64<<20))
	content := noise(6 << 20)
	m := newMaker(t, f)
	m.Images = &memoryImage{b: bytes.Clone(content)}
	if err := seal(context.Background(), m, testDEK("dek"), imageVolume(4096)); err != nil {
		t.Fatal(err)
	}
	seen := map[[32]byte]bool{}
	for i := 0; i < len(content); i += 512 {
		seen[sha256.Sum256(content[i:i+512])] = true
	}
	written := 0
	for _, e := range d.Log() {
		for i := 0; i+512 <= len(e.Data); i += 512 {
			written++
			if seen[sha256.Sum256(e.Data[i:i+512])] {
				t.Fatalf("plaintext was written at %d", e.Offset+int64(i))
			}
		}
	}
	if written < len(content)/512 {
		t.Errorf("the log has %d sectors: the test looks in the wrong place", written)
	}
}

// onDisk adds a disk that logs, and fails where it is told to.
func onDisk(t *testing.T, f *fakeTree, name, serial string, content []byte) *disktest.Disk {
	t.Helper()
	d := disktest.New(t, content)
	if err := os.MkdirAll(filepath.Dir(f.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(f.path(name))
	if err := os.Symlink(d.Path(), f.path(name)); err != nil {
		t.Fatal(err)
	}
	f.add(name, name, 0, map[string]string{"serial": serial})
	return d
}

// TestImageUnfinished: a volume whose image was cut off, or is not the plan's,
// does not count, and the next run starts over.
func TestImageUnfinished(t *testing.T) {
	plainOnly(t)
	content := noise(9 << 20)
	wrong := report.Errorf(report.FactoryImage, "SHA-256 is not the plan's")
	for _, tc := range []struct {
		name  string
		image memoryImage
		want  report.Code // "": the context's error
		blank bool        // nothing may have been written
	}{
		{"digest", memoryImage{b: content, end: wrong}, report.FactoryImage, false},
		{"too short", memoryImage{b: content, size: 10 << 20}, report.FactoryImage, false},
		{"too long", memoryImage{b: content, size: 5 << 20}, report.FactoryImage, false},
		{"larger than the volume", memoryImage{b: content, size: 48<<20 + 1}, report.FactoryImage, true},
		{"station is off", memoryImage{open: func() error { return report.Errorf(report.FactoryStation, "no answer") }}, report.FactoryStation, true},
		{"cut off", memoryImage{b: content}, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newTree(t)
			f.disk("vdb", "DISK-B", 64<<20)
			dek, v := testDEK("dek"), imageVolume(0)
			m := newMaker(t, f)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if tc.want == "" {
				tc.image.at = func(n int) {
					if n > 5<<20 {
						cancel()
					}
				}
			}
			m.Images = &tc.image
			err := seal(ctx, m, dek, v)
			var p *report.Problem
			if tc.want == "" && !errors.Is(err, context.Canceled) || tc.want != "" && (!errors.As(err, &p) || p.Code != tc.want) {
				t.Fatalf("got %v, want %s", err, tc.want)
			}
			blank := bytes.Count(readFile(t, f.path("vdb")), []byte{0}) == 64<<20
			if blank != tc.blank {
				t.Errorf("the disk is blank: %v", blank)
			}
			jobs, err := m.Plan(context.Background(), []snapshot.Volume{v})
			if err != nil || jobs[0].State != StateToDo || jobs[0].InUse() {
				t.Fatalf("Plan = %v, %v", jobs, err)
			}
			m.Images = &memoryImage{b: content}
			if err := seal(context.Background(), m, dek, v); err != nil {
				t.Fatal(err)
			}
			if got := plain(t, f, dek, v, len(content)); !bytes.Equal(got, content) {
				t.Error("another content")
			}
		})
	}
}

// TestImagePlan: what Plan itself knows of an image.
func TestImagePlan(t *testing.T) {
	f := newTree(t)
	f.disk("vdb", "DISK-B", 64<<20)
	v := imageVolume(0)
	m := newMaker(t, f)
	jobs, err := m.Plan(context.Background(), []snapshot.Volume{v})
	if err != nil || !strings.Contains(jobs[0].String(), "images/debian.raw written to it") {
		t.Errorf("Plan = %v, %v", jobs, err)
	}
	var p *report.Problem
	if err := m.Make(context.Background(), testDEK("dek"), jobs[0]); !errors.As(err, &p) || p.Code != report.FactoryPlan {
		t.Errorf("without a station: %v", err)
	}
	v.Factory.Image.Format, v.Factory.Image.Bytes = "raw", 48<<20+1
	var refused *RefusedError
	if _, err := m.Plan(context.Background(), []snapshot.Volume{v}); !errors.As(err, &refused) || !strings.Contains(refused.Why, "has room for 50331648") {
		t.Errorf("a raw image larger than the volume: %v", err)
	}
}

// TestSectorCipherWipes: the key schedules are gone after wipe.
func TestSectorCipherWipes(t *testing.T) {
	c, err := newSectorCipher(&luks2.VolumeKey{Segment: luks2.Segment{SectorSize: 512}, Key: secret.Take(noise(64))})
	if err != nil {
		t.Fatal(err)
	}
	sealed := func() []byte {
		b := make([]byte, 512)
		c.encrypt(b, 0)
		return b
	}
	before := sealed()
	c.wipe()
	if len(c.blocks) != 2 || bytes.Equal(before, sealed()) {
		t.Error("the key still encrypts")
	}
}

package disktest

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func open(t *testing.T, d *Disk, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(d.Path(), os.O_RDWR|flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func write(t *testing.T, f *os.File, c byte, n int, off int64) {
	t.Helper()
	if _, err := f.WriteAt(bytes.Repeat([]byte{c}, n), off); err != nil {
		t.Fatal(err)
	}
}

func TestLogAndCuts(t *testing.T) {
	d := New(t, make([]byte, 1<<20))
	f := open(t, d, 0)
	write(t, f, 'a', 1024, 0)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	write(t, f, 'b', 1024, 512)
	write(t, f, 'c', 512, 4096)
	log := d.Log()
	if len(log) != 4 || !log[1].Flush || log[2].Offset != 512 || len(log[2].Data) != 1024 {
		t.Fatalf("log: %d events", len(log))
	}
	image := func(c Cut) string {
		b := c.Image(make([]byte, 1<<20), log)
		return string([]byte{b[0], b[512], b[1024], b[4096]})
	}
	for c, want := range map[Cut]string{
		{0, Whole, 0}: "\x00\x00\x00\x00",
		{1, Whole, 0}: "aa\x00\x00",
		{1, Gone, 0}:  "\x00\x00\x00\x00",
		{3, Whole, 0}: "abb\x00",
		{3, Gone, 0}:  "aa\x00\x00",
		{4, Whole, 0}: "abbc",
		{4, Only, 0}:  "aa\x00c",
		{4, Gone, 0}:  "aa\x00\x00",
	} {
		if got := image(c); got != want {
			t.Errorf("%v = %q, want %q", c, got, want)
		}
	}
	torn, some := map[string]bool{}, map[string]bool{}
	for seed := range uint64(200) {
		torn[image(Cut{3, Torn, seed})] = true
		some[image(Cut{4, Some, seed})] = true
	}
	if !torn["ab\x00\x00"] || !torn["aab\x00"] || !some["aa\x00c"] || len(some) < 4 {
		t.Errorf("torn: %v, some: %v", torn, some)
	}
	if got := len(Cuts(log, 0)); got != 1+2+2+3 {
		t.Errorf("%d cuts: %v", got, Cuts(log, 0))
	}
	if got := d.Content(); got[512] != 'b' || got[0] != 'a' {
		t.Error("the content is not what was written")
	}
}

func TestFailures(t *testing.T) {
	d := New(t, make([]byte, 1<<20))
	f := open(t, d, 0)
	d.FailWrites(8192, 8193)
	d.FailReads(4096, 8192)
	write(t, f, 'a', 8192, 0)
	if _, err := f.WriteAt(make([]byte, 2), 8191); !errors.Is(err, syscall.EIO) {
		t.Errorf("write to a bad place: %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 2), 4095); !errors.Is(err, syscall.EIO) {
		t.Errorf("read of a bad place: %v", err)
	}
	d.Repair()
	d.CutAfter(1)
	write(t, f, 'b', 512, 0)
	if _, err := f.WriteAt([]byte("c"), 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("write after the cut: %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("read after the cut: %v", err)
	}
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("flush after the cut: %v", err)
	}
	d.Repair()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, 0); err != nil || b[0] != 'b' {
		t.Errorf("after the repair: %q, %v", b, err)
	}
	if err := f.Truncate(5); err == nil {
		t.Error("the disk could be made smaller")
	}
}

// TestDirectIO writes from an aligned buffer with O_DIRECT, as cryptsetup does.
func TestDirectIO(t *testing.T) {
	d := New(t, make([]byte, 4<<20))
	f := open(t, d, unix.O_DIRECT)
	buf := make([]byte, 3<<20)
	skip := int(-uintptr(unsafe.Pointer(&buf[0])) & 4095)
	buf = buf[skip : skip+2<<20]
	for i := range buf {
		buf[i] = byte(i >> 12)
	}
	if _, err := f.WriteAt(buf, 1<<20); err != nil {
		t.Fatal(err)
	}
	if got := d.Content()[1<<20 : 3<<20]; !bytes.Equal(got, buf) {
		t.Error("not what was written")
	}
}

// TestMountEnds: nothing stays mounted, also when somebody has the disk open.
func TestMountEnds(t *testing.T) {
	var path string
	t.Run("disk", func(t *testing.T) { path = New(t, make([]byte, 4096)).Path() })
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if dir := strings.TrimSuffix(path, "/disk"); strings.Contains(string(mounts), dir) {
		t.Error("still mounted")
	}
}

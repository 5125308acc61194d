package newc

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var testLimits = Limits{Size: 1 << 20, Entries: 10, Name: 40}

func sample() *Writer {
	w := new(Writer)
	w.Dir("etc", 0o755)
	w.File("etc/empty", 0o600, nil)
	w.File("etc/odd", 0o644, []byte("12345"))
	return w
}

func TestRoundTrip(t *testing.T) {
	got, err := Read(bytes.NewReader(sample().Bytes()), testLimits)
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{
		{Name: "etc", Dir: true, Data: []byte{}, Offset: 116},
		{Name: "etc/empty", Data: []byte{}, Offset: 236},
		{Name: "etc/odd", Data: []byte("12345"), Offset: 356},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestCPIO holds our bytes against GNU cpio in both directions.
func TestCPIO(t *testing.T) {
	cmd := exec.Command("cpio", "--list", "--verbose", "--quiet", "--numeric-uid-gid")
	cmd.Stdin = bytes.NewReader(sample().Bytes())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	for _, want := range []string{"drwxr-xr-x   2 0 ", "-rw-------   1 0 ", "etc/odd"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("cpio does not list %q:\n%s", want, out)
		}
	}
	dir := t.TempDir()
	cmd = exec.Command("sh", "-c", "mkdir d && printf hello >d/f && printf 'd\nd/f\n' | cpio --create --format=newc --quiet")
	cmd.Dir = dir
	if out, err = cmd.Output(); err != nil {
		t.Fatal(err)
	}
	got, err := Read(bytes.NewReader(out), testLimits)
	if err != nil || len(got) != 2 || got[1].Name != "d/f" || string(got[1].Data) != "hello" {
		t.Errorf("archive by cpio read as %+v, %v", got, err)
	}
}

func TestReadRefuses(t *testing.T) {
	good := sample().Bytes()
	patch := func(off int, s string) []byte {
		b := bytes.Clone(good)
		copy(b[off:], s)
		return b
	}
	many := new(Writer)
	for i := range testLimits.Entries + 1 {
		many.File(fmt.Sprint(i), 0, nil)
	}
	for _, tc := range []struct {
		name string
		b    []byte
		lim  Limits
	}{
		{"magic", patch(0, "070702"), testLimits},
		{"sign in a number", patch(6, "+0000001"), testLimits},
		{"symlink", patch(120+14, "0000a1ff"), testLimits},
		{"device", patch(120+14, "000021ff"), testLimits},
		{"hard link", patch(120+38, "00000002"), testLimits},
		{"directory with data", patch(54, "00000004"), testLimits},
		{"giant file", patch(120+54, "ffffffff"), testLimits},
		{"giant name", patch(94, "ffffffff"), testLimits},
		{"empty name", patch(94, "00000001"), testLimits},
		{"name without NUL", patch(113, "c"), testLimits},
		{"NUL inside a name", patch(111, "\x00"), testLimits},
		{"cut off", good[:130], testLimits},
		{"no trailer", good[:361], testLimits},
		{"limit of bytes", good, Limits{Size: 300, Entries: 10, Name: 40}},
		{"limit of entries", many.Bytes(), testLimits},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if e, err := Read(bytes.NewReader(tc.b), tc.lim); !errors.Is(err, ErrFormat) {
				t.Errorf("Read = %+v, %v; want ErrFormat", e, err)
			}
		})
	}
}

func TestGrowAndWipe(t *testing.T) {
	w := new(Writer)
	secret := bytes.Repeat([]byte("k"), 5000)
	w.Grow(Size("key", len(secret)) + Size(trailer, 0))
	w.File("key", 0o600, secret)
	b := w.Bytes()
	if len(b) != Size("key", len(secret))+Size(trailer, 0) {
		t.Errorf("archive of %d bytes, Size says %d", len(b), Size("key", len(secret))+Size(trailer, 0))
	}
	w.Wipe()
	if bytes.Contains(b, []byte("kk")) {
		t.Error("Wipe left the data")
	}
}

func FuzzRead(f *testing.F) {
	f.Add(sample().Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := Read(bytes.NewReader(b), testLimits)
		if err != nil {
			return
		}
		if len(entries) > testLimits.Entries {
			t.Errorf("%d entries", len(entries))
		}
	})
}

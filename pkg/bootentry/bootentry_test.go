package bootentry

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/kcmdline"
)

// tree writes files below a new root; a value that begins with "->" is a
// symbolic link. What begins with "k" becomes a kernel, with "i" or "micr" an
// initrd, each of its own content.
func tree(t *testing.T, files map[string]string) *Root {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "->"); ok {
			err = os.Symlink(target, p)
		} else {
			switch {
			case strings.HasPrefix(content, "k"):
				content = string(bzImage(1)) + content
			case strings.HasPrefix(content, "i"), strings.HasPrefix(content, "micr"):
				content = "070701 " + content
			}
			err = os.WriteFile(p, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	r, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestFind(t *testing.T) {
	bls := "# comment\ntitle Fedora\nversion 6.5\nlinux /vm-6.5\ninitrd /ucode.img\ninitrd\t/initrd-6.5\noptions quiet\noptions  ro  x=1\n"
	tests := []struct {
		name  string
		files map[string]string
		ask   string
		want  Entry
		err   string
	}{
		{name: "Debian's links", files: map[string]string{
			"vmlinuz": "->boot/vmlinuz-6.1.0-1-cloud-amd64", "initrd.img": "->boot/initrd.img-6.1.0-1-cloud-amd64",
			"boot/vmlinuz-6.1.0-1-cloud-amd64": "k", "boot/initrd.img-6.1.0-1-cloud-amd64": "i"},
			want: Entry{Name: "debian", Title: "Debian (/vmlinuz)", Kernel: "/vmlinuz", Initrds: []string{"/initrd.img"}}},
		{name: "without links the newest kernel", files: map[string]string{
			"boot/vmlinuz-6.1.0-9-amd64": "k", "boot/vmlinuz-6.1.0-10-amd64": "k", "boot/initrd.img-6.1.0-10-amd64": "i", "etc/kernel/cmdline": "a\n b\n"},
			want: Entry{Name: "debian", Title: "Debian (/vmlinuz)", Kernel: "/boot/vmlinuz-6.1.0-10-amd64", Initrds: []string{"/boot/initrd.img-6.1.0-10-amd64"}, Cmdline: "a b"}},
		{name: "loader entry before links", files: map[string]string{
			"boot/loader/entries/f.conf": bls, "boot/vm-6.5": "k", "boot/ucode.img": "i", "boot/initrd-6.5": "i", "vmlinuz": "k", "initrd.img": "i"},
			want: Entry{Name: "f", Title: "Fedora", Kernel: "/boot/vm-6.5", Initrds: []string{"/boot/ucode.img", "/boot/initrd-6.5"}, Cmdline: "quiet ro x=1"}},
		{name: "the newest loader entry", files: map[string]string{
			"boot/loader/entries/m-6.9.conf": "linux /a\n", "boot/loader/entries/m-6.10.conf": "linux /b\n", "boot/a": "k", "boot/b": "k"},
			want: Entry{Name: "m-6.10", Title: "m-6.10", Kernel: "/boot/b"}},
		{name: "an exhausted entry last", files: map[string]string{
			"boot/loader/entries/m-6.9.conf": "linux /a\n", "boot/loader/entries/m-6.10+0-3.conf": "linux /b\n", "boot/a": "k", "boot/b": "k"},
			want: Entry{Name: "m-6.9", Title: "m-6.9", Kernel: "/boot/a"}},
		{name: "the one asked for", files: map[string]string{
			"boot/loader/entries/m-6.9.conf": "linux /a\n", "boot/loader/entries/m-6.10.conf": "linux /b\n", "boot/a": "k", "boot/b": "k"}, ask: "m-6.9.conf",
			want: Entry{Name: "m-6.9", Title: "m-6.9", Kernel: "/boot/a"}},
		{name: "a name that is not there", files: map[string]string{"vmlinuz": "k"}, ask: "other", err: `named "other"`},
		{name: "a name with a path", files: map[string]string{"vmlinuz": "k"}, ask: "../vmlinuz", err: "no boot entry"},
		{name: "nothing", files: map[string]string{"etc/hostname": "x"}, err: "no boot entry"},
		{name: "a dangling link", files: map[string]string{"vmlinuz": "->boot/gone"}, err: "no boot entry"},
		{name: "a link out of the root", files: map[string]string{"vmlinuz": "->../../../../../../../../proc/version"}, err: "no boot entry"},
		{name: "an absolute link stays inside", files: map[string]string{"vmlinuz": "->/boot/k", "boot/k": "k", "initrd.img": "i"},
			want: Entry{Name: "debian", Title: "Debian (/vmlinuz)", Kernel: "/vmlinuz", Initrds: []string{"/initrd.img"}}},
		{name: "an entry without kernel", files: map[string]string{"boot/loader/entries/x.conf": "title x\n"}, err: "names no kernel"},
		{name: "an EFI program", files: map[string]string{"boot/loader/entries/x.conf": "efi /shell.efi\n"}, err: "kexec cannot"},
		{name: "an entry too long", files: map[string]string{"boot/loader/entries/x.conf": strings.Repeat("#", maxEntrySize+1)}, err: "longer than"},
		{name: "a command line too long", files: map[string]string{"boot/loader/entries/x.conf": "linux /a\noptions " + strings.Repeat("x", maxCmdline+1)}, err: "longer than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Find(tree(t, tt.files), tt.ask)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || !errors.Is(err, ErrNone) {
					t.Fatalf("got %+v, error %v; want ErrNone with %q", got, err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, *got, cmpopts.IgnoreUnexported(Entry{})); diff != "" {
				t.Errorf("entry (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOpenRefusesSpecialFiles(t *testing.T) {
	r := tree(t, map[string]string{"dev/x": ""})
	if _, err := r.Open("/../../dev/null"); err == nil {
		t.Error("opened a device outside")
	}
	if _, err := r.Open("dev/x"); err != nil {
		t.Errorf("regular file: %v", err)
	}
}

func TestCompareVersions(t *testing.T) {
	// From the specification's examples, each less than the next.
	order := []string{"122~rc1", "122", "122.1", "122.10", "123~rc1-1", "123", "123-a", "123-a.1", "123-3", "123^post1", "123.a-1", "123.1-1", "123a-1", "124-1"}
	for i := range order {
		for j := range order {
			got := compareVersions(order[i], order[j])
			if (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("compare %q with %q: got %d", order[i], order[j], got)
			}
		}
	}
}

// bzImage makes the header of a 64-bit kernel with a body of units × 16 bytes.
func bzImage(units int) []byte {
	b := make([]byte, 3*512+units*16)
	b[offSetupSects] = 2
	binary.LittleEndian.PutUint32(b[offSysSize:], uint32(units))
	binary.LittleEndian.PutUint16(b[offBootFlag:], 0xaa55)
	copy(b[offMagic:], "HdrS")
	binary.LittleEndian.PutUint16(b[offVersion:], 0x20f)
	b[offLoadFlags], b[offXLoadFlags] = 1, 1
	return b
}

func TestCheckKernel(t *testing.T) {
	tests := []struct {
		name string
		edit func([]byte) []byte
		err  string
	}{
		{"whole", func(b []byte) []byte { return b }, ""},
		{"with a signature behind it", func(b []byte) []byte { return append(b, make([]byte, 1000)...) }, ""},
		{"one byte short", func(b []byte) []byte { return b[:len(b)-1] }, "its header says"},
		{"empty", func([]byte) []byte { return nil }, "too short"},
		{"a text", func(b []byte) []byte { return []byte(strings.Repeat("x", 2000)) }, "no bzImage header"},
		{"32 bits", func(b []byte) []byte { b[offXLoadFlags] = 0; return b }, "not a 64-bit"},
		{"old protocol", func(b []byte) []byte { b[offVersion] = 0x03; return b }, "too old"},
		{"absurd size", func(b []byte) []byte { copy(b[offSysSize:], "\xff\xff\xff\xff"); return b }, "its header says"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			image := tt.edit(bzImage(100))
			err := CheckKernel(bytes.NewReader(image), int64(len(image)))
			if tt.err == "" && err != nil || tt.err != "" && (!errors.Is(err, errDamaged) || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("got %v, want %q", err, tt.err)
			}
		})
	}
}

func TestCheckInitrd(t *testing.T) {
	for _, good := range []string{"070701000", "\x1f\x8b\x08", "\x28\xb5\x2f\xfd!"} {
		if err := CheckInitrd([]byte(good)); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "0707", "hello", "\x00\x00\x00\x00"} {
		if err := CheckInitrd([]byte(bad)); !errors.Is(err, errDamaged) {
			t.Errorf("%q: got %v, want errDamaged", bad, err)
		}
	}
}

func FuzzEntry(f *testing.F) {
	f.Add("title x\nlinux /a\ninitrd /b\noptions c\n")
	f.Add("linux /root/boot/a\ninitrd /b $c\noptions $k ${l}$m x=\"$n \nk=$l $\nl=\\\\$k\n#=\n")
	f.Fuzz(func(t *testing.T, text string) {
		e, err := parseBLS("x", "/boot", text, parseGrubenv(text))
		if err == nil {
			for _, name := range append(e.Initrds, e.Kernel) {
				if places := e.places(name); name == "" || len(places) < 2 || slices.ContainsFunc(places, func(p string) bool { return !path.IsAbs(p) || path.Clean(p) != p }) {
					t.Errorf("%q is looked for in %q", name, places)
				}
			}
			if len(e.Initrds) > MaxInitrds || slices.ContainsFunc(kcmdline.Split(e.Cmdline), kcmdline.Ambiguous) {
				t.Errorf("%d initrds, command line %q", len(e.Initrds), e.Cmdline)
			}
			if grubWord(e.Cmdline) != "" || kcmdline.Normalize(e.Cmdline) != e.Cmdline {
				t.Errorf("command line %q", e.Cmdline)
			}
		}
		_ = compareVersions(text, "1.2")
	})
}

// TestOpenTouchesNoPipe shows that what is not a file is not even opened: a
// writer that waits for a reader goes on waiting.
func TestOpenTouchesNoPipe(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "vmlinuz")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	opened := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(pipe, os.O_WRONLY, 0)
		if err == nil {
			err = f.Close()
		}
		opened <- err
	}()
	time.Sleep(50 * time.Millisecond) // the writer waits by then, or the test shows less
	if f, err := r.Open("vmlinuz"); err == nil {
		f.Close()
		t.Error("a pipe was opened")
	}
	select {
	case err := <-opened:
		t.Fatalf("somebody who waits at the pipe saw it opened (%v)", err)
	case <-time.After(100 * time.Millisecond):
	}
	reader, err := os.OpenFile(pipe, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

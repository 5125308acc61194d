package main

import (
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/bootentry"
	"github.com/landfall-project/landfall/pkg/report"
)

// kernelFile is a file with the header of a bzImage.
func kernelFile(body string) string {
	b := make([]byte, 3*512)
	b[0x1f1] = 2
	binary.LittleEndian.PutUint16(b[0x1fe:], 0xaa55)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	b[0x211], b[0x236] = 1, 1
	return string(b) + body
}

// production is a root with something to boot.
func production(t *testing.T, dir string) {
	t.Helper()
	write(t, dir, "vmlinuz", kernelFile("Linux"))
	write(t, dir, "initrd.img", "070701 initrd")
	write(t, dir, "etc/kernel/cmdline", "quiet ro\n")
}

// took is a boot entry as it lies in memory, about to be started.
type took struct {
	root           *bootentry.Root
	kernel, initrd *memory
	content        *bootentry.Content
}

func take(t *testing.T, dir string) *took {
	t.Helper()
	root, err := bootentry.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := bootentry.Find(root, "")
	if err != nil {
		t.Fatal(err)
	}
	kernel, digest, err := readKernel(root, entry.Kernel, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	initrd, digests, err := readInitrd(root, entry.Initrds, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close(); kernel.Close(); initrd.Close() })
	return &took{root, kernel, initrd, bootentry.NewContent(digest, digests, entry.Cmdline)}
}

// TestFindEntry: an entry with a fault is a warning where another is complete,
// and a hold where it is the only one or was asked for.
func TestFindEntry(t *testing.T) {
	dir := t.TempDir()
	production(t, dir)
	write(t, dir, "boot/loader/entries/new.conf", "linux /vmlinuz-7\ninitrd /initrd-7 $tuned_initrd\noptions $kernelopts\n")
	m, printed := testMachine(t, "/")
	entry, err := m.findEntry(dir, "")
	if err != nil || entry.Kernel != "/vmlinuz" || len(m.warnings) != 1 || m.warnings[0].Code != report.BootPassed {
		t.Errorf("got %+v, %v, warnings %v", entry, err, m.warnings)
	}
	if want := "LF-BOOT-10 boot entry with a fault: passed over: entry new: /boot/vmlinuz-7, /vmlinuz-7"; !strings.Contains(printed(), want) {
		t.Errorf("printed %q, want %q", printed(), want)
	}
	if _, err := m.findEntry(dir, "new"); code(err) != report.BootNoEntry {
		t.Errorf("asked for: %v", err)
	}
	write(t, dir, "vmlinuz-7", kernelFile("7"))
	write(t, dir, "initrd-7", "070701 7")
	m, _ = testMachine(t, "/")
	if entry, err = m.findEntry(dir, ""); err != nil || entry.Kernel != "/vmlinuz-7" || entry.Cmdline != "" || len(m.warnings) != 2 {
		t.Errorf("got %+v, %v, warnings %v", entry, err, m.warnings)
	}
	if _, err := m.findEntry(t.TempDir(), ""); code(err) != report.BootNoEntry {
		t.Errorf("an empty root: %v", err)
	}
}

func signEntry(t *testing.T, s note.Signer, c *bootentry.Content) string {
	t.Helper()
	msg, err := bootentry.SignContent(c, s)
	if err != nil {
		t.Fatal(err)
	}
	return string(msg)
}

// TestSignedBootEntry changes real files between signing and starting. Each
// change has its code, and the text names what differs.
func TestSignedBootEntry(t *testing.T) {
	signer, public := newRoot(t)
	stranger, strange := newRoot(t)
	base := t.TempDir()
	production(t, base)
	good := signEntry(t, signer, take(t, base).content)
	const at = "boot/landfall/debian.note"
	older := t.TempDir()
	production(t, older)
	write(t, older, "vmlinuz", kernelFile("Linux 1"))
	write(t, older, "initrd.img", "070701 older")
	tests := []struct {
		name   string
		change map[string]string
		code   report.Code
		want   string
	}{
		{"as signed", map[string]string{at: good}, "", "boot entry: signed by north/root (/boot/landfall/debian.note)"},
		{"kernel", map[string]string{at: good, "vmlinuz": kernelFile("linux")}, report.BootChanged, "signed by north/root: kernel differs"},
		{"byte behind the kernel", map[string]string{at: good, "vmlinuz": kernelFile("Linux\x00")}, report.BootChanged, "kernel differs"},
		{"initrd", map[string]string{at: good, "initrd.img": "070701 Initrd"}, report.BootChanged, "initrd 1 differs"},
		{"command line", map[string]string{at: good, "etc/kernel/cmdline": "quiet ro init=/bin/sh"}, report.BootChanged, "command line differs in word 3"},
		{"of another entry", map[string]string{at: signEntry(t, signer, take(t, older).content)}, report.BootChanged, "is of another"},
		{"unknown key", map[string]string{at: signEntry(t, stranger, take(t, base).content)}, report.BootUnsigned, "no valid signature by a trusted key"},
		{"none", nil, report.BootUnsigned, "there is none in /boot/landfall"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			production(t, dir)
			for name, text := range tt.change {
				write(t, dir, name, text)
			}
			m, printed := testMachine(t, "/")
			s := testSlice(t)
			s.Policy.KernelSignature, s.Boot.Keys = true, []string{public}
			e := take(t, dir)
			err := m.checkSignature(e.root, e.content, s)
			text := printed()
			if err != nil {
				text = err.Error()
			}
			if code(err) != tt.code || !strings.Contains(text, tt.want) {
				t.Errorf("got %v, printed %q; want %s with %q", err, text, tt.code, tt.want)
			}
			s.Boot.Keys = []string{strange}
			if err := m.checkSignature(e.root, e.content, s); tt.name != "unknown key" && code(err) != report.BootUnsigned {
				t.Errorf("by keys of another slice: %v", err)
			}
			s.Policy.KernelSignature = false
			if err := m.checkSignature(e.root, e.content, s); err != nil {
				t.Errorf("no signature demanded: %v", err)
			}
		})
	}
	s := testSlice(t)
	s.Policy.KernelSignature, s.Boot.Keys = true, []string{"none"}
	m, _ := testMachine(t, "/")
	e := take(t, base)
	if err := m.checkSignature(e.root, e.content, s); code(err) != report.SliceInvalid {
		t.Errorf("a key that is none: %v", err)
	}
}

// TestRoomBehindAnInitrd: one in lz4's legacy format ends, for the kernel, where
// four zeros follow; the next archive must begin at a multiple of 4 bytes.
func TestRoomBehindAnInitrd(t *testing.T) {
	for n := range 4 {
		dir := t.TempDir()
		production(t, dir)
		text := "\x02\x21\x4c\x18" + strings.Repeat("x", n)
		write(t, dir, "initrd.img", text)
		f := take(t, dir).initrd
		got := make([]byte, f.size)
		if _, err := f.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		room, ok := strings.CutPrefix(string(got), text)
		if !ok || f.size%4 != 0 || len(room) < 4 || strings.Trim(room, "\x00") != "" {
			t.Errorf("%d bytes: in memory as %q", len(text), got)
		}
	}
}

// TestCheckedIsWhatIsLoaded: the disk may answer something else the second
// time; what counts is what was read into memory, in both directions.
func TestCheckedIsWhatIsLoaded(t *testing.T) {
	signer, public := newRoot(t)
	m, _ := testMachine(t, "/")
	s := testSlice(t)
	s.Policy.KernelSignature, s.Boot.Keys = true, []string{public}
	dir := t.TempDir()
	production(t, dir)
	write(t, dir, "boot/landfall/x.note", signEntry(t, signer, take(t, dir).content))

	first := take(t, dir)
	write(t, dir, "vmlinuz", kernelFile("evil!"))
	write(t, dir, "initrd.img", "070701 evil!!")
	second := take(t, dir)
	if err := m.checkSignature(first.root, first.content, s); err != nil {
		t.Errorf("read before the disk was changed: %v", err)
	}
	for f, want := range map[*memory]string{first.kernel: kernelFile("Linux"), first.initrd: "070701 initrd\x00\x00\x00" + "\x00\x00\x00\x00"} {
		got := make([]byte, f.size)
		if _, err := f.ReadAt(got, 0); err != nil && err != io.EOF || string(got) != want {
			t.Errorf("%s in memory is not what was read: %q, %v", f.Name(), got, err)
		}
	}
	production(t, dir)
	if err := m.checkSignature(second.root, second.content, s); code(err) != report.BootChanged || !strings.Contains(err.Error(), "kernel differs") || !strings.Contains(err.Error(), "initrd 1 differs") {
		t.Errorf("read while the disk was changed: %v", err)
	}
}

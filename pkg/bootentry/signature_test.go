package bootentry

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

// content hashes the files of the root's default entry, as whoever starts it.
func content(t *testing.T, root *Root) *Content {
	t.Helper()
	e, err := Find(root, "")
	if err != nil {
		t.Fatal(err)
	}
	digest := func(name string) [32]byte {
		text, err := root.read(name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256([]byte(text))
	}
	var initrds [][32]byte
	for _, name := range e.Initrds {
		initrds = append(initrds, digest(name))
	}
	return NewContent(digest(e.Kernel), initrds, e.Cmdline)
}

func signature(t *testing.T, s note.Signer, c *Content) string {
	t.Helper()
	msg, err := SignContent(c, s)
	if err != nil {
		t.Fatal(err)
	}
	return string(msg)
}

// TestCheck changes one thing each between signing and starting; each is told
// apart, and the nearest signature is named.
func TestCheck(t *testing.T) {
	signer, key := testKeys(t, "boot")
	stranger, _ := testKeys(t, "other")
	entry := func(options string) string {
		return "linux /vm\ninitrd /ucode\ninitrd /initrd\noptions " + options + "\n"
	}
	files := func() map[string]string {
		return map[string]string{"boot/loader/entries/f.conf": entry("quiet  ro"), "boot/vm": "kernel 2", "boot/ucode": "microcode", "boot/initrd": "initrd 2"}
	}
	good := signature(t, signer, content(t, tree(t, files())))
	old := files()
	old["boot/vm"], old["boot/initrd"], old["boot/ucode"] = "kernel 1", "initrd 1", "microcode 1"
	oldNote := signature(t, signer, content(t, tree(t, old)))
	other := func(name string) string { return "boot/landfall/" + name + ".note" }
	tests := []struct {
		name   string
		change map[string]string // files over those that were signed
		want   string            // "" passes
		code   error             // ErrUnsigned, or else a MismatchError
	}{
		{"as signed", map[string]string{other("f"): good}, "", nil},
		{"signed beside others", map[string]string{other("a"): oldNote, other("b"): "junk", other("z"): good, "boot/landfall/README": "x"}, "", nil},
		{"other white space", map[string]string{other("f"): good, "boot/loader/entries/f.conf": entry("quiet ro")}, "", nil},
		{"kernel", map[string]string{other("a"): oldNote, other("f"): good, "boot/vm": "kernel 3"},
			"not what /boot/landfall/f.note says, signed by test-region/boot: kernel differs (it is ", nil},
		{"first initrd", map[string]string{other("f"): good, "boot/ucode": "micrOcode"}, ": initrd 1 differs (it is ", nil},
		{"second initrd", map[string]string{other("f"): good, "boot/initrd": "initrd 2\n"}, ": initrd 2 differs (it is ", nil},
		{"a further initrd", map[string]string{other("f"): good, "boot/loader/entries/f.conf": entry("quiet ro") + "initrd /ucode\n"}, ": initrd 3 is not signed (it is ", nil},
		{"an initrd less", map[string]string{other("f"): good, "boot/loader/entries/f.conf": "linux /vm\ninitrd /ucode\noptions quiet ro\n"}, ": initrd 2 is missing (signed ", nil},
		{"initrds in another order", map[string]string{other("f"): good, "boot/loader/entries/f.conf": "linux /vm\ninitrd /initrd\ninitrd /ucode\noptions quiet ro\n"},
			": initrd 1 differs", nil},
		{"command line", map[string]string{other("f"): good, "boot/loader/entries/f.conf": entry("quiet init=/bin/sh ro")},
			`: command line differs in word 2 (it is "init=/bin/sh", signed "ro")`, nil},
		{"longer command line", map[string]string{other("f"): good, "boot/loader/entries/f.conf": entry("quiet ro x")},
			`: command line differs in word 3 (it is "x", signed its end)`, nil},
		{"kernel and command line", map[string]string{other("f"): good, "boot/vm": "k", "boot/loader/entries/f.conf": entry("quiet")}, "); command line differs", nil},
		{"signature of another entry", map[string]string{other("a"): oldNote}, "the nearest, /boot/landfall/a.note by test-region/boot, is of another: kernel differs", nil},
		{"no signature", nil, "there is none in /boot/landfall", ErrUnsigned},
		{"by a key that the slice does not name", map[string]string{other("f"): signature(t, stranger, content(t, tree(t, files())))},
			"/boot/landfall/f.note: no valid signature by a trusted key", ErrUnsigned},
		{"edited", map[string]string{other("f"): strings.Replace(good, "quiet", "quite", 1)}, "f.note: no valid signature", ErrUnsigned},
		{"a dangling link", map[string]string{other("f"): "->../../etc/passwd"}, "not read: open /boot/landfall/f.note", ErrUnsigned},
		{"too large", map[string]string{other("f"): good + strings.Repeat("x", MaxSignatureSize)}, "longer than 16384 bytes", ErrUnsigned},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			all := files()
			for name, text := range tt.change {
				all[name] = text
			}
			root := tree(t, all)
			file, by, err := Check(root, content(t, root), []note.Verifier{key})
			var mismatch *MismatchError
			switch {
			case tt.want == "":
				if err != nil || !strings.HasSuffix(file, ".note") || by != "test-region/boot" {
					t.Errorf("got %s, %s, %v", file, by, err)
				}
			case err == nil || !strings.Contains(err.Error(), tt.want):
				t.Errorf("got %v, want %q", err, tt.want)
			case tt.code != nil && !errors.Is(err, tt.code), tt.code == nil && !errors.As(err, &mismatch):
				t.Errorf("got %#v, want %v", err, tt.code)
			}
		})
	}
}

// TestCheckIsBounded: a root full of signatures costs bounded time and words.
func TestCheckIsBounded(t *testing.T) {
	_, key := testKeys(t, "boot")
	files := map[string]string{"vmlinuz": "k", "initrd.img": "i"}
	for i := range 2 * maxSignatures {
		files[fmt.Sprintf("boot/landfall/%03d.note", i)] = "junk"
	}
	root := tree(t, files)
	found, faults := signatures(root)
	if len(found) != maxSignatures || len(faults) != 1 {
		t.Errorf("%d signatures, errors %v", len(found), faults)
	}
	_, _, err := Check(root, content(t, root), []note.Verifier{key})
	if err == nil || len(err.Error()) > 1000 || !strings.Contains(err.Error(), "and 61 more") || !strings.Contains(err.Error(), "more than 64 signatures") {
		t.Errorf("got %v", err)
	}
}

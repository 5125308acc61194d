package bootentry

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/signed"
)

// update rewrites the frozen fixtures; only a new format version may do it.
var update = flag.Bool("update", false, "rewrite testdata")

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func freeze(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join("testdata", name), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// testKeys are published, so they sign nothing but fixtures.
func testKeys(t testing.TB, name string) (note.Signer, note.Verifier) {
	t.Helper()
	if _, err := os.Stat(filepath.Join("testdata", name+".key")); *update && err != nil {
		skey, vkey, err := note.GenerateKey(rand.Reader, "test-region/"+name)
		if err != nil {
			t.Fatal(err)
		}
		freeze(t, name+".key", []byte(skey+"\n"))
		freeze(t, name+".pub", []byte(vkey+"\n"))
	}
	s, err := signed.ParseSigner(testdata(t, name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := signed.ParseVerifier(testdata(t, name+".pub"))
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func testContent() *Content {
	return NewContent(sha256.Sum256([]byte("kernel")), [][32]byte{sha256.Sum256([]byte("microcode")), sha256.Sum256([]byte("initrd"))}, " quiet  ro\t")
}

// TestFrozenContent pins format v1: roots on shipped disks carry it.
func TestFrozenContent(t *testing.T) {
	signer, key := testKeys(t, "boot")
	if *update {
		msg, err := SignContent(testContent(), signer)
		if err != nil {
			t.Fatal(err)
		}
		freeze(t, "entry-v1.note", msg)
	}
	got, signers, err := OpenContent(testdata(t, "entry-v1.note"), key)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(testContent(), got); diff != "" || strings.Join(signers, " ") != "test-region/boot" {
		t.Errorf("signed by %v; frozen entry (-want +got):\n%s", signers, diff)
	}
	if got.Cmdline != "quiet ro" {
		t.Errorf("command line %q", got.Cmdline)
	}
	again, err := SignContent(got, signer)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, testdata(t, "entry-v1.note")) {
		t.Error("today's signer writes other bytes than v1")
	}
}

type vector struct {
	Name string `json:"name"`
	Want string `json:"want"` // "ok", or why it is refused
	Data []byte `json:"data"`
}

func vectorResult(err error) string {
	for name, target := range map[string]error{
		"size": signed.ErrSize, "signature": signed.ErrSignature, "type": signed.ErrType, "form": signed.ErrForm, "content": ErrContent,
	} {
		if errors.Is(err, target) {
			return name
		}
	}
	if err != nil {
		return err.Error()
	}
	return "ok"
}

func TestContentVectors(t *testing.T) {
	signer, key := testKeys(t, "boot")
	stranger, _ := testKeys(t, "other")
	text, _, _ := strings.Cut(string(testdata(t, "entry-v1.note")), "\n\n")
	text += "\n"
	sign := func(text string, s note.Signer) []byte {
		b, err := note.Sign(&note.Note{Text: text}, s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	edit := func(old, new string) []byte {
		if !strings.Contains(text, old) {
			t.Fatalf("fixture has no %q", old)
		}
		return sign(strings.Replace(text, old, new, 1), signer)
	}
	kernel := testContent().Kernel.String()
	initrds := text[strings.Index(text, ",\n  \"initrds\"") : strings.Index(text, "],")+1]
	many := strings.Repeat("    \""+kernel+"\",\n", MaxInitrds) + "    \""
	made := []vector{
		{"every field", "ok", testdata(t, "entry-v1.note")},
		{"no initrd", "ok", edit(initrds, "")},
		{"empty command line", "ok", edit("quiet ro", "")},
		{"signed by two", "ok", append(bytes.Clone(testdata(t, "entry-v1.note")), sign(text, stranger)[len(text)+1:]...)},
		{"no signature", "signature", []byte(text)},
		{"signed by another key", "signature", sign(text, stranger)},
		{"edited after signing", "signature", bytes.Replace(testdata(t, "entry-v1.note"), []byte("quiet"), []byte("quite"), 1)},
		{"too large", "size", edit("quiet ro", strings.Repeat("x", MaxSignatureSize))},
		{"another type", "type", edit(ContentType, "landfall.dev/slice/v1")},
		{"a later version", "type", edit(ContentType, "landfall.dev/boot-entry/v2")},
		{"unknown field", "form", edit(`"cmdline"`, `"append"`)},
		{"field twice", "form", edit(`"cmdline": "quiet ro"`, "\"cmdline\": \"\",\n  \"cmdline\": \"quiet ro\"")},
		{"empty list of initrds", "form", edit(initrds, ",\n  \"initrds\": []")},
		{"digest in upper case", "form", edit(kernel, strings.ToUpper(kernel))},
		{"trailing document", "form", sign(text+"{}\n", signer)},
		{"kernel's digest cut off", "content", edit(kernel, kernel[:62])},
		{"no kernel", "content", edit(kernel, "")},
		{"initrd's digest cut off", "content", edit(testContent().Initrds[1].String(), "00")},
		{"too many initrds", "content", edit("    \"", many)},
		{"two spaces in the command line", "content", edit("quiet ro", "quiet  ro")},
		{"newline in the command line", "content", edit("quiet ro", `quiet\nro`)},
		{"letter beyond ASCII", "content", edit("quiet ro", "qui\u00e9t ro")},
		{"command line too long", "content", edit("quiet ro", strings.Repeat("x", maxCmdline+1))},
	}
	if *update {
		b, err := json.MarshalIndent(made, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		freeze(t, "entry-vectors.json", append(b, '\n'))
	}
	var vectors []vector
	if err := json.Unmarshal(testdata(t, "entry-vectors.json"), &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) != len(made) {
		t.Errorf("%d vectors, the test makes %d", len(vectors), len(made))
	}
	for _, v := range vectors {
		if _, _, err := OpenContent(v.Data, key); vectorResult(err) != v.Want {
			t.Errorf("%s: got %v, want %q", v.Name, err, v.Want)
		}
	}
}

func TestSignContentRefuses(t *testing.T) {
	signer, _ := testKeys(t, "boot")
	for name, edit := range map[string]func(*Content){
		"no kernel":        func(c *Content) { c.Kernel = nil },
		"too many initrds": func(c *Content) { c.Initrds = append(c.Initrds, make([]measure.Hex, MaxInitrds)...) },
		"GRUB's word":      func(c *Content) { c.Cmdline = "ro $kernelopts" },
		"two blanks":       func(c *Content) { c.Cmdline = `ro  x="a  b"` },
		"an open quote":    func(c *Content) { c.Cmdline = `ro x="a` },
		"systemd's quote":  func(c *Content) { c.Cmdline = `ro x='"' root=/dev/vdb1 y='"'` },
		"an escape":        func(c *Content) { c.Cmdline = `ro x=\` },
		"a line break":     func(c *Content) { c.Cmdline = "a\nb" },
	} {
		c := testContent()
		edit(c)
		if _, err := SignContent(c, signer); !errors.Is(err, ErrContent) {
			t.Errorf("%s: got %v, want ErrContent", name, err)
		}
	}
}

// TestCmdlineOfContent: blanks inside quotes are content, those outside are not.
func TestCmdlineOfContent(t *testing.T) {
	signer, _ := testKeys(t, "boot")
	c := NewContent([32]byte{}, nil, ` ro  x="a  b" memmap=64K$0x1000 "c`)
	if want := `ro x="a  b" memmap=64K$0x1000 "c"`; c.Cmdline != want {
		t.Errorf("got %s, want %s", c.Cmdline, want)
	}
	if _, err := SignContent(c, signer); err != nil {
		t.Error(err)
	}
}

// FuzzContent fuzzes the text behind the signature: whatever passes is
// canonical, and survives being signed again.
func FuzzContent(f *testing.F) {
	signer, key := testKeys(f, "boot")
	text, _, _ := bytes.Cut(testdata(f, "entry-v1.note"), []byte("\n\n"))
	f.Add(append(text, '\n'))
	f.Add([]byte("{\n  \"type\": \"landfall.dev/boot-entry/v1\"\n}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c := new(Content)
		if signed.Unmarshal(text, ContentType, c) != nil || c.validate() != nil {
			return
		}
		msg, err := SignContent(c, signer)
		if err != nil {
			t.Fatalf("valid, but cannot be signed: %v", err)
		}
		got, _, err := OpenContent(msg, key)
		if err != nil {
			t.Fatalf("valid entry refused once signed: %v", err)
		}
		if parts, _ := got.differences(c); len(parts) != 0 {
			t.Error(parts)
		}
	})
}

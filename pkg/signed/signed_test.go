package signed

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

type doc struct {
	Type string `json:"type"`
	Text string `json:"text"`
	N    int    `json:"n,omitempty"`
}

func newKey(t *testing.T, name string) (note.Signer, note.Verifier) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSigner([]byte(skey + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := ParseVerifier([]byte(vkey + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func TestOpen(t *testing.T) {
	s1, v1 := newKey(t, "north/root")
	s2, v2 := newKey(t, "north/second")
	_, stranger := newKey(t, "north/root")
	msg, err := Sign(doc{Type: "t/v1", Text: "<a & b>"}, s1, s2)
	if err != nil {
		t.Fatal(err)
	}
	var got doc
	d, err := Open(msg, 1000, "t/v1", &got, v1, v2)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Signers) != 2 || got.Text != "<a & b>" || d.Digest != sha256.Sum256(d.Text) {
		t.Errorf("opened %+v as %+v", d, got)
	}
	if d, err := Open(msg, 1000, "t/v1", new(doc), v1); err != nil || len(d.Signers) != 1 {
		t.Errorf("with one trusted key: %+v, %v", d, err)
	}
	for _, tc := range []struct {
		name string
		err  error
		open func() (*Document, error)
	}{
		{"nobody trusted", ErrSignature, func() (*Document, error) { return Open(msg, 1000, "t/v1", new(doc)) }},
		{"same name, other key", ErrSignature, func() (*Document, error) { return Open(msg, 1000, "t/v1", new(doc), stranger) }},
		{"other type", ErrType, func() (*Document, error) { return Open(msg, 1000, "u/v1", new(doc), v1) }},
		{"too large", ErrSize, func() (*Document, error) { return Open(msg, len(msg)-1, "t/v1", new(doc), v1) }},
		// A broken signature by a trusted key is not outvoted by a good one.
		{"one of two broken", ErrSignature, func() (*Document, error) {
			i := bytes.LastIndexByte(msg[:len(msg)-1], ' ') + 20
			bad := bytes.Clone(msg)
			bad[i] ^= 'a' ^ 'b'
			return Open(bad, 1000, "t/v1", new(doc), v1, v2)
		}},
	} {
		if d, err := tc.open(); !errors.Is(err, tc.err) {
			t.Errorf("%s: %+v, %v; want %v", tc.name, d, err, tc.err)
		}
	}
	if _, err := Open(msg, 1000, "t/v1", &got, v1); err == nil {
		t.Error("decoded over an old value, whose fields would survive")
	}
}

// Whose signature is there, and whose is wanted.
func TestOpenSaysWhoSigned(t *testing.T) {
	desk, _ := newKey(t, "desk/root")
	signer, north := newKey(t, "north/root")
	_, anew := newKey(t, "north/root")
	sign := func(s ...note.Signer) []byte {
		msg, err := Sign(doc{Type: "t/v1", Text: "good"}, s...)
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	var many []note.Signer
	for i := range 5 {
		s, _ := newKey(t, fmt.Sprintf("key%d", i))
		many = append(many, s)
	}
	const head = "no valid signature by a trusted key: it "
	for _, tc := range []struct {
		name string
		msg  []byte
		by   []note.Verifier
		want string
	}{
		{"another region's", sign(desk), []note.Verifier{north}, "is signed by desk/root, but trusted here is north/root: take the one of this region, or have it signed with that key"},
		{"many", sign(many...), []note.Verifier{north}, "is signed by key0, key1, key2 and others, but trusted here is north/root: take the one of this region, or have it signed with that key"},
		{"a namesake", sign(signer), []note.Verifier{anew}, "is signed by another key of the name north/root than the one trusted here: of a region that was made anew? Have it signed with the key of this one"},
		{"nobody trusted", sign(desk), nil, "is signed by desk/root; no key is trusted here"},
		{"changed", bytes.Replace(sign(signer), []byte("good"), []byte("evil"), 1), []note.Verifier{north}, "was changed after north/root signed it, or on its way: take it again from who signed it"},
	} {
		_, err := Open(tc.msg, 5000, "t/v1", new(doc), tc.by...)
		if err == nil || err.Error() != head+tc.want {
			t.Errorf("%s: got %v\nwant %s", tc.name, err, head+tc.want)
		}
	}
}

func TestUnmarshalCanonical(t *testing.T) {
	const good = "{\n  \"type\": \"t/v1\",\n  \"text\": \"x\"\n}\n"
	if err := Unmarshal([]byte(good), "t/v1", new(doc)); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"no newline":    strings.TrimSuffix(good, "\n"),
		"two newlines":  good + "\n",
		"order":         "{\n  \"text\": \"x\",\n  \"type\": \"t/v1\"\n}\n",
		"explicit zero": strings.Replace(good, `"x"`, "\"x\",\n  \"n\": 0", 1),
		"duplicate":     strings.Replace(good, `"text": "x"`, "\"text\": \"y\",\n  \"text\": \"x\"", 1),
		"case":          strings.Replace(good, `"text"`, `"Text"`, 1),
		"escape":        strings.Replace(good, `"x"`, `"\u0078"`, 1),
		"invalid UTF-8": strings.Replace(good, `"x"`, "\"\xff\"", 1),
		"unknown":       strings.Replace(good, `"x"`, "\"x\",\n  \"m\": 1", 1),
	} {
		if err := Unmarshal([]byte(bad), "t/v1", new(doc)); !errors.Is(err, ErrForm) {
			t.Errorf("%s: %v, want ErrForm", name, err)
		}
	}
}

// TestParseSignerKeepsSecret: a key file pasted in the wrong place must not
// end up in a log.
func TestParseSignerKeepsSecret(t *testing.T) {
	_, err := ParseSigner([]byte("PRIVATE+KEY+north+zz+SECRET"))
	if err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("ParseSigner: %v", err)
	}
	if _, err := Sign(doc{}); err == nil {
		t.Error("signed with no key")
	}
}

// Package signed reads and writes Landfall's signed documents: a JSON document
// in one canonical form, inside a C2SP signed note (c2sp.org/signed-note) with
// Ed25519 signatures. It opens no file and no socket.
//
// Canonical means: what Go's encoding/json writes for the document's type with
// an indentation of two spaces, without HTML escapes, ended by one newline. A
// text that differs from its own canonical form is refused. That rules out
// duplicate and unknown fields, fields in other letter case, explicit zero
// values and trailing data, all of which parsers disagree about.
package signed

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/strictjson"
	"golang.org/x/mod/sumdb/note"
)

// What Open refuses.
var (
	// ErrSize: longer than the format allows; not looked at any further.
	ErrSize = errors.New("signed document is too large")
	// ErrSignature: no signature by a trusted key. Sign it with the right key,
	// or trust the right one.
	ErrSignature = errors.New("no valid signature by a trusted key")
	// ErrType: validly signed, but for another purpose.
	ErrType = errors.New("signed document of another type")
	// ErrForm: not the canonical form of its type. Write it with the tool of
	// the same version.
	ErrForm = errors.New("signed document is not in canonical form")
)

// Document is what Open verified.
type Document struct {
	Text    []byte   // the note's text, with its final newline
	Digest  [32]byte // SHA-256 of Text; signatures do not change it
	Signers []string // names of the trusted keys whose signatures hold
}

// Marshal returns the canonical text of a document.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode document: %w", err)
	}
	return b.Bytes(), nil
}

// Unmarshal decodes an unsigned canonical text into v, a pointer, and checks
// its type as Open does.
func Unmarshal(text []byte, typ string, v any) error {
	// Of another document its type says more than its first unknown field.
	var head struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return fmt.Errorf("%w: %w", ErrForm, Where(text, err))
	}
	if head.Type != typ {
		return fmt.Errorf("%w: it is %q, expected %q", ErrType, head.Type, typ)
	}
	if err := strictjson.Decode(text, len(text), v); err != nil {
		return fmt.Errorf("%w: %w", ErrForm, Where(text, err))
	}
	want, err := Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(text, want) {
		return fmt.Errorf("%w: it differs in line %d", ErrForm, differingLine(text, want))
	}
	return nil
}

// differingLine counts from 1.
func differingLine(a, b []byte) int {
	n := 1
	for i := 0; i < len(a) && i < len(b) && a[i] == b[i]; i++ {
		if a[i] == '\n' {
			n++
		}
	}
	return n
}

// Sign writes v as a note signed by all signers.
func Sign(v any, signers ...note.Signer) ([]byte, error) {
	text, err := Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(signers) == 0 {
		return nil, errors.New("sign document: no signing key given")
	}
	msg, err := note.Sign(&note.Note{Text: string(text)}, signers...)
	if err != nil {
		return nil, fmt.Errorf("sign document: %w", err)
	}
	return msg, nil
}

// Open verifies a note of at most limit bytes and decodes its text into v, a
// pointer to a zero value. At least one of the verifiers must have signed;
// signatures by other keys are ignored, a wrong one by a trusted key is not.
// Nothing is parsed as JSON before a signature holds.
func Open(msg []byte, limit int, typ string, v any, verifiers ...note.Verifier) (*Document, error) {
	if len(msg) > limit {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrSize, len(msg), limit)
	}
	if _, err := noteEnd(msg); err != nil {
		return nil, fmt.Errorf("%w, it is %s", err, Kind(msg))
	}
	n, err := note.Open(msg, note.VerifierList(verifiers...))
	var unverified *note.UnverifiedNoteError
	var invalid *note.InvalidSignatureError
	switch {
	case errors.As(err, &unverified):
		return nil, fmt.Errorf("%w: %s", ErrSignature, strangers(unverified.Note.UnverifiedSigs, verifiers))
	case errors.As(err, &invalid):
		return nil, fmt.Errorf("%w: it was changed after %s signed it, or on its way: take it again from who signed it", ErrSignature, Shown(invalid.Name))
	case err != nil: // no note at all, though it holds what looks like a signature
		return nil, fmt.Errorf("%w: it is not signed as our documents are, it is %s", ErrSignature, Kind(msg))
	}
	if !reflect.ValueOf(v).Elem().IsZero() {
		return nil, fmt.Errorf("open document: %T is not empty", v)
	}
	text := []byte(n.Text)
	if err := Unmarshal(text, typ, v); err != nil {
		return nil, err
	}
	d := &Document{Text: text, Digest: Digest(text)}
	for _, s := range n.Sigs {
		d.Signers = append(d.Signers, s.Name)
	}
	return d, nil
}

// strangers says whose the signatures are that count for nothing, by their own
// words, and whose one would count.
func strangers(sigs []note.Signature, verifiers []note.Verifier) string {
	var by, trusted []string
	for _, v := range verifiers {
		trusted = append(trusted, Shown(v.Name()))
	}
	namesake := false
	for _, s := range sigs {
		by = append(by, Shown(s.Name))
		namesake = namesake || slices.Contains(trusted, Shown(s.Name))
	}
	if namesake {
		return "it is signed by another key of the name " + names(by) + " than the one trusted here: of a region that was made anew? Have it signed with the key of this one"
	}
	if len(trusted) == 0 {
		return "it is signed by " + names(by) + "; no key is trusted here"
	}
	return "it is signed by " + names(by) + ", but trusted here is " + names(trusted) + ": take the one of this region, or have it signed with that key"
}

// names lists a few names; anybody can write a thousand signatures.
func names(all []string) string {
	const most = 3
	if len(all) > most {
		return strings.Join(all[:most], ", ") + " and others"
	}
	return strings.Join(all, ", ")
}

// Peek decodes a note's text into v without looking at its signatures: for what
// is shown or sent on, never for what decides.
func Peek(msg []byte, limit int, typ string, v any) error {
	if len(msg) > limit {
		return fmt.Errorf("%w: %d bytes, limit %d", ErrSize, len(msg), limit)
	}
	end, err := noteEnd(msg)
	if err != nil {
		return err
	}
	return Unmarshal(msg[:end], typ, v)
}

// ParseVerifier reads a public key file: one note verifier key, one line. The
// error never quotes the file, which may be the private key.
func ParseVerifier(file []byte) (note.Verifier, error) {
	v, err := note.NewVerifier(strings.TrimSuffix(string(file), "\n"))
	if err != nil {
		return nil, fmt.Errorf("want a public key, one line NAME+HASH+KEY; it is %s", Kind(file))
	}
	return v, nil
}

// ParseSigner reads a private key file: one note signer key, one line. The
// error never quotes the file.
func ParseSigner(file []byte) (note.Signer, error) {
	s, err := note.NewSigner(strings.TrimSuffix(string(file), "\n"))
	if err != nil {
		return nil, fmt.Errorf("want a private key, one line PRIVATE+KEY+NAME+HASH+KEY; it is %s", Kind(file))
	}
	return s, nil
}

// Digest identifies a document: SHA-256 of its text.
func Digest(text []byte) [32]byte { return sha256.Sum256(text) }

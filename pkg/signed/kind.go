package signed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/strictjson"
)

// Kind says in a few words what a file looks like, for who gave a wrong one. It
// decides nothing. Of a file that is not known it shows nothing: it may be a
// token, a key or a passphrase, and the words go onto screens and into logs.
func Kind(b []byte) string {
	text := strings.TrimSpace(string(b[:min(len(b), 512)]))
	switch {
	case len(bytes.TrimSpace(b)) == 0:
		return "an empty file"
	case strings.HasPrefix(text, "{") || strings.HasPrefix(text, "["):
		return kindOfJSON(b)
	case strings.HasPrefix(text, "\ufeff"):
		return "a text that begins with a byte order mark: save it as UTF-8 without one"
	case strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff"):
		return "a text in UTF-16: save it as UTF-8"
	case strings.HasPrefix(text, "PRIVATE+KEY+"):
		return "a private signing key"
	case strings.HasPrefix(text, "-----BEGIN "):
		return kindOfPEM(text)
	case strings.HasPrefix(text, "<"):
		return "a page or drawing (HTML, XML, SVG)"
	case strings.Count(text, "+") >= 2 && !strings.ContainsAny(text, " \n"):
		return "a public signing key"
	}
	if words := kindOfBinary(b); words != "" {
		return words
	}
	if !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0 {
		return strconv.Itoa(len(b)) + " bytes that are no text"
	}
	if !strings.ContainsAny(text, " \n") {
		return "a single word, such as a token"
	}
	return "a text that is neither JSON nor PEM"
}

// kindOfPEM shows a label only where one is: a line that does not end as it should
// may go on with a key.
func kindOfPEM(text string) string {
	first, _, _ := strings.Cut(text, "\n")
	label, whole := strings.CutSuffix(strings.TrimPrefix(strings.TrimRight(first, "\r"), "-----BEGIN "), "-----")
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 "
	if !whole || label == "" || strings.Trim(label, letters) != "" {
		return "PEM with a first line that is damaged"
	}
	return "PEM (" + Shown(label) + ")"
}

// kindOfBinary knows files by their first bytes.
func kindOfBinary(b []byte) string {
	for _, known := range []struct {
		at          int
		magic, kind string
	}{
		{0, "MZ", "a unified kernel image or another EFI program"},
		{0, "07070", "a cpio archive, such as the content of a LANDFALL partition"},
		{0, "QFI\xfb", "a qcow2 image"},
		{0, "\x28\xb5\x2f\xfd", "a file that zstd compressed"},
		{0, "\x1f\x8b", "a file that gzip compressed"},
		{0, "\x30\x82", "a certificate or key in DER: `openssl x509 -inform DER` makes PEM of a certificate"},
		{16, "\xed\xda\x0c\xed", "a member's store, or a backup of one"},
		{512, "EFI PART", "a disk image"},
		{4096, "EFI PART", "a disk image"},
	} {
		if len(b) >= known.at && bytes.HasPrefix(b[known.at:], []byte(known.magic)) {
			return known.kind
		}
	}
	return ""
}

func kindOfJSON(b []byte) string {
	words := "JSON"
	typ, isSigned := Type(b)
	if isSigned {
		words = "a signed document"
	}
	if typ != "" {
		return words + " of type " + fmt.Sprintf("%q", Shown(typ))
	}
	return words + " without a type"
}

// Type is what a document says of its type, and whether it bears signatures. It
// verifies nothing, and is lenient on purpose: it names a file for who gave a wrong
// one, of any version, with whatever behind it.
func Type(b []byte) (typ string, isSigned bool) {
	var head struct {
		Type string `json:"type"`
	}
	if json.NewDecoder(bytes.NewReader(b)).Decode(&head) != nil {
		head.Type = ""
	}
	_, err := noteEnd(b)
	return head.Type, err == nil
}

// Shown is the beginning of what a file says, for a person to see.
func Shown(s string) string { return printable.ASCII(s[:min(len(s), 64)]) }

// Text is what a note's signatures are over, without a look at them; of what is no
// note it is all.
func Text(msg []byte) []byte {
	end, err := noteEnd(msg)
	if err != nil {
		return msg
	}
	return msg[:end]
}

// noteEnd is where a note's text ends.
func noteEnd(msg []byte) (int, error) {
	i := bytes.LastIndex(msg, []byte("\n\n\u2014 "))
	if i < 0 {
		return 0, fmt.Errorf("%w: it is not signed", ErrSignature)
	}
	return i + 1, nil
}

// Where adds to an error of strictjson or encoding/json what was given instead of
// the JSON, or in which line the fault is.
func Where(text []byte, err error) error {
	if err == nil {
		return nil
	}
	fault := strictjson.Where(text, err)
	if fault != nil && fault.Line == 0 { // too long to be looked at
		return fault
	}
	if start := bytes.TrimSpace(text); len(start) == 0 || start[0] != '{' && start[0] != '[' {
		return fmt.Errorf("it is no JSON, but %s", Kind(text))
	}
	if _, unsigned := noteEnd(text); unsigned == nil {
		return fmt.Errorf("it is %s, and an unsigned document is wanted here", Kind(text))
	}
	if fault != nil && !fault.Unknown {
		return fault
	}
	if fault != nil {
		err = fault
	}
	return fmt.Errorf("%w (the file is %s)", err, Kind(text))
}

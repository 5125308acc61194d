package signed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/landfall-project/landfall/pkg/printable"
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
// verifies nothing.
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

// noteEnd is where a note's text ends.
func noteEnd(msg []byte) (int, error) {
	i := bytes.LastIndex(msg, []byte("\n\n\u2014 "))
	if i < 0 {
		return 0, fmt.Errorf("%w: it is not signed", ErrSignature)
	}
	return i + 1, nil
}

// cutOff is what encoding/json says at the end of a text that is not whole.
const cutOff = "unexpected end of JSON input"

// Where adds to an error of encoding/json what was given instead of the JSON, or
// in which line the fault is.
func Where(text []byte, err error) error {
	if err == nil {
		return nil
	}
	if start := bytes.TrimSpace(text); len(start) == 0 || start[0] != '{' && start[0] != '[' {
		return fmt.Errorf("it is no JSON, but %s", Kind(text))
	}
	if _, unsigned := noteEnd(text); unsigned == nil {
		return fmt.Errorf("it is %s, and an unsigned document is wanted here", Kind(text))
	}
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	field, unknown := strings.CutPrefix(err.Error(), "json: unknown field ")
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &syntax) && syntax.Error() == cutOff:
		return fmt.Errorf("line %d: it ends in the middle: a file that was cut off?", line(text, len(text)))
	case syntax != nil:
		return fmt.Errorf("line %d: no valid JSON: %w", line(text, int(syntax.Offset)), syntax)
	case errors.As(err, &typ):
		return fmt.Errorf("line %d: %s", line(text, int(typ.Offset)), mistyped(typ))
	case unknown:
		return fmt.Errorf("line %d: unknown field %s (the file is %s)", line(text, bytes.Index(text, []byte(field))), field, Kind(text))
	}
	return fmt.Errorf("%w (the file is %s)", err, Kind(text))
}

// line counts from 1.
func line(text []byte, offset int) int {
	return 1 + bytes.Count(text[:min(max(offset, 0), len(text))], []byte("\n"))
}

// mistyped says what stands where something else should, in JSON's words.
func mistyped(e *json.UnmarshalTypeError) string {
	where := "it"
	if e.Field != "" {
		where = "field " + e.Field
	}
	is, _, _ := strings.Cut(e.Value, " ")
	wanted := "another one"
	switch e.Type.Kind() {
	case reflect.Struct, reflect.Map:
		wanted = "an object"
	case reflect.Slice, reflect.Array:
		wanted = "a list"
		if e.Type.Elem().Kind() == reflect.Uint8 {
			wanted = "a string"
		}
	case reflect.String:
		wanted = "a string"
	case reflect.Bool:
		wanted = "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		wanted = "another number"
		if is != "number" {
			wanted = "a number"
		}
	}
	return fmt.Sprintf("%s has a value of the kind %q, where %s is wanted", where, is, wanted)
}

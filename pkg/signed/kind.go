package signed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/landfall-project/landfall/pkg/printable"
)

// Kind says in a few words what a file looks like, for who gave a wrong one. It
// decides nothing.
func Kind(b []byte) string {
	text := strings.TrimSpace(string(b[:min(len(b), 512)]))
	switch {
	case len(b) == 0:
		return "an empty file"
	case strings.HasPrefix(text, "{") || strings.HasPrefix(text, "["):
		return kindOfJSON(b)
	case strings.HasPrefix(text, "PRIVATE+KEY+"):
		return "a private signing key"
	case strings.HasPrefix(text, "-----BEGIN "):
		kind, _, _ := strings.Cut(strings.TrimPrefix(text, "-----BEGIN "), "-----")
		return "PEM (" + Shown(kind) + ")"
	case strings.HasPrefix(text, "MZ"):
		return "a unified kernel image or another EFI program"
	case strings.HasPrefix(text, "07070"):
		return "a cpio archive, such as the content of a LANDFALL partition"
	case len(b) >= 520 && string(b[512:520]) == "EFI PART":
		return "a disk image"
	case strings.Count(text, "+") >= 2 && !strings.ContainsAny(text, " \n"):
		return "a public signing key"
	case !utf8.ValidString(text):
		return fmt.Sprintf("no text (it begins with the bytes % x)", b[:min(len(b), 8)])
	}
	return "a text that begins with " + fmt.Sprintf("%q", Shown(text[:min(len(text), 24)]))
}

func kindOfJSON(b []byte) string {
	words := "JSON"
	if _, err := noteEnd(b); err == nil {
		words = "a signed document"
	}
	var head struct {
		Type string `json:"type"`
	}
	if json.NewDecoder(bytes.NewReader(b)).Decode(&head) == nil && head.Type != "" {
		return words + " of type " + fmt.Sprintf("%q", Shown(head.Type))
	}
	return words + " without a type"
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
	offset := int64(-1)
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &typ):
		offset = typ.Offset
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("line %d: it ends in the middle: a file that was cut off?", 1+bytes.Count(text, []byte("\n")))
	}
	if offset < 0 || offset > int64(len(text)) {
		return fmt.Errorf("%w (the file is %s)", err, Kind(text))
	}
	return fmt.Errorf("line %d: %w", 1+bytes.Count(text[:offset], []byte("\n")), err)
}

// Package printable decides what of somebody else's words a person gets to see:
// names that a network, a disk, a firmware or a device gives reach consoles,
// terminals, pages and logs, and a character there may drive the terminal (ESC,
// U+009B), turn the direction of writing (U+202E) or hide (U+200B).
//
// Printable is what Go's strconv.IsPrint says: letters, marks, numbers,
// punctuation and symbols of Unicode, and the space. Not decided here: that two
// words look alike, and how long they are.
package printable

import (
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// is says whether a character may be shown; one that is no UTF-8 may not.
func is(r rune) bool { return r != utf8.RuneError && strconv.IsPrint(r) }

func replace(s string, ok func(rune) bool) string {
	return strings.Map(func(r rune) rune {
		if ok(r) {
			return r
		}
		return '?'
	}, s)
}

// Text is s with a question mark in the place of each character that is not
// printable. It may have several lines.
func Text(s string) string {
	return replace(s, func(r rune) bool { return r == '\n' || is(r) })
}

// Line is the same in one line.
func Line(s string) string { return replace(s, is) }

// ASCII is the same in one line of ASCII, for formats and consoles that have
// nothing else.
func ASCII(s string) string { return replace(s, ascii) }

// IsLine says whether Line would leave s as it is.
func IsLine(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !is(r) })
}

// IsASCII says whether ASCII would leave s as it is.
func IsASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !ascii(r) })
}

func ascii(r rune) bool { return r >= ' ' && r <= '~' }

// Escape writes what is not printable as \uXXXX, which loses nothing of a JSON
// text: such characters are in its strings only (RFC 8259, 7). Newlines and tabs
// stay.
func Escape(text []byte) []byte {
	const hex = "0123456789abcdef"
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == '\n' || r == '\t' || is(r):
			out = append(out, text[:n]...)
		case r == utf8.RuneError && n == 1:
			out = append(out, '?')
		default:
			for _, u := range utf16(r) {
				out = append(out, '\\', 'u', hex[u>>12&15], hex[u>>8&15], hex[u>>4&15], hex[u&15])
			}
		}
		text = text[n:]
	}
	return out
}

// utf16 is a character in UTF-16 (RFC 2781, 2.1).
func utf16(r rune) []uint16 {
	if r < 0x10000 {
		return []uint16{uint16(r)}
	}
	r -= 0x10000
	return []uint16{uint16(0xd800 + r>>10), uint16(0xdc00 + r&0x3ff)}
}

// writer is what NewWriter makes.
type writer struct {
	to   io.Writer
	rest []byte // of a character whose end is still to come
}

// NewWriter returns a writer that passes on what is printable, and Escape of the
// rest. A program writes through it what is for people.
func NewWriter(to io.Writer) io.Writer { return &writer{to: to} }

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) {
	text := append(w.rest, p...)
	end := len(text)
	for back := 1; back < utf8.UTFMax && back <= len(text); back++ {
		if tail := text[len(text)-back:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				end -= back
			}
			break
		}
	}
	w.rest = append([]byte(nil), text[end:]...)
	if _, err := w.to.Write(Escape(text[:end])); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Count is a number of things whose plural ends with s: "1 slice", "2 slices".
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}

// Cut shortens a text to at most n bytes, at least three, without breaking a
// character; "…" shows that it did.
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const more = "…"
	return strings.ToValidUTF8(s[:n-len(more)], "") + more
}

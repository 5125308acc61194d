package printable

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// What each function makes of a text.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]struct{ text, line, ascii, escaped string }{
		"r07-u12 eth1":         {"r07-u12 eth1", "r07-u12 eth1", "r07-u12 eth1", "r07-u12 eth1"},
		"Gehäuse 7, 機架":        {"Gehäuse 7, 機架", "Gehäuse 7, 機架", "Geh?use 7, ??", "Gehäuse 7, 機架"},
		"a\nb\tc":              {"a\nb?c", "a?b?c", "a?b?c", "a\nb\tc"},
		"\x1b[31mred":          {"?[31mred", "?[31mred", "?[31mred", `\u001b[31mred`},
		"a\x7fb":               {"a?b", "a?b", "a?b", `a\u007fb`},
		"a\u009b31mb":          {"a?31mb", "a?31mb", "a?31mb", `a\u009b31mb`},
		"a\x9b31mb":            {"a?31mb", "a?31mb", "a?31mb", "a?31mb"}, // no UTF-8
		"live\u202egnp.exe":    {"live?gnp.exe", "live?gnp.exe", "live?gnp.exe", `live\u202egnp.exe`},
		"a\u2066b\u2069":       {"a?b?", "a?b?", "a?b?", `a\u2066b\u2069`},
		"a\u200bb\ufeff":       {"a?b?", "a?b?", "a?b?", `a\u200bb\ufeff`},
		"a\u2028b\u2029\u0085": {"a?b??", "a?b??", "a?b??", `a\u2028b\u2029\u0085`},
		"a\u00a0b":             {"a?b", "a?b", "a?b", `a\u00a0b`},
		"a\U000e0041b\ue000":   {"a?b?", "a?b?", "a?b?", `a\udb40\udc41b\ue000`},
		"a\ufffdb":             {"a?b", "a?b", "a?b", `a\ufffdb`},
		"\r\r":                 {"??", "??", "??", `\u000d\u000d`},
	} {
		if got := Text(in); got != want.text {
			t.Errorf("Text(%q) = %q, want %q", in, got, want.text)
		}
		if got := Line(in); got != want.line {
			t.Errorf("Line(%q) = %q, want %q", in, got, want.line)
		}
		if got := ASCII(in); got != want.ascii {
			t.Errorf("ASCII(%q) = %q, want %q", in, got, want.ascii)
		}
		if got := string(Escape([]byte(in))); got != want.escaped {
			t.Errorf("Escape(%q) = %q, want %q", in, got, want.escaped)
		}
		if got := IsLine(in); got != (Line(in) == in) {
			t.Errorf("IsLine(%q) = %v", in, got)
		}
		if got := IsASCII(in); got != (ASCII(in) == in) {
			t.Errorf("IsASCII(%q) = %v", in, got)
		}
	}
}

// However a text is cut into writes, the same comes out; what has no end is kept
// back.
func TestWriter(t *testing.T) {
	const text = "Gehäuse\u009b 機架 \U000e0041\x9b\nend\u202e"
	want := string(Escape([]byte(text)))
	for size := 1; size <= len(text); size++ {
		var out strings.Builder
		w := NewWriter(&out)
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			if got, err := w.Write([]byte(rest[:n])); got != n || err != nil {
				t.Fatalf("Write = %d, %v", got, err)
			}
			rest = rest[n:]
		}
		if out.String() != want {
			t.Errorf("in pieces of %d: %q, want %q", size, out.String(), want)
		}
	}
}

// Of a JSON text nothing is lost, and all of it is printable.
func FuzzEscape(f *testing.F) {
	f.Add("a\u009b\u202e\U000e0041")
	f.Add("\x00\x1f\u2028 ä")
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		escaped := Escape(text)
		var back string
		if err := json.Unmarshal(escaped, &back); err != nil || back != s {
			t.Errorf("%q became %q by %q, %v", s, back, escaped, err)
		}
		if !IsLine(string(escaped)) {
			t.Errorf("%q is not printable", escaped)
		}
	})
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{0: "0 slices", 1: "1 slice", 2: "2 slices"} {
		if got := Count(n, "slice"); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestScreen(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&out)
	s.stage("Parts", "why", func() {
		s.line(strings.Repeat("ü", 2*columns))
		s.block("device   " + strings.Repeat("word ", 30) + "\n\nend")
	})
	s.close()
	if !strings.HasPrefix(out.String(), "\n 1  Parts\n    why\n    │ ü") || !strings.Contains(out.String(), "\n    ✓ 0.0 s\n") {
		t.Errorf("screen:\n%s", out.String())
	}
	for l := range strings.Lines(out.String()) {
		if n := len([]rune(strings.TrimRight(l, "\n"))); n > columns {
			t.Errorf("%d columns: %q", n, l)
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Errorf("terminal codes in a file: %q", out.String())
	}
}

func TestWrap(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want []string
	}{
		{"", []string{""}},
		{"short", []string{"short"}},
		{"one two   three four", []string{"one two", "        three", "        four"}},
		{"unbreakablelongword", []string{"unbreakablelongword"}},
		{"a unbreakablelongword", []string{"a", "        unbreakablelongword"}},
	} {
		if diff := cmp.Diff(tc.want, wrap(tc.in, 14)); diff != "" {
			t.Errorf("wrap(%q) (-want +got):\n%s", tc.in, diff)
		}
	}
}

package kcmdline

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCut(t *testing.T) {
	tests := []struct {
		name, line   string
		params, init []string
	}{
		{"empty", " \t\n", nil, nil},
		{"blanks of all kinds", " ro\tquiet\n\v\fx=1\xa0y ", []string{"ro", "quiet", "x=1", "y"}, nil},
		{"quoted value", `root=LABEL="my  disk" ro`, []string{`root=LABEL="my  disk"`, "ro"}, nil},
		{"quoted word", `"root=LABEL=my disk" ro`, []string{`"root=LABEL=my disk"`, "ro"}, nil},
		{"a quote in the middle", `dyndbg=a"b c"d e`, []string{`dyndbg=a"b c"d`, "e"}, nil},
		{"an open quote takes the rest", `ro x="a -- b `, []string{"ro", `x="a -- b "`}, nil},
		{"a lone quote", `ro "`, []string{"ro", `""`}, nil},
		{"init's arguments", "ro -- single  -x", []string{"ro"}, []string{"single", "-x"}},
		{"init has none", "ro --", []string{"ro"}, nil},
		{"nothing for the kernel", "-- single", nil, []string{"single"}},
		{"a quoted end", `ro "--" single`, []string{"ro"}, []string{"single"}},
		{"an end with a value is none", "ro --=x --y", []string{"ro", "--=x", "--y"}, nil},
		{"an end inside quotes is none", `x="a -- b" y`, []string{`x="a -- b"`, "y"}, nil},
		{"the kernel reads no further than a second end", "ro -- a -- b", []string{"ro"}, []string{"a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			params, init := Cut(tt.line)
			if diff := cmp.Diff([][]string{tt.params, tt.init}, [][]string{none(params), none(init)}); diff != "" {
				t.Errorf("parameters, arguments (-want +got):\n%s", diff)
			}
		})
	}
}

func none(words []string) []string {
	if len(words) == 0 {
		return nil
	}
	return words
}

func TestParam(t *testing.T) {
	type param struct {
		Name, Value string
		Valued      bool
	}
	tests := []struct {
		word string
		want param
	}{
		{"ro", param{"ro", "", false}},
		{"x=", param{"x", "", true}},
		{"root=UUID=abc", param{"root", "UUID=abc", true}},
		{`"root=UUID=abc"`, param{"root", "UUID=abc", true}},
		{`root="UUID=abc"`, param{"root", "UUID=abc", true}},
		{`root=LABEL="my disk"`, param{"root", `LABEL="my disk"`, true}},
		{`"root="my disk""`, param{"root", `my disk"`, true}},
		{`x=""`, param{"x", "", true}},
		{`"my word"`, param{"my word", "", false}},
		{`my" "word`, param{`my" "word`, "", false}},
		{"=x", param{"=x", "", false}},
		{"=x=y", param{"=x", "y", true}},
		{`"`, param{"", "", false}},
		{"", param{"", "", false}},
	}
	for _, tt := range tests {
		var got param
		got.Name, got.Value, got.Valued = Param(tt.word)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.word, diff)
		}
	}
}

// TestAmbiguous cuts lines by systemd's rules, today's and the older ones. A
// line without ambiguous words is cut by all in the same places.
func TestAmbiguous(t *testing.T) {
	tests := []struct {
		line string
		want []string // the ambiguous words
	}{
		{`ro x='"' root=/dev/vdb1 y='"`, []string{`x='"' root=/dev/vdb1 y='"`}},
		{`ro x='a b' c`, []string{`x='a`, `b'`}},
		{`ro x="it's" c`, []string{`x="it's"`}},
		{`x=\" root=/dev/vdb1 y=\" c`, []string{`x=\" root=/dev/vdb1 y=\"`}},
		{`x=\ root=/dev/vdb1`, []string{`x=\`}},
		{`ro x="a\`, []string{`x="a\"`}},
		{`ro x="a b" y="c \d" initrd=\EFI\a z=a"b  c"d ""`, nil},
	}
	for _, tt := range tests {
		words := Split(tt.line)
		var got []string
		for _, w := range words {
			if Ambiguous(w) {
				got = append(got, w)
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: ambiguous (-want +got):\n%s", tt.line, diff)
		}
		line := Join(append(words, "ours=1"))
		for _, escapes := range []bool{false, true} {
			if n := systemd(line, escapes); len(tt.want) == 0 && n != len(words)+1 {
				t.Errorf("%s: systemd makes %d words of it, the kernel %d", line, n, len(words)+1)
			}
		}
	}
}

// systemd counts the words of a line by the rules of its extract_first_word,
// with quotes of both kinds, and with or without escapes.
func systemd(line string, escapes bool) int {
	n, in, quote := 0, false, byte(0)
	for i := 0; i < len(line); i++ {
		c := line[i]
		if quote == 0 && c == ' ' {
			in = false
			continue
		}
		if !in {
			n, in = n+1, true
		}
		switch {
		case escapes && c == '\\':
			i++
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case c == quote:
			quote = 0
		}
	}
	return n
}

// kernel is the loop of parse_args and next_arg, byte by byte, as the kernel
// has it: what Split and Param are held against.
func kernel(line string) (params [][]string) {
	args := append([]byte(line), 0)
	at := 0
	skip := func() {
		for isSpace(args[at]) {
			at++
		}
	}
	for skip(); args[at] != 0; skip() {
		quote := args[at] == '"'
		quoted := quote
		if quoted {
			at++
		}
		i, equals := 0, 0
		for ; args[at+i] != 0; i++ {
			if isSpace(args[at+i]) && !quote {
				break
			}
			if equals == 0 && args[at+i] == '=' {
				equals = i
			}
			if args[at+i] == '"' {
				quote = !quote
			}
		}
		word, stop := args[at:], i
		strip := func() {
			if stop == i && i > 0 && word[i-1] == '"' {
				stop--
			}
		}
		param := []string{""}
		if equals > 0 {
			from := equals + 1
			if word[from] == '"' {
				from++
				strip()
			}
			if quoted {
				strip()
			}
			param = []string{string(word[:equals]), string(word[from:max(from, stop)])}
		} else {
			if quoted {
				strip()
			}
			param[0] = string(word[:stop])
		}
		params = append(params, param)
		if at += i; args[at] != 0 {
			at++
		}
	}
	return params
}

// FuzzSplit shows that words are the kernel's parameters, that joined they
// mean what the line meant, and that nothing put behind them becomes part of
// them.
func FuzzSplit(f *testing.F) {
	for _, line := range []string{
		`ro root="my disk" -- a`, `"a b" c="d`, `x="`, `"`, `a"b c`, `""x""`, "=a =b=c", `"a="b`, "a\xa0b\x85c",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "\x00") {
			t.Skip("ends a C string")
		}
		var got [][]string
		words := Split(line)
		for _, w := range words {
			name, value, valued := Param(w)
			p := []string{name}
			if valued {
				p = append(p, value)
			}
			got = append(got, p)
		}
		joined := Join(words)
		if diff := cmp.Diff(kernel(joined), got); diff != "" {
			t.Errorf("%q: Param (-kernel +got):\n%s", joined, diff)
		}
		if strings.Count(line, `"`)%2 == 0 { // else a quote was closed, which a value may show
			if diff := cmp.Diff(kernel(line), kernel(joined)); diff != "" {
				t.Errorf("%q joined to %q (-before +after):\n%s", line, joined, diff)
			}
		} else if a, b := kernel(line), kernel(joined); len(a) != len(b) || a[len(a)-1][0] != strings.TrimSuffix(b[len(b)-1][0], `"`) && a[len(a)-1][0] != b[len(b)-1][0] {
			t.Errorf("%q joined to %q: other parameters: %q, %q", line, joined, a, b)
		}
		if Normalize(joined) != joined {
			t.Errorf("%q: joined twice it is %q", joined, Normalize(joined))
		}
		other := func(r rune) bool { return r < ' ' || r > '~' } // is never handed over
		if !slices.ContainsFunc(words, Ambiguous) && !strings.ContainsFunc(joined, other) {
			for _, escapes := range []bool{false, true} {
				if n := systemd(joined, escapes); n != len(words) {
					t.Errorf("%q: %d words, systemd makes %d", joined, len(words), n)
				}
			}
		}
		behind := kernel(Join(append(words, "ours=1")))
		if last := behind[len(behind)-1]; len(behind) != len(words)+1 || cmp.Diff([]string{"ours", "1"}, last) != "" {
			t.Errorf("%q: what was put behind it became %q", line, last)
		}
	})
}

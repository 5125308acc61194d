// Package kcmdline cuts Linux kernel command lines into words and puts them
// together again, by the kernel's own rules: parse_args in kernel/params.c and
// next_arg in lib/cmdline.c.
//
// A word ends at a blank outside of double quotes. A quote may open anywhere in
// a word; there is no way to escape one. What follows a word "--" are arguments
// for init, not parameters of the kernel. systemd reads the same line by other
// rules: Ambiguous names the words of which it makes others. What is not
// covered: a few early parameters of x86 that the kernel looks up without
// minding quotes, and initrds that cut the line at every blank.
package kcmdline

import "strings"

// Split cuts a line into its words. They stay as they stand in the line, quotes
// and all, so that joined by single spaces they mean the same. A quote that is
// still open at the end is closed: what is put behind the line would belong to
// its value.
func Split(line string) []string {
	var words []string
	start, quoted := -1, false
	for i := range len(line) {
		switch c := line[i]; {
		case isSpace(c) && !quoted:
			if start >= 0 {
				words = append(words, line[start:i])
			}
			start = -1
			continue
		case c == '"':
			quoted = !quoted
		}
		if start < 0 {
			start = i
		}
	}
	if start >= 0 {
		last := line[start:]
		if quoted {
			last += `"`
		}
		words = append(words, last)
	}
	return words
}

// Join puts words together, separated by single spaces.
func Join(words []string) string { return strings.Join(words, " ") }

// Normalize separates the words of a line by single spaces.
func Normalize(line string) string { return Join(Split(line)) }

// Cut cuts a line into the kernel's parameters and init's arguments, which are
// behind the word "--". The kernel ends init's arguments at another "--", and so
// does Cut.
func Cut(line string) (params, init []string) {
	params = Split(line)
	if i := end(params); i < len(params) {
		params, init = params[:i:i], params[i+1:]
	}
	return params, init[:end(init)]
}

func end(words []string) int {
	for i, w := range words {
		if name, _, valued := Param(w); name == "--" && !valued {
			return i
		}
	}
	return len(words)
}

// Param returns what the kernel makes of one word: the parameter's name, and its
// value if it has one. Quotes around the word or around the value are no part of
// them.
func Param(word string) (name, value string, valued bool) {
	word, quoted := strings.CutPrefix(word, `"`)
	at := 0
	if word != "" {
		at = strings.IndexByte(word[1:], '=') + 1 // a "=" in front is part of the name
	}
	if at == 0 {
		if quoted {
			word = strings.TrimSuffix(word, `"`)
		}
		return word, "", false
	}
	value, inner := strings.CutPrefix(word[at+1:], `"`)
	if quoted || inner {
		value = strings.TrimSuffix(value, `"`)
	}
	return word[:at], value, true
}

// Ambiguous says whether a word may end elsewhere for systemd than for the
// kernel. To systemd "'" is a quote as well, in which a double quote is none,
// and to older ones a quote or blank behind a backslash is a letter. So a word could hide another one from the kernel's
// rules, and what follows it from systemd.
func Ambiguous(word string) bool {
	return strings.Contains(word, "'") || strings.Contains(word, `\"`) || strings.HasSuffix(word, `\`)
}

// isSpace is the kernel's isspace (lib/ctype.c), which knows Latin-1's no-break
// space too.
func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' || c == 0xa0 }

package snapshot

import (
	"fmt"
	"strings"
)

// dotToken is a token of the DOT language. Operators are their own text; an ID
// that stood in quotes is never a keyword.
type dotToken struct {
	text   string
	id     bool
	quoted bool
	line   int
}

// is says whether the token is an operator.
func (t *dotToken) is(op string) bool { return !t.id && t.text == op }

// keyword says whether the token is a keyword, in any case.
func (t *dotToken) keyword(word string) bool {
	return t.id && !t.quoted && strings.EqualFold(t.text, word)
}

func (t *dotToken) String() string {
	if !t.id && t.text == "" {
		return "the end of the file"
	}
	return fmt.Sprintf("%.40q", t.text)
}

// dotLexer cuts a text into tokens.
type dotLexer struct {
	text string
	pos  int
	line int
}

func (l *dotLexer) fail(format string, args ...any) error {
	return fmt.Errorf("%w: line %d: %s", ErrDOT, l.line, fmt.Sprintf(format, args...))
}

func (l *dotLexer) rest() string { return l.text[l.pos:] }

// skip moves over white space, comments and lines for a preprocessor.
func (l *dotLexer) skip() error {
	for l.pos < len(l.text) {
		c, rest := l.text[l.pos], l.rest()
		switch {
		case c == '\n':
			l.line++
			l.pos++
		case c == ' ' || c == '\t' || c == '\r' || c == '\f':
			l.pos++
		case strings.HasPrefix(rest, "//"), c == '#' && (l.pos == 0 || l.text[l.pos-1] == '\n'):
			if n := strings.IndexByte(rest, '\n'); n >= 0 {
				l.pos += n
			} else {
				l.pos = len(l.text)
			}
		case strings.HasPrefix(rest, "/*"):
			n := strings.Index(rest[2:], "*/")
			if n < 0 {
				return l.fail("the comment has no end")
			}
			l.line += strings.Count(rest[:n+4], "\n")
			l.pos += n + 4
		default:
			return nil
		}
	}
	return nil
}

// next returns the next token; one without text at the end of the file.
func (l *dotLexer) next() (dotToken, error) {
	if err := l.skip(); err != nil {
		return dotToken{}, err
	}
	if l.pos == len(l.text) {
		return dotToken{line: l.line}, nil
	}
	rest := l.rest()
	for _, op := range []string{"--", "->", "{", "}", "[", "]", ";", ",", ":", "=", "+"} {
		if strings.HasPrefix(rest, op) {
			l.pos += len(op)
			return dotToken{text: op, line: l.line}, nil
		}
	}
	switch c := rest[0]; {
	case c == '"':
		return l.quoted()
	case c == '<':
		return dotToken{}, l.fail("HTML strings are not read: write it in quotes")
	case isDOTLetter(c) && !isDigit(c):
		return l.name()
	case isDigit(c) || c == '-' || c == '.':
		return l.number()
	default:
		return dotToken{}, l.fail("%q has no meaning here; names with such characters stand in quotes", c)
	}
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isDOTLetter(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0x80 || isDigit(c)
}

// name reads an ID without quotes. A hyphen directly behind it would begin a
// number to Graphviz, which nobody means.
func (l *dotLexer) name() (dotToken, error) {
	t, err := l.word(isDOTLetter)
	rest := l.rest()
	if err == nil && strings.HasPrefix(rest, "-") && !strings.HasPrefix(rest, "--") && !strings.HasPrefix(rest, "->") {
		return t, l.fail("a name with a hyphen stands in quotes: \"%.40s-...\"", t.text)
	}
	return t, err
}

func (l *dotLexer) word(belongs func(byte) bool) (dotToken, error) {
	rest := l.rest()
	n := strings.IndexFunc(rest, func(r rune) bool { return r < 0x80 && !belongs(byte(r)) })
	if n < 0 {
		n = len(rest)
	}
	if n > maxDOTString {
		return dotToken{}, l.fail("a name of more than %d bytes", maxDOTString)
	}
	l.pos += n
	return dotToken{text: rest[:n], id: true, line: l.line}, nil
}

// number reads a numeral. Letters that follow it directly would be another ID
// to Graphviz, which nobody means.
func (l *dotLexer) number() (dotToken, error) {
	t, err := l.word(func(c byte) bool { return isDOTLetter(c) || c == '.' || c == '-' })
	if err != nil {
		return t, err
	}
	digits := strings.TrimPrefix(t.text, "-")
	if strings.Trim(digits, "0123456789.") != "" || strings.Count(digits, ".") > 1 || digits == "." || digits == "" {
		return t, l.fail("%.40q is neither a number nor a name: write it in quotes", t.text)
	}
	return t, nil
}

// quoted reads a string in quotes. Graphviz knows two escapes: of the quote,
// and of the end of a line, which vanishes.
func (l *dotLexer) quoted() (dotToken, error) {
	t := dotToken{id: true, quoted: true, line: l.line}
	var b strings.Builder
	for l.pos++; l.pos < len(l.text) && b.Len() <= maxDOTString; l.pos++ {
		c, rest := l.text[l.pos], l.rest()
		switch {
		case c == '"':
			l.pos++
			t.text = b.String()
			return t, nil
		case strings.HasPrefix(rest, `\"`):
			l.pos++
			b.WriteByte('"')
		case strings.HasPrefix(rest, "\\\n"):
			l.pos++
			l.line++
		case c == '\n':
			l.line++
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	if b.Len() > maxDOTString {
		return t, l.fail("a string of more than %d bytes", maxDOTString)
	}
	return t, fmt.Errorf("%w: line %d: the string has no end", ErrDOT, t.line)
}

package signed

import (
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/strictjson"
)

// What a file looks like is told in words, of a token, a key or a passphrase
// without a character of it.
func TestKind(t *testing.T) {
	for content, want := range map[string]string{
		"":                                   "an empty file",
		"{\"type\": \"x/v1\"}":               `JSON of type "x/v1"`,
		"{\"type\": \"\u202ex\"}":            `JSON of type "?x"`,
		"[1]":                                "JSON without a type",
		"{\"type\": \"x/v1\"}\n\n\u2014 a b": `a signed document of type "x/v1"`,
		"\ufeff{}":                           "a text that begins with a byte order mark: save it as UTF-8 without one",
		"\xff\xfe{\x00}\x00":                 "a text in UTF-16: save it as UTF-8",
		"PRIVATE+KEY+a/b+00+c2VjcmV0":        "a private signing key",
		"a/b+00+a2V5":                        "a public signing key",
		"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n":          "PEM (PRIVATE KEY)",
		"-----BEGIN PRIVATE KEY----\nc2VjcmV0\n-----END":   "PEM with a first line that is damaged",
		"-----BEGIN PRIVATE KEY-----\r\nc2VjcmV0\r\n":      "PEM (PRIVATE KEY)",
		"-----BEGIN PRIVATE KEY c2VjcmV0-----\nc2VjcmV0\n": "PEM with a first line that is damaged",
		"-----BEGIN PRIVATE KEY-----c2VjcmV0-----END":      "PEM with a first line that is damaged",
		"-----BEGIN SECRET":                                "PEM with a first line that is damaged",
		"<svg></svg>":                                      "a page or drawing (HTML, XML, SVG)",
		"MZ\x00\x01":                                       "a unified kernel image or another EFI program",
		"07070100000000":                                   "a cpio archive, such as the content of a LANDFALL partition",
		"QFI\xfb\x00":                                      "a qcow2 image",
		"\x30\x82\x01\x02":                                 "a certificate or key in DER: `openssl x509 -inform DER` makes PEM of a certificate",
		strings.Repeat("\x00", 512) + "EFI PART":           "a disk image",
		"\x01\xfesecret":                                   "8 bytes that are no text",
		"SECRETSECRETSECRETSECRET26\n":                     "a single word, such as a token",
		"correct horse secret staple":                      "a text that is neither JSON nor PEM",
	} {
		if got := Kind([]byte(content)); got != want {
			t.Errorf("Kind(%.40q) = %q, want %q", content, got, want)
		}
	}
}

// A fault in a JSON text is told with its line, in words that are not Go's.
func TestWhere(t *testing.T) {
	type document struct {
		Type  string   `json:"type"`
		Names []string `json:"names"`
		Inner struct {
			Size int8 `json:"size"`
			Key  []byte
		} `json:"inner"`
	}
	for text, want := range map[string]string{
		"":                          "it is no JSON, but an empty file",
		"SECRETTOKEN":               "it is no JSON, but a single word, such as a token",
		"{\n":                       "line 2: it ends in the middle: a file that was cut off?",
		"{\n]":                      "line 2: no valid JSON: invalid character ']' looking for beginning of object key string",
		"[]":                        `line 1: it has a value of the kind "array", where an object is wanted`,
		"{\n\"names\": 7}":          `line 2: field names has a value of the kind "number", where a list is wanted`,
		`{"inner": {"size": 300}}`:  `line 1: field inner.size has a value of the kind "number", where another number is wanted`,
		`{"inner": {"size": "7"}}`:  `line 1: field inner.size has a value of the kind "string", where a number is wanted`,
		`{"inner": {"Key": 7}}`:     `line 1: field inner.Key has a value of the kind "number", where a string is wanted`,
		"{\n\n\"other\": 7}":        `line 3: unknown field "other" (the file is JSON without a type)`,
		"{\"type\": 7}\n\n\u2014 a": "it is a signed document without a type, and an unsigned document is wanted here",
	} {
		err := strictjson.Decode([]byte(text), len(text), new(document))
		if err == nil {
			t.Fatalf("%q is valid", text)
		}
		if got := Where([]byte(text), err).Error(); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// Package strictjson decodes JSON of others in one way: exactly one value, that
// every other parser reads the same. It opens no file and no socket.
//
// encoding/json takes the last of two fields of one name, matches names in any
// letter case, replaces what is no UTF-8, and a json.Decoder stops where the
// first value ends. All of that is refused here, and unknown fields are: what one
// reader shows and another one decides by must be the same document.
//
// How: encoding/json decodes the whole text, and one scan of its tokens beside
// the Go type then looks at names and nesting. So a value that was refused may
// have been filled in; callers give none away together with an error.
package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"unicode/utf8"
)

// maxDepth bounds how deep lists and objects nest. Our documents need 8.
const maxDepth = 64

// Decode decodes text, one JSON value of at most limit bytes, into v, a pointer
// to a zero value. It refuses unknown fields, fields and map keys that are there
// twice, names in another letter case than the field's, null for what is no
// pointer, list or map, text that is no UTF-8, nesting deeper than 64, and data
// after the value. What a type with an UnmarshalJSON of its own accepts, such as a
// json.RawMessage, is its matter; it gets no text with keys that are there twice.
// Errors are *Error, if they are not such a type's own.
func Decode(text []byte, limit int, v any) error {
	return decode(text, limit, v, false)
}

// DecodeKnown is Decode that passes over unknown fields: for a reader that shows
// what a newer version wrote, and decides nothing by it.
func DecodeKnown(text []byte, limit int, v any) error {
	return decode(text, limit, v, true)
}

func decode(text []byte, limit int, v any, lenient bool) error {
	if len(text) > limit {
		return &Error{what: fmt.Sprintf("%d bytes, limit %d", len(text), limit)}
	}
	if !utf8.Valid(text) {
		// It is found where it is, or at a U+FFFD before it.
		return faultAt(text, bytes.IndexRune(text, utf8.RuneError), "a character that is not UTF-8")
	}
	if err := json.Unmarshal(text, v); err != nil {
		if fault := Where(text, err); fault != nil {
			return fault
		}
		return err
	}
	s := scanner{text: text, lenient: lenient}
	return s.walk(&shape{elem: reflect.TypeOf(v).Elem()}, 0)
}

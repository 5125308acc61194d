package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// Error is why a text was refused.
type Error struct {
	Line    int  // where, from 1; 0 if the text is too long
	Unknown bool // the fault is a field that v does not have
	what    string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.what
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.what)
}

// faultAt is a fault at an offset; lines count from 1. It is called in many
// places, and the size of uinit counts.
//
//go:noinline
func faultAt(text []byte, at int, what string) *Error {
	return &Error{Line: 1 + bytes.Count(text[:min(at, len(text))], []byte("\n")), what: what}
}

// Where makes an *Error of an error that encoding/json has for the text: in which
// line the fault is, in words that are not Go's. It is nil for errors of others.
func Where(text []byte, err error) *Error {
	at, what := len(text), "it ends in the middle: a file that was cut off?"
	switch e := err.(type) {
	case *Error:
		return e
	case *json.SyntaxError:
		// The offset is behind the byte that is wrong, or at the end.
		if msg := e.Error(); msg != "unexpected end of JSON input" {
			at, what = int(e.Offset)-1, "no valid JSON: "+msg
			if json.Valid(text[:at]) {
				what = "data after the document"
			}
		}
	case *json.UnmarshalTypeError:
		at, what = int(e.Offset), mistyped(e)
	default:
		if err != io.ErrUnexpectedEOF { // a json.Decoder's
			return nil
		}
	}
	return faultAt(text, at, what)
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

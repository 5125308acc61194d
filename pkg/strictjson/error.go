package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
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
	cause   error // of encoding/json, or nil
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.what
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.what)
}

// Unwrap returns the error of encoding/json, if it was one.
func (e *Error) Unwrap() error { return e.cause }

// faultAt is a fault at an offset; lines count from 1.
func faultAt(text []byte, offset int, format string, args ...any) *Error {
	before := text[:min(max(offset, 0), len(text))]
	return &Error{Line: 1 + bytes.Count(before, []byte("\n")), what: fmt.Sprintf(format, args...)}
}

// cutOff is what encoding/json says at the end of a text that is not whole.
const cutOff = "unexpected end of JSON input"

// Where makes an *Error of an error that encoding/json has for the text: in which
// line the fault is, in words that are not Go's. Others it returns as they are.
func Where(text []byte, err error) error {
	var fault *Error
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &syntax) && syntax.Error() == cutOff:
		fault = faultAt(text, len(text), "it ends in the middle: a file that was cut off?")
	case syntax != nil && json.Valid(text[:max(int(syntax.Offset)-1, 0)]):
		fault = faultAt(text, int(syntax.Offset)-1, "data after the document")
	case syntax != nil:
		fault = faultAt(text, int(syntax.Offset), "no valid JSON: %v", syntax)
	case errors.As(err, &typ):
		fault = faultAt(text, int(typ.Offset), "%s", mistyped(typ))
	default:
		return err
	}
	fault.cause = err
	return fault
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

package strictjson

import (
	"encoding/json"
	"reflect"
	"strings"
	"sync"
)

// shape is what a Go type makes of an object or a list.
type shape struct {
	object bool         // a struct: it has these fields and no others
	number bool         // a map with numbers as keys
	elem   reflect.Type // of a list or map; nil is anything
	fields *field
}

// field is one of a list of a struct's fields.
type field struct {
	name string // as encoding/json has it
	typ  reflect.Type
	next *field
}

// unknown is what is wrong with a key that is no field's name.
const unknown = "unknown field"

var (
	shapes      sync.Map // reflect.Type to *shape
	unmarshaler = reflect.TypeFor[json.Unmarshaler]()
)

// shapeOf is the shape of a type; nil is anything.
func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := new(shape)
	if t != nil {
		s.fill(t)
	}
	shapes.Store(t, s)
	return s
}

func (s *shape) fill(t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(unmarshaler) {
		return // its own matter
	}
	switch t.Kind() {
	case reflect.Map:
		k := t.Key().Kind()
		s.number = k >= reflect.Int && k <= reflect.Uintptr
		s.elem = t.Elem()
	case reflect.Slice, reflect.Array:
		s.elem = t.Elem()
	case reflect.Struct:
		s.object = true
		s.add(t)
	}
}

// add takes in the fields of structs embedded in a struct, and then its own: of two
// of one name, find finds the outer one, as encoding/json does.
func (s *shape) add(t reflect.Type) {
	for _, embedded := range [...]bool{true, false} {
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			switch {
			case embedded != (f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct):
			case embedded:
				s.add(f.Type)
			case name != "-" && f.IsExported():
				if name == "" {
					name = f.Name
				}
				s.fields = &field{name, f.Type, s.fields}
			}
		}
	}
}

// find returns the index of the field that a key names, or -1, the type of what
// stands behind the key, and what is wrong with the key, if anything is.
func (s *shape) find(key []byte) (i int, t reflect.Type, what string) {
	for f := s.fields; f != nil; f = f.next {
		if f.name == string(key) {
			return i, f.typ, ""
		}
		i++
	}
	switch {
	case s.object:
		what = unknown
	case s.number && !canonical(key):
		what = "numbers are written as 7, 0 or -7, and not as"
	}
	for f := s.fields; f != nil; f = f.next {
		if strings.EqualFold(f.name, string(key)) { // as encoding/json compares
			what = "it is the field " + f.name + ", and not"
		}
	}
	return -1, s.elem, what
}

// canonical tells whether encoding/json writes a number so: it takes +1 and 01 for
// 1, too.
func canonical(key []byte) bool {
	digit := key[0]
	if digit == '-' {
		digit = key[1]
	}
	return digit >= '1' && digit <= '9' || string(key) == "0"
}

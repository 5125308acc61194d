package strictjson

import (
	"encoding/json"
	"reflect"
	"strings"
	"sync"
)

// shape is what a Go type makes of an object or a list.
type shape struct {
	fields map[string]int // of a struct: index in types, by name; nil of other types
	types  []reflect.Type
	elem   reflect.Type // of a list or map; nil is anything
	number bool         // a map with numbers as keys
}

// maxFields is of how many fields a struct may be; ours have 40 at most.
const maxFields = 128

var (
	shapes      sync.Map // reflect.Type to *shape
	anything    = new(shape)
	unmarshaler = reflect.TypeFor[json.Unmarshaler]()
)

// shapeOf is the shape of a type; nil is anything.
func shapeOf(t reflect.Type) *shape {
	if t == nil {
		return anything
	}
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := newShape(t)
	shapes.Store(t, s)
	return s
}

func newShape(t reflect.Type) *shape {
	for {
		if t.Implements(unmarshaler) || reflect.PointerTo(t).Implements(unmarshaler) {
			return anything
		}
		if t.Kind() != reflect.Pointer {
			break
		}
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array:
		return &shape{elem: t.Elem()}
	case reflect.Map:
		k := t.Key().Kind()
		return &shape{elem: t.Elem(), number: k >= reflect.Int && k <= reflect.Uintptr}
	case reflect.Struct:
		s := &shape{fields: map[string]int{}}
		s.add(t)
		return s
	}
	return anything
}

// add takes in the fields of a struct by the names that encoding/json has for
// them; those of a struct embedded in it have other names than its own.
func (s *shape) add(t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			s.add(f.Type)
			continue
		case name == "-" || !f.IsExported():
			continue
		case name == "":
			name = f.Name
		}
		if _, ok := s.fields[name]; ok || len(s.types) == maxFields {
			panic("strictjson: too many fields, or two of one name: " + t.String())
		}
		s.fields[name] = len(s.types)
		s.types = append(s.types, f.Type)
	}
}

// otherCase is the field that encoding/json takes name for, because it compares
// without letter case; "" if there is none.
func (s *shape) otherCase(name string) string {
	for field := range s.fields {
		if strings.EqualFold(field, name) {
			return field
		}
	}
	return ""
}

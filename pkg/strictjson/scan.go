package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
)

// scanner goes through a text that encoding/json found to be one valid value. So
// it looks at keys, nulls and brackets, and nothing else can be between them.
type scanner struct {
	text    []byte
	at      int
	lenient bool // about unknown fields
}

// walk passes over the elements of a list or an object, and its end. The text as a
// whole is like a list of one.
func (s *scanner) walk(sh *shape, depth int) error {
	var seen keys
	elem := sh.elem
	for ; s.at < len(s.text); s.at++ {
		var err error
		switch s.text[s.at] {
		case '}', ']':
			return nil
		case '{', '[':
			if depth == maxDepth {
				return faultAt(s.text, s.at, "lists and objects nest deeper than 64")
			}
			s.at++
			err = s.walk(shapeOf(elem), depth+1)
		case '"':
			if start := s.at; s.isKey() {
				elem, err = s.key(start, sh, &seen)
			}
		case 'n':
			if elem != nil && !nilable(elem.Kind()) {
				err = faultAt(s.text, s.at, "null, where a value is wanted")
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// nilable tells whether a null is a value of the kind's own. For all others,
// encoding/json takes a null as if nothing stood there.
func nilable(k reflect.Kind) bool {
	return k == reflect.Slice || k == reflect.Map || k == reflect.Pointer || k == reflect.Interface
}

// isKey passes over a string, up to its last quote, and tells whether it is an
// object's key: only behind these is a colon.
func (s *scanner) isKey() bool {
	for s.at++; s.text[s.at] != '"'; s.at++ {
		if s.text[s.at] == '\\' {
			s.at++
		}
	}
	behind := s.at + 1
	for behind < len(s.text) && s.text[behind] <= ' ' {
		behind++
	}
	return behind < len(s.text) && s.text[behind] == ':'
}

// keys are those of one object.
type keys struct {
	fields uint64          // bits, one for each of a struct's first 64 fields
	others map[string]bool // all others
}

// key judges the key of an object that begins at start, and ends here, and returns
// the type of its value.
func (s *scanner) key(start int, sh *shape, seen *keys) (reflect.Type, error) {
	key := s.text[start+1 : s.at]
	if bytes.IndexByte(key, '\\') >= 0 {
		var text string
		if err := json.Unmarshal(s.text[start:s.at+1], &text); err != nil {
			return nil, err
		}
		key = []byte(text)
	}
	i, elem, what := sh.find(key)
	if what == unknown && s.lenient {
		what = ""
	}
	if what == "" && !seen.add(key, i) {
		what = "there twice:"
	}
	if what == "" {
		return elem, nil
	}
	err := faultAt(s.text, start, fmt.Sprintf("%s %.64q", what, key))
	err.Unknown = what == unknown
	return nil, err
}

// add tells whether a key is new; i is its field's index, or negative.
func (k *keys) add(key []byte, i int) bool {
	if i >= 0 && i < 64 {
		was := k.fields
		k.fields |= 1 << i
		return k.fields != was
	}
	if k.others == nil {
		k.others = map[string]bool{}
	}
	were := len(k.others)
	k.others[string(key)] = true
	return len(k.others) > were
}

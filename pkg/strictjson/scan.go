package strictjson

import (
	"bytes"
	"encoding/json"
	"reflect"
)

// scanner goes through a text that encoding/json found to be one valid value:
// whatever it begins to read ends where it should.
type scanner struct {
	text    []byte
	at      int
	lenient bool // about unknown fields
}

// next passes over space and returns the byte behind it.
func (s *scanner) next() byte {
	for {
		switch c := s.text[s.at]; c {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return c
		}
	}
}

// more passes over the comma or bracket behind an element; false: the bracket.
func (s *scanner) more() bool {
	c := s.next()
	s.at++
	return c == ','
}

// value passes over a value that goes into a t.
func (s *scanner) value(t reflect.Type, depth int) error {
	c := s.next()
	if (c == '{' || c == '[') && depth > maxDepth {
		return faultAt(s.text, s.at, "lists and objects nest deeper than %d", maxDepth)
	}
	switch c {
	case '{':
		return s.object(shapeOf(t), depth)
	case '[':
		return s.list(shapeOf(t).elem, depth)
	case '"':
		s.str()
		return nil
	}
	for s.at < len(s.text) { // a number or a word
		switch s.text[s.at] {
		case ',', ']', '}', ' ', '\t', '\r', '\n':
			return nil
		}
		s.at++
	}
	return nil
}

func (s *scanner) list(elem reflect.Type, depth int) error {
	s.at++
	if s.next() == ']' {
		s.at++
		return nil
	}
	for {
		if err := s.value(elem, depth+1); err != nil {
			return err
		}
		if !s.more() {
			return nil
		}
	}
}

func (s *scanner) object(sh *shape, depth int) error {
	s.at++
	if s.next() == '}' {
		s.at++
		return nil
	}
	var seen [maxFields / 64]uint64 // bits, one for each field
	var others map[string]bool      // keys that are no fields
	for {
		s.next()
		start := s.at
		key, err := s.key()
		if err != nil {
			return err
		}
		s.next()
		s.at++ // the colon
		elem, twice := sh.elem, false
		if i, ok := sh.fields[string(key)]; ok {
			bit := uint64(1) << (i % 64)
			twice = seen[i/64]&bit != 0
			seen[i/64] |= bit
			elem = sh.types[i]
		} else {
			if err := s.stranger(sh, start, key); err != nil {
				return err
			}
			if others == nil {
				others = map[string]bool{}
			}
			twice = others[string(key)]
			others[string(key)] = true
		}
		if twice {
			return faultAt(s.text, start, "%.64q is there twice", key)
		}
		if err := s.value(elem, depth+1); err != nil {
			return err
		}
		if !s.more() {
			return nil
		}
	}
}

// stranger judges a key that is no field's name.
func (s *scanner) stranger(sh *shape, at int, key []byte) error {
	// encoding/json writes -1, 0 and 1, and takes +1 and 01 for 1.
	if sh.number && len(key) > 1 && bytes.TrimPrefix(key, []byte("-"))[0]-'1' > '9'-'1' {
		return faultAt(s.text, at, "key %.64q is a number in another form than 7, 0 or -7", key)
	}
	if sh.fields == nil {
		return nil
	}
	if field := sh.otherCase(string(key)); field != "" {
		return faultAt(s.text, at, "field %.64q must be written %q", key, field)
	}
	if s.lenient {
		return nil
	}
	err := faultAt(s.text, at, "unknown field %.64q", key)
	err.Unknown = true
	return err
}

// key passes over an object's key.
func (s *scanner) key() ([]byte, error) {
	start := s.at
	raw := s.str()
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw, nil
	}
	var text string
	err := json.Unmarshal(s.text[start:s.at], &text)
	return []byte(text), err
}

// str passes over a string and returns what is between its quotes.
func (s *scanner) str() []byte {
	s.at++
	start := s.at
	end := start + bytes.IndexByte(s.text[start:], '"')
	if bytes.IndexByte(s.text[start:end], '\\') >= 0 { // it may be the quote that is escaped
		for end = start; s.text[end] != '"'; end++ {
			if s.text[end] == '\\' {
				end++
			}
		}
	}
	s.at = end + 1
	return s.text[start:end]
}

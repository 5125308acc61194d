package luks2

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Bounds of the JSON text. cryptsetup's largest sane header (32 keyslots, 32
// tokens with a JWE each) stays below a quarter of them.
const (
	maxJSONDepth  = 16
	maxJSONValues = 8192
)

// object is a JSON object whose names are exact and unique. encoding/json
// alone would match names in any case and take the last of two, cryptsetup's
// parser does neither: two readers must not see two headers in one text.
type object map[string]*value

// first returns the least name of which wrong is true. Go walks a map in any
// order, and one input has one reason to be refused.
func (o object) first(wrong func(name string) bool) (least string, ok bool) {
	for name := range o {
		if (!ok || name < least) && wrong(name) {
			least, ok = name, true
		}
	}
	return least, ok
}

// value is one of: object, array, string, number; true, false and null have a
// raw text only and fit nothing that this package asks for.
type value struct {
	obj object
	arr []*value
	str *string
	num string
	raw json.RawMessage
}

// treeBuilder walks the tokens of one JSON text.
type treeBuilder struct {
	dec  *json.Decoder
	text []byte
	left int // values still allowed
}

// parseJSON decodes text, which must be exactly one object.
func parseJSON(text []byte) (object, error) {
	if !utf8.Valid(text) || !json.Valid(text) || text[0] != '{' {
		return nil, refuse(CodeJSON, "the metadata is not a JSON object")
	}
	b := &treeBuilder{dec: json.NewDecoder(bytes.NewReader(text)), text: text, left: maxJSONValues}
	b.dec.UseNumber()
	v, err := b.value(0)
	if err != nil {
		return nil, err
	}
	return v.obj, nil
}

func (b *treeBuilder) value(depth int) (*value, error) {
	b.left--
	if b.left < 0 || depth > maxJSONDepth {
		return nil, refuse(CodeJSONLimit, "more than %d values or %d levels", maxJSONValues, maxJSONDepth)
	}
	start := b.dec.InputOffset()
	tok, err := b.dec.Token()
	if err != nil {
		return nil, refuse(CodeJSON, "the metadata is not a JSON object")
	}
	v := &value{}
	switch t := tok.(type) {
	case json.Delim:
		if t == '{' {
			err = b.members(v, depth)
		} else {
			err = b.elements(v, depth)
		}
	case string:
		v.str = &t
	case json.Number:
		v.num = t.String()
	}
	// InputOffset is where the last token ended, so a comma, a colon and
	// white space may stand before the value.
	v.raw = bytes.TrimLeft(b.text[start:b.dec.InputOffset()], " \t\r\n,:")
	return v, err
}

func (b *treeBuilder) members(v *value, depth int) error {
	v.obj = object{}
	for b.dec.More() {
		tok, err := b.dec.Token()
		name, ok := tok.(string)
		if err != nil || !ok {
			return refuse(CodeJSON, "the metadata is not a JSON object")
		}
		if _, dup := v.obj[name]; dup {
			return refuse(CodeJSONDuplicate, "%q twice in one object", name)
		}
		if v.obj[name], err = b.value(depth + 1); err != nil {
			return err
		}
	}
	_, err := b.dec.Token() // the closing brace: the text is valid JSON
	return err
}

func (b *treeBuilder) elements(v *value, depth int) error {
	v.arr = []*value{}
	for b.dec.More() {
		e, err := b.value(depth + 1)
		if err != nil {
			return err
		}
		v.arr = append(v.arr, e)
	}
	_, err := b.dec.Token()
	return err
}

// reader takes typed fields out of an object and keeps the first error, so
// that validation reads as a list. where names the object in errors.
type reader struct {
	where string
	obj   object
	err   error
}

func newReader(where string, v *value) *reader {
	r := &reader{where: where}
	if v == nil || v.obj == nil {
		r.fail(CodeField, "%s: missing or not an object", where)
		return r
	}
	r.obj = v.obj
	return r
}

func (r *reader) fail(c Code, format string, args ...any) {
	if r.err == nil {
		r.err = refuse(c, format, args...)
	}
}

// only refuses every field that is not in names.
func (r *reader) only(names ...string) {
	if err := r.unknown(names...); err != nil && r.err == nil {
		r.err = err
	}
}

// unknown returns the refusal of a field that is not in names.
func (r *reader) unknown(names ...string) error {
	if got, ok := r.obj.first(func(name string) bool { return !slices.Contains(names, name) }); ok {
		return refuse(CodeUnknownField, "%s: unknown field %q", r.where, got)
	}
	return nil
}

func (r *reader) has(name string) bool { return r.obj[name] != nil }

// str reads a string, which is never empty in LUKS2.
func (r *reader) str(name string) string {
	v := r.obj[name]
	if v == nil || v.str == nil || *v.str == "" {
		r.fail(CodeField, "%s: %s is missing, empty or not a string", r.where, name)
		return ""
	}
	return *v.str
}

// u32 reads a JSON integer, written in decimal digits only.
func (r *reader) u32(name string) uint32 {
	v := r.obj[name]
	if v == nil || v.num == "" {
		r.fail(CodeField, "%s: %s is missing or not a number", r.where, name)
		return 0
	}
	n, ok := decimal(v.num, 32)
	if !ok {
		r.fail(CodeField, "%s: %s is %s, want an unsigned 32-bit integer", r.where, name, v.num)
	}
	return uint32(n)
}

// u64 reads a 64-bit number, which LUKS2 writes as a string (specification §3).
func (r *reader) u64(name string) uint64 {
	s := r.str(name)
	n, ok := decimal(s, 64)
	if !ok {
		r.fail(CodeField, "%s: %s is %q, want decimal digits", r.where, name, s)
	}
	return n
}

// strings reads an array of strings.
func (r *reader) strings(name string) []string {
	v := r.obj[name]
	if v == nil || v.arr == nil {
		r.fail(CodeField, "%s: %s is missing or not an array", r.where, name)
		return nil
	}
	out := make([]string, 0, len(v.arr))
	for _, e := range v.arr {
		if e.str == nil {
			r.fail(CodeField, "%s: %s holds something else than strings", r.where, name)
			return nil
		}
		out = append(out, *e.str)
	}
	return out
}

// numbered returns the members of an object of the top level by number. Only
// canonical decimal names in [0, limit) exist in sane headers.
func numbered(where string, v *value, limit int) (map[int]*value, error) {
	if v == nil || v.obj == nil {
		return nil, refuse(CodeField, "%s: missing or not an object", where)
	}
	out := make(map[int]*value, len(v.obj))
	wrong := func(name string) bool {
		n, ok := decimal(name, 32)
		return !ok || n >= uint64(limit)
	}
	if name, ok := v.obj.first(wrong); ok {
		return nil, refuse(CodeNumber, "%s: name %q is not a number below %d", where, name, limit)
	}
	for name, m := range v.obj {
		n, _ := decimal(name, 32)
		out[int(n)] = m
	}
	return out, nil
}

// decimal parses digits without sign, blank or leading zero.
func decimal(s string, bits int) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, bits)
	return n, err == nil && strconv.FormatUint(n, 10) == s
}

// label names one numbered object in errors.
func label(kind string, id int) string { return fmt.Sprintf("%s %d", kind, id) }

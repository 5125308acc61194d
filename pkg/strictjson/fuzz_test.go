package strictjson

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"
	"strconv"
	"testing"
	"unicode/utf8"
)

// schema is what a value of a document may be, written down by hand.
type schema struct {
	fields map[string]*schema // of an object of these fields
	each   *schema            // of a list, or an object with any keys
	number bool               // the keys are numbers
	null   bool
}

// documentSchema is the schema of a document.
func documentSchema() *schema {
	scalar := new(schema)
	bytes := &schema{each: scalar, null: true}
	anything := &schema{null: true}
	anything.each = anything
	in := &schema{fields: map[string]*schema{"size": scalar, "Key": bytes}}
	doc := &schema{fields: map[string]*schema{
		"id": scalar, "type": scalar, "time": scalar,
		"names":  {each: scalar, null: true},
		"inner":  {fields: in.fields, null: true},
		"list":   {each: in, null: true},
		"pcrs":   {each: bytes, number: true, null: true},
		"labels": {each: in, null: true},
		"words":  {each: scalar, null: true},
		"raw":    anything, "any": anything,
	}}
	doc.fields["next"] = &schema{fields: doc.fields, null: true}
	return doc
}

// fits tells whether a value that encoding/json made of any text fits.
func (c *schema) fits(v any, depth int) bool {
	switch v := v.(type) {
	case nil:
		return c.null
	case []any:
		for _, e := range v {
			if !c.each.fits(e, depth+1) {
				return false
			}
		}
		return depth < 64
	case map[string]any:
		for key, e := range v {
			next := c.each
			if c.fields != nil {
				next = c.fields[key]
			}
			if n, _ := strconv.Atoi(key); next == nil || c.number && strconv.Itoa(n) != key || !next.fits(e, depth+1) {
				return false
			}
		}
		return depth < 64
	}
	return true
}

// tokens counts what a text is made of.
func tokens(t *testing.T, text []byte) (n int) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	for {
		if _, err := d.Token(); err == io.EOF {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
		n++
	}
}

// strict is a slow Decode, by encoding/json alone: two keys of one name are one in
// a map, so that what is made of the map has fewer tokens.
func strict(t *testing.T, text []byte) bool {
	if len(text) > limit || !utf8.Valid(text) || json.Unmarshal(text, new(document)) != nil {
		return false
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return tokens(t, text) == tokens(t, again) && documentSchema().fits(v, 0)
}

// FuzzDecode: what is accepted is what encoding/json would show to be strict, and
// it makes the same value of it, and of that one's own text again.
func FuzzDecode(f *testing.F) {
	for _, text := range accepted {
		f.Add([]byte(text))
	}
	for _, test := range refused {
		f.Add([]byte(test.text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got := new(document)
		err := Decode(text, limit, got)
		if want := strict(t, text); (err == nil) != want {
			t.Fatalf("%v, and to encoding/json it is strict: %v", err, want)
		}
		if err != nil {
			return
		}
		want := new(document)
		if err := json.Unmarshal(text, want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) { // cmp.Diff takes for ever over deep lists
			t.Fatalf("%+v, encoding/json makes %+v", got, want)
		}
		again, err := json.Marshal(got)
		if err != nil {
			return // a year beyond 9999
		}
		back := new(document)
		if err := Decode(again, 100*limit, back); err != nil {
			t.Fatalf("its own text %s: %v", again, err)
		}
		text2, err := json.Marshal(back)
		if err != nil || !bytes.Equal(again, text2) {
			t.Fatalf("%s became %s, %v", again, text2, err)
		}
	})
}

package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

type inner struct {
	Size int8   `json:"size"`
	Key  []byte // of no tag
}

type base struct {
	ID string `json:"id"`
}

type document struct {
	base
	Type   string            `json:"type"`
	Names  []string          `json:"names,omitempty"`
	Inner  *inner            `json:"inner,omitempty"`
	List   []inner           `json:"list,omitempty"`
	PCRs   map[int][]byte    `json:"pcrs,omitempty"`
	Labels map[string]inner  `json:"labels,omitempty"`
	Time   time.Time         `json:"time"`
	Raw    json.RawMessage   `json:"raw,omitempty"`
	Any    any               `json:"any,omitempty"`
	Next   *document         `json:"next,omitempty"`
	Words  map[string]string `json:"words,omitempty"`
	Hidden string            `json:"-"`
}

const limit = 4 << 10

// nested is a list in lists, n of them.
func nested(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

// manyKeys is an object with 65 keys.
func manyKeys(last string) string {
	var b strings.Builder
	for i := range 64 {
		fmt.Fprintf(&b, `"k%d":"",`, i)
	}
	return "{" + b.String() + `"` + last + `":""}`
}

// refused are texts that one or all of the decoders before took for a document.
var refused = []struct {
	text, want string
	strict     bool // json.Decoder refused it too, if it was told to know no other fields
}{
	{`{"type":"a"}}`, "line 1: data after the document", false}, // json.Decoder.More took the bracket for an end
	{`{"type":"a"}]`, "line 1: data after the document", false},
	{"{\"type\":\"a\"}\n{}", "line 2: data after the document", false},
	{"{\"type\":\"a\"}\n\n\u2014 a b", "line 3: data after the document", false},
	{"{\"type\":\"a\",\n\"type\":\"b\"}", `line 2: "type" is there twice`, false},
	{`{"type":"a","\u0074ype":"b"}`, `line 1: "type" is there twice`, false},
	{`{"id":"a","type":"","id":"b"}`, `line 1: "id" is there twice`, false},
	{`{"inner":{"size":1,"size":2}}`, `line 1: "size" is there twice`, false},
	{`{"list":[{},{"size":1,"size":2}]}`, `line 1: "size" is there twice`, false},
	{`{"labels":{"a":{"size":1,"size":1}}}`, `line 1: "size" is there twice`, false},
	{`{"labels":{"a":{},"a":{}}}`, `line 1: "a" is there twice`, false},
	{`{"words":` + manyKeys("k1") + `}`, `line 1: "k1" is there twice`, false},
	{`{"words":` + manyKeys("k63") + `}`, `line 1: "k63" is there twice`, false},
	{`{"next":{"next":{"type":"a","type":"a"}}}`, `line 1: "type" is there twice`, false},
	{`{"raw":{"a":[{"b":1,"b":1}]}}`, `line 1: "b" is there twice`, false},
	{`{"any":{"a":[{"b":1,"b":1}]}}`, `line 1: "b" is there twice`, false},
	{`{"Type":"a"}`, `line 1: field "Type" must be written "type"`, false},
	{`{"type":"a","TYPE":"b"}`, `line 1: field "TYPE" must be written "type"`, false},
	{`{"name` + "\u017f" + `":[]}`, `line 1: field "nameſ" must be written "names"`, false}, // the long s
	{`{"inner":{"key":""}}`, `line 1: field "key" must be written "Key"`, false},
	{`{"pcrs":{"1":"","01":""}}`, `line 1: key "01" is a number in another form than 7, 0 or -7`, false},
	{`{"pcrs":{"+1":""}}`, `line 1: key "+1" is a number in another form than 7, 0 or -7`, false},
	{"{\n\"type\":\"\xff\"}", "line 2: a character that is not UTF-8", false},
	{"{\"words\":{\"\xc3\":\"\"}}", "line 1: a character that is not UTF-8", false},
	{`{"words":{"\ud800":"","\ud801":""}}`, "line 1: \"�\" is there twice", false},
	{`{"any":` + nested(maxDepth) + `}`, "line 1: lists and objects nest deeper than 64", false},
	{`{"raw":` + nested(1000) + `}`, "line 1: lists and objects nest deeper than 64", false},

	{"{\n\n\"other\":7}", `line 3: unknown field "other"`, true},
	{`{"base":{}}`, `line 1: unknown field "base"`, true},
	{`{"Hidden":""}`, `line 1: unknown field "Hidden"`, true},
	{`{"list":[{"type":1}]}`, `line 1: unknown field "type"`, true},
	{`{"` + strings.Repeat("x", 99) + `":7}`, `line 1: unknown field "` + strings.Repeat("x", 64) + `"`, true},
	{"{\n", "line 2: it ends in the middle: a file that was cut off?", true},
	{"{\n]", "line 2: no valid JSON: invalid character ']' looking for beginning of object key string", true},
	{"[]", `line 1: it has a value of the kind "array", where an object is wanted`, true},
	{"{\n\"names\": 7}", `line 2: field names has a value of the kind "number", where a list is wanted`, true},
	{`{"inner": {"size": 300}}`, `line 1: field inner.size has a value of the kind "number", where another number is wanted`, true},
	{`{"inner": {"size": "7"}}`, `line 1: field inner.size has a value of the kind "string", where a number is wanted`, true},
	{`{"inner": {"Key": 7}}`, `line 1: field inner.Key has a value of the kind "number", where a string is wanted`, true},
	{strings.Repeat(" ", limit) + "{}", "4098 bytes, limit 4096", false},
}

var accepted = []string{
	`{}`, ` { } `, `null`,
	`{"id":"a","type":"b","names":["c","d"],"inner":{"size":1,"Key":"AA=="},"list":[{"size":1},{"size":1}]}`,
	`{"pcrs":{"-1":"","0":"AA==","10":""},"labels":{"a":{"size":1},"A":{"size":1}},"time":"2026-01-02T03:04:05Z"}`,
	`{"raw":{"Type":1,"type":2,"x":[1,-2.5e3,true,null]},"any":[{"x":"\ud83d\ude00 \" \\ \u00e9"},{"x":1}]}`,
	`{"next":{"next":{"type":"a"},"type":"a"},"type":"\\"}`,
	`{"words":` + manyKeys("k64") + `}`,
	"{\"words\":{\"\\u00e9\":\"\\\\\",\"e\":\"\u2014\"}\n}\r\n",
	`{"any":` + nested(maxDepth-1) + `}`,
}

// lax is what the decoders before had in common.
func lax(text string) error {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(new(document))
}

func TestRefused(t *testing.T) {
	for _, test := range refused {
		err := Decode([]byte(test.text), limit, new(document))
		if err == nil || err.Error() != test.want {
			t.Errorf("%.80q: %v, want %s", test.text, err, test.want)
		}
		if err := lax(test.text); (err != nil) != test.strict {
			t.Errorf("%.80q: a json.Decoder says %v", test.text, err)
		}
	}
}

func TestAccepted(t *testing.T) {
	for _, text := range accepted {
		if err := Decode([]byte(text), limit, new(document)); err != nil {
			t.Errorf("%.80q: %v", text, err)
		}
	}
}

// DecodeKnown passes over unknown fields, and over nothing else.
func TestDecodeKnown(t *testing.T) {
	for text, want := range map[string]string{
		`{"type":"a","other":{"x":[1]},"list":[{"y":1}]}`: "",
		`{"other":1,"other":2}`:                           `line 1: "other" is there twice`,
		`{"other":{"x":1,"x":2}}`:                         `line 1: "x" is there twice`,
		`{"Type":"a"}`:                                    `line 1: field "Type" must be written "type"`,
		`{"other":1}{}`:                                   "line 1: data after the document",
	} {
		got := ""
		if err := DecodeKnown([]byte(text), limit, new(document)); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// A document without maps costs no memory beyond what encoding/json takes.
func TestScanAllocatesNothing(t *testing.T) {
	text := []byte(accepted[3])
	before := testing.AllocsPerRun(100, func() {
		if err := json.Unmarshal(text, new(document)); err != nil {
			t.Fatal(err)
		}
	})
	after := testing.AllocsPerRun(100, func() {
		if err := Decode(text, limit, new(document)); err != nil {
			t.Fatal(err)
		}
	})
	if after > before {
		t.Errorf("%g allocations, json.Unmarshal alone has %g", after, before)
	}
}

// FuzzDecode: of what is accepted, encoding/json makes the same value, and of
// that one's own text again, and no other field, value or spelling was there.
func FuzzDecode(f *testing.F) {
	for _, text := range accepted {
		f.Add([]byte(text))
	}
	for _, test := range refused {
		f.Add([]byte(test.text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got := new(document)
		if Decode(text, limit, got) != nil {
			return
		}
		want := new(document)
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(want); err != nil {
			t.Fatalf("encoding/json refuses it: %v", err)
		}
		if _, err := d.Token(); err != io.EOF {
			t.Fatalf("data after it: %v", err)
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

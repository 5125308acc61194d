package strictjson

import (
	"encoding/json"
	"fmt"
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
	{"{\"type\":\"a\",\n\"type\":\"b\"}", `line 2: there twice: "type"`, false},
	{`{"type":"a","\u0074ype":"b"}`, `line 1: there twice: "type"`, false},
	{`{"id":"a","type":"","id":"b"}`, `line 1: there twice: "id"`, false},
	{`{"inner":{"size":1,"size":2}}`, `line 1: there twice: "size"`, false},
	{`{"list":[{},{"size":1,"size":2}]}`, `line 1: there twice: "size"`, false},
	{`{"labels":{"a":{"size":1,"size":1}}}`, `line 1: there twice: "size"`, false},
	{`{"labels":{"a":{},"a":{}}}`, `line 1: there twice: "a"`, false},
	{`{"words":` + manyKeys("k1") + `}`, `line 1: there twice: "k1"`, false},
	{`{"words":` + manyKeys("k63") + `}`, `line 1: there twice: "k63"`, false},
	{`{"next":{"next":{"type":"a","type":"a"}}}`, `line 1: there twice: "type"`, false},
	{`{"raw":{"a":[{"b":1,"b":1}]}}`, `line 1: there twice: "b"`, false},
	{`{"any":{"a":[{"b":1,"b":1}]}}`, `line 1: there twice: "b"`, false},
	{`{"Type":"a"}`, `line 1: it is the field type, and not "Type"`, false},
	{`{"type":"a","TYPE":"b"}`, `line 1: it is the field type, and not "TYPE"`, false},
	{`{"name` + "\u017f" + `":[]}`, `line 1: it is the field names, and not "nameſ"`, false}, // the long s
	{`{"inner":{"key":""}}`, `line 1: it is the field Key, and not "key"`, false},
	{`{"pcrs":{"1":"","01":""}}`, `line 1: numbers are written as 7, 0 or -7, and not as "01"`, false},
	{`{"pcrs":{"+1":""}}`, `line 1: numbers are written as 7, 0 or -7, and not as "+1"`, false},
	{"{\n\"type\":\"\xff\"}", "line 2: a character that is not UTF-8", false},
	{"{\"words\":{\"\xc3\":\"\"}}", "line 1: a character that is not UTF-8", false},
	{`{"words":{"\ud800":"","\ud801":""}}`, "line 1: there twice: \"�\"", false},
	{`{"any":` + nested(maxDepth) + `}`, "line 1: lists and objects nest deeper than 64", false},
	{`{"raw":` + nested(1000) + `}`, "line 1: lists and objects nest deeper than 64", false},

	{`null`, "line 1: null, where a value is wanted", false},
	{"{\"type\":\"a\",\n\"time\": null}", "line 2: null, where a value is wanted", false},
	{`{"names":["a",null]}`, "line 1: null, where a value is wanted", false},
	{`{"list":[{"size":null}]}`, "line 1: null, where a value is wanted", false},
	{`{"list":[null]}`, "line 1: null, where a value is wanted", false},
	{`{"words":{"a":"","b":null}}`, "line 1: null, where a value is wanted", false},

	{"{\n\n\"other\":7}", `line 3: unknown field "other"`, true},
	{`{"base":{}}`, `line 1: unknown field "base"`, true},
	{`{"-":""}`, `line 1: unknown field "-"`, true},
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
	`{}`, ` { } `, strings.Repeat(" ", limit-2) + `{}`,
	`{"names":null,"inner":null,"list":null,"pcrs":{"0":null},"labels":null,"raw":null,"any":null,"next":null}`,
	`{"any":[null,{"x":null}],"raw":[null,{"x":null}],"labels":{"a":{"Key":null}}}`,
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
		`{"other":1,"other":2}`:                           `line 1: there twice: "other"`,
		`{"other":{"x":1,"x":2}}`:                         `line 1: there twice: "x"`,
		`{"Type":"a"}`:                                    `line 1: it is the field type, and not "Type"`,
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
	text := []byte(accepted[5])
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

// A struct may have any number of fields, and of those of one name the outer one
// counts, as for encoding/json.
func TestStructs(t *testing.T) {
	var fields []reflect.StructField
	for i := range 130 {
		fields = append(fields, reflect.StructField{Name: fmt.Sprintf("K%d", i), Type: reflect.TypeFor[string]()})
	}
	type shadow struct {
		ID inner `json:"id"`
		base
		_ string
	}
	many := reflect.StructOf(fields)
	for _, test := range []struct {
		typ        reflect.Type
		text, want string
	}{
		{many, `{"K0":"","K63":"","K64":"","K65":"","K129":""}`, ""},
		{many, `{"K0":"","K0":""}`, `line 1: there twice: "K0"`},
		{many, `{"K63":"","K63":""}`, `line 1: there twice: "K63"`},
		{many, `{"K64":"","K64":""}`, `line 1: there twice: "K64"`},
		{many, `{"K129":"","K129":""}`, `line 1: there twice: "K129"`},
		{many, `{"k129":""}`, `line 1: it is the field K129, and not "k129"`},
		{many, `{"K130":""}`, `line 1: unknown field "K130"`},
		{reflect.TypeFor[shadow](), `{"id":{"size":1}}`, ""},
		{reflect.TypeFor[shadow](), `{"id":{"Size":1}}`, `line 1: it is the field size, and not "Size"`},
		{reflect.TypeFor[shadow](), `{"_":""}`, `line 1: unknown field "_"`},
	} {
		got := ""
		if err := Decode([]byte(test.text), limit, reflect.New(test.typ).Interface()); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.text, got, test.want)
		}
	}
}

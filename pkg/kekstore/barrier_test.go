package kekstore

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"
)

// vector is a stored value of version 1 under the barrier key 01…01.
type vector struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	Record string `json:"record"`         // hex
	Data   string `json:"data,omitempty"` // what is inside
	Fails  bool   `json:"fails,omitempty"`
}

func testBarrier(t testing.TB) *barrier {
	t.Helper()
	b, err := newBarrier(testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.wipe)
	return b
}

func vectors(t testing.TB) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/values-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	var out []vector
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// Values that version 1 wrote open for ever, and nowhere but at their path and
// version.
func TestFrozenValues(t *testing.T) {
	b := testBarrier(t)
	if got := hex.EncodeToString(b.check[:]); got != "b915a9bc399c281d4983e96b8c8c728ad6b40bdbcddcc898d12df5f7e7745559" {
		t.Errorf("check value %s", got)
	}
	for _, v := range vectors(t) {
		record, err := hex.DecodeString(v.Record)
		if err != nil {
			t.Fatal(err)
		}
		version, err := recordVersion(v.Path, record)
		var data []byte
		if err == nil {
			data, err = b.open(v.Path, record, version)
		}
		if (err != nil) != v.Fails || string(data) != v.Data || (err != nil && !errors.Is(err, ErrTampered)) {
			t.Errorf("%s: %q, %v", v.Name, data, err)
		}
	}
}

// The sum does not depend on the order of writes, and what is taken out again
// leaves no trace.
func TestSumIsOfASet(t *testing.T) {
	b := testBarrier(t)
	var x, y sum
	for _, p := range []string{"a", "b", "c"} {
		x.add(b.term(p, 7))
	}
	for _, p := range []string{"c", "d", "a", "b"} {
		y.add(b.term(p, 7))
	}
	if x == y {
		t.Error("a further value does not change the sum")
	}
	y.sub(b.term("d", 7))
	if x != y {
		t.Error("the sum depends on the order, or on what was taken out")
	}
	if b.term("a", 7) == b.term("a", 8) || b.term("a", 7) == b.term("b", 7) {
		t.Error("terms of different values are equal")
	}
	back, err := decodeSum(x.encode())
	if err != nil || *back != x {
		t.Errorf("decoded sum %+v, %v", back, err)
	}
}

func FuzzRecord(f *testing.F) {
	for _, v := range vectors(f) {
		record, err := hex.DecodeString(v.Record)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(v.Path, record)
	}
	b := testBarrier(f)
	good := map[string]bool{}
	for _, v := range vectors(f) {
		good[v.Path+" "+v.Record] = !v.Fails
	}
	f.Fuzz(func(t *testing.T, path string, record []byte) {
		version, err := recordVersion(path, record)
		if err != nil {
			return
		}
		if _, err := b.open(path, record, version); err == nil && !good[path+" "+hex.EncodeToString(record)] {
			t.Errorf("a made-up record opens at %q: %x", path, record)
		}
	})
}

package snapshot

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/landfall-project/landfall/pkg/signed"
)

// FuzzSlice fuzzes the text behind the signature: whatever passes is canonical
// and valid, and survives being signed again.
func FuzzSlice(f *testing.F) {
	signer, root := testKeys(f, "root")
	text, _, _ := bytes.Cut(readTestdata(f, "slice-v1.note"), []byte("\n\n"))
	f.Add(append(text, '\n'))
	f.Add([]byte("{\n  \"type\": \"landfall.dev/slice/v1\"\n}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := new(Slice)
		if signed.Unmarshal(text, SliceType, s) != nil || s.Validate() != nil {
			return
		}
		msg, err := SignSlice(s, signer)
		if err != nil {
			return // larger than a slice may be
		}
		got, _, err := OpenSlice(msg, root)
		if err != nil {
			t.Fatalf("valid slice refused once signed: %v", err)
		}
		if diff := cmp.Diff(s, got); diff != "" {
			t.Error(diff)
		}
	})
}

// FuzzPart: no panic, bounded memory, and what is read can be written.
func FuzzPart(f *testing.F) {
	f.Add(readTestdata(f, "part-v1.img"))
	small, err := (&Part{Token: []byte("t")}).Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(small)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ReadPart(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		again, err := p.Bytes()
		if err != nil {
			t.Fatalf("read but cannot be written: %v", err)
		}
		q, err := ReadPart(bytes.NewReader(again), int64(len(again)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, q); diff != "" {
			t.Error(diff)
		}
	})
}

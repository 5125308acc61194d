package attest_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekproto"
)

// vectors is testdata/vectors.json: one quote by swtpm 0.7.1 and how it is
// judged after one change each.
type vectors struct {
	AKPublic []byte         `json:"ak_public"` // TPMT_PUBLIC
	AKName   string         `json:"ak_name"`
	Label    string         `json:"label"`
	Exporter []byte         `json:"exporter"`
	Request  []byte         `json:"request"`
	Quote    kekproto.Quote `json:"quote"`
	Reset    uint32         `json:"reset_count"`
	Changes  []change       `json:"changes"`
}

// change replaces a byte of one field, or the whole field.
type change struct {
	Name  string `json:"name"`
	Field string `json:"field"` // attest, signature, exporter, request, label, "pcr"
	At    int    `json:"at"`    // index; the PCR for "pcr"
	To    string `json:"to"`    // hex
	Error string `json:"error"`
}

var errorNames = map[string]error{
	"form": attest.ErrForm, "signature": attest.ErrSignature, "qualifying": attest.ErrQualifying, "pcrs": attest.ErrPCRs,
}

func readVectors(t testing.TB) vectors {
	t.Helper()
	file, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(file, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// apply makes the change on a fresh copy.
func (c change) apply(t *testing.T) vectors {
	t.Helper()
	v := readVectors(t)
	to, err := hex.DecodeString(c.To)
	if err != nil {
		t.Fatal(err)
	}
	switch c.Field {
	case "attest":
		copy(v.Quote.Attest[c.At:], to)
	case "signature":
		copy(v.Quote.Signature[c.At:], to)
	case "exporter":
		copy(v.Exporter[c.At:], to)
	case "request":
		v.Request = to
	case "label":
		v.Label = string(to)
	case "pcr":
		v.Quote.PCRs[c.At] = to
	default:
		t.Fatalf("unknown field %q", c.Field)
	}
	return v
}

func (v vectors) verify() (*attest.Evidence, error) {
	ak, err := attest.ParseAK(v.AKPublic)
	if err != nil {
		return nil, err
	}
	return attest.Verify(v.Quote, ak, attest.Qualify(v.Label, v.Exporter, v.Request))
}

func TestVectors(t *testing.T) {
	v := readVectors(t)
	if name, err := attest.Name(v.AKPublic); err != nil || name != v.AKName {
		t.Errorf("Name: got %q, %v, want %q", name, err, v.AKName)
	}
	e, err := v.verify()
	if err != nil {
		t.Fatal(err)
	}
	if e.ResetCount != v.Reset {
		t.Errorf("reset count: got %d, want %d", e.ResetCount, v.Reset)
	}
	for _, c := range v.Changes {
		t.Run(c.Name, func(t *testing.T) {
			want, ok := errorNames[c.Error]
			if _, err := c.apply(t).verify(); !ok || !errors.Is(err, want) {
				t.Errorf("got %v, want %q", err, c.Error)
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	v := readVectors(f)
	ak, err := attest.ParseAK(v.AKPublic)
	if err != nil {
		f.Fatal(err)
	}
	qualifying := attest.Qualify(v.Label, v.Exporter, v.Request)
	f.Add(v.Quote.Attest, v.Quote.Signature)
	f.Add(v.Quote.Attest[:40], v.Quote.Signature[:9])
	f.Fuzz(func(t *testing.T, statement, signature []byte) {
		q := kekproto.Quote{Attest: statement, Signature: signature, PCRs: v.Quote.PCRs}
		if _, err := attest.Verify(q, ak, qualifying); err == nil && !bytes.Equal(statement, v.Quote.Attest) {
			t.Error("accepted a statement that the TPM never signed")
		}
	})
}

func FuzzParseAK(f *testing.F) {
	f.Add(readVectors(f).AKPublic)
	f.Add([]byte{0, 0x23, 0, 0x0B})
	f.Fuzz(func(t *testing.T, area []byte) {
		ak, err := attest.ParseAK(area)
		if err != nil {
			return
		}
		if name, err := attest.Name(area); err != nil || name != ak.Name() {
			t.Errorf("two names for one key: %q and %q, %v", name, ak.Name(), err)
		}
	})
}

// BenchmarkVerify is what one attested request costs a key server here.
func BenchmarkVerify(b *testing.B) {
	v := readVectors(b)
	ak, err := attest.ParseAK(v.AKPublic)
	if err != nil {
		b.Fatal(err)
	}
	qualifying := attest.Qualify(v.Label, v.Exporter, v.Request)
	for b.Loop() {
		if _, err := attest.Verify(v.Quote, ak, qualifying); err != nil {
			b.Fatal(err)
		}
	}
}

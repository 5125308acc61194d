package keyblob

import (
	"bytes"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/landfall-project/landfall/pkg/secret"
)

// recoveryVector is one entry of testdata/recovery.json.
type recoveryVector struct {
	Name  string `json:"name"`
	Key   string `json:"key,omitempty"` // hex
	Text  string `json:"text"`
	Error bool   `json:"error,omitempty"`
}

func TestRecoveryVectors(t *testing.T) {
	file, err := os.ReadFile("testdata/recovery.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []recoveryVector
	if err := json.Unmarshal(file, &vectors); err != nil {
		t.Fatal(err)
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			key, err := ParseRecovery(secret.Take([]byte(v.Text)))
			if v.Error {
				if !errors.Is(err, ErrRecovery) || key != nil {
					t.Fatalf("got %v, %v, want ErrRecovery", key, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(key.Expose()); got != v.Key {
				t.Errorf("got key %s, want %s", got, v.Key)
			}
			text, err := RecoveryText(key)
			if err != nil || string(text.Expose()) != v.Text {
				t.Errorf("got text %s, %v, want %s", text.Expose(), err, v.Text)
			}
		})
	}
}

// TestRecoveryText compares with the standard library's base32, which keeps
// secrets in the heap.
func TestRecoveryText(t *testing.T) {
	for range 200 {
		key := secret.Random(RecoverySize)
		text, err := RecoveryText(key)
		if err != nil {
			t.Fatal(err)
		}
		plain := bytes.ToLower([]byte(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(key.Expose())))
		var want []byte
		for i, c := range plain {
			if i > 0 && i%4 == 0 {
				want = append(want, '-')
			}
			want = append(want, c)
		}
		if !bytes.Equal(text.Expose(), want) {
			t.Fatalf("got %s, want %s", text.Expose(), want)
		}
		if got, err := ParseRecovery(text); err != nil || !got.Equal(key) {
			t.Fatalf("read back: %v", err)
		}
	}
	for _, key := range []*secret.Bytes{nil, secret.New(31), secret.New(33)} {
		if text, err := RecoveryText(key); !errors.Is(err, ErrArgument) || text != nil {
			t.Errorf("a key of %d bytes: %v", key.Len(), err)
		}
	}
}

// FuzzParseRecovery: what is accepted has exactly one text.
func FuzzParseRecovery(f *testing.F) {
	f.Add([]byte("aaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaa"))
	f.Add([]byte("7777-7777-7777-7777-7777-7777-7777-7777-7777-7777-7777-7777-777q"))
	f.Fuzz(func(t *testing.T, text []byte) {
		in := secret.Take(bytes.Clone(text))
		defer in.Wipe() // each is a page of its own
		key, err := ParseRecovery(in)
		if err != nil {
			return
		}
		defer key.Wipe()
		again, err := RecoveryText(key)
		if err != nil || !bytes.Equal(again.Expose(), text) {
			t.Errorf("%q and %q are the same key", text, again.Expose())
		}
		again.Wipe()
	})
}

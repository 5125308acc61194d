package ovmf

import (
	"bytes"
	"errors"
	"os"
	"testing"
)

func TestTrust(t *testing.T) {
	store, err := os.ReadFile(SnakeoilVars)
	if err != nil {
		t.Fatal(err)
	}
	cert := bytes.Repeat([]byte("certificate!"), 70)
	out, err := Trust(store, cert)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != len(store) {
		t.Fatalf("the store has %d bytes, want %d", len(out), len(store))
	}
	before, free, _, err := find(store, "db")
	if err != nil {
		t.Fatal(err)
	}
	after, _, _, err := find(out, "db")
	if err != nil {
		t.Fatal(err)
	}
	if after != free || out[before+offState] == stateAdded {
		t.Errorf("db is at %#x with the old one's state %#x; want it at %#x and the old one deleted", after, out[before+offState], free)
	}
	if !bytes.Contains(out[after:], cert) || bytes.Count(out, cert) != 1 {
		t.Error("the certificate is not in the new db")
	}
	if bytes.Contains(store, cert) {
		t.Error("the store that was given has changed")
	}
	twice, err := Trust(out, cert)
	if err != nil || bytes.Count(twice, cert) != 3 {
		t.Errorf("a second time: %v", err)
	}
}

func TestTrustRefuses(t *testing.T) {
	store, err := os.ReadFile(SnakeoilVars)
	if err != nil {
		t.Fatal(err)
	}
	long := bytes.Clone(store)
	at, _, _, err := find(long, "db")
	if err != nil {
		t.Fatal(err)
	}
	long[at+offDataSize+3] = 0x7f
	for name, b := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 4096), "cut": store[:0x200], "past the end": long} {
		if _, err := Trust(b, []byte("x")); !errors.Is(err, ErrStore) {
			t.Errorf("%s: %v, want ErrStore", name, err)
		}
	}
	if _, err := Trust(store, make([]byte, 1<<20)); !errors.Is(err, ErrStore) {
		t.Errorf("a certificate without room: %v", err)
	}
}

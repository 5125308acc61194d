package main

import (
	"bytes"
	"crypto/aes"
	"errors"
	"os"
	"runtime"
	"testing"

	"github.com/landfall-project/landfall/pkg/secret"
)

// TestScrubFindsCopies leaves copies of a key where libraries leave them: on
// the heap, in round keys, across a page border.
func TestScrubFindsCopies(t *testing.T) {
	key := secret.Random(32)
	defer key.Wipe()
	want := bytes.Clone(key.Expose()) // a copy too; compared after it was inverted
	for i := range want {
		want[i] ^= 0xff
	}
	heap := append([]byte("before"), key.Expose()...)
	big := make([]byte, 64<<10)
	border := 4096 - int(regionOf(big).start%4096) - 7
	copy(big[border:], key.Expose())
	block, err := aes.NewCipher(key.Expose())
	if err != nil {
		t.Fatal(err)
	}
	sealed := make([]byte, aes.BlockSize)
	block.Encrypt(sealed, sealed)

	found, err := scrub([]*secret.Bytes{key})
	if err != nil {
		t.Fatal(err)
	}
	if found < 6 { // two halves, three places
		t.Errorf("found %d pieces, want 6 at least", found)
	}
	for name, b := range map[string][]byte{"heap": heap[6:], "page border": big[border : border+32]} {
		if !bytes.Equal(b, make([]byte, 32)) {
			t.Errorf("%s: %x is left", name, b)
		}
	}
	again := make([]byte, aes.BlockSize)
	block.Encrypt(again, again)
	if bytes.Equal(sealed, again) {
		t.Error("the cipher's round keys still hold the key")
	}
	for i, b := range key.Expose() {
		if b != want[i]^0xff {
			t.Fatal("the secret itself was overwritten")
		}
	}
	if found, err = scrub([]*secret.Bytes{key}); err != nil || found != 0 {
		t.Errorf("second search: found %d, %v", found, err)
	}
	runtime.KeepAlive(block)
}

// TestScrubFailsWhenItIsBlind: memory that cannot be read is not memory without
// copies.
func TestScrubFailsWhenItIsBlind(t *testing.T) {
	key := secret.Random(32)
	defer key.Wipe()
	zero, err := os.Open("/dev/zero") // says of each page that it is not there
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Close()
	empty, err := os.Open(os.DevNull) // each read fails
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	pages, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer pages.Close()
	for name, files := range map[string][2]*os.File{"pagemap": {zero, zero}, "mem": {empty, pages}} {
		s := newScrubber(files[0], files[1], []*secret.Bytes{key})
		s.window = make([]byte, windowSize)
		at := regionOf(key.Expose()).start
		if s.regions([]region{{at, at + uint64(os.Getpagesize())}}) == nil {
			t.Errorf("blind by %s: the search passes", name)
		}
		s.wipe()
	}
}

// TestMemoryIsNotFullOfCandidates: no secret makes zeros, of which memory is
// full, or the small numbers and pointers in it worth a closer look: that took
// minutes. A secret that holds zeros is found all the same.
func TestMemoryIsNotFullOfCandidates(t *testing.T) {
	for name, key := range map[string]string{
		"random":            "\x8f\x21\xa3\x77\x04\xe9\x5c\x11\x42\x90\xbd\x6a\x38\xc5\x0e\xd7",
		"begins with zeros": "\x00\x00\xa3\x77\x04\xe9\x5c\x11\x42\x90\xbd\x6a\x38\xc5\x0e\xd7",
	} {
		s := newScrubber(nil, nil, []*secret.Bytes{secret.Take([]byte(key))})
		hits := 0
		for word := range uint64(1 << 12) {
			for _, w := range []uint64{word, word << 16, 0xc000000000 + word<<16, ^word} {
				if s.candidate(w) {
					hits++
				}
			}
		}
		if s.candidate(0) || hits > 64 {
			t.Errorf("%s: zero is a candidate: %v; %d of %d common words are", name, s.candidate(0), hits, 4<<12)
		}
		s.wipe()
	}
	key := secret.Take([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07"))
	defer key.Wipe()
	s := newScrubber(nil, nil, []*secret.Bytes{key})
	defer s.wipe()
	if !s.candidate(0) {
		t.Error("a secret of zeros is not searched for")
	}
}

// TestScrubTakesEqualSecrets, as two releases of one key are.
func TestScrubTakesEqualSecrets(t *testing.T) {
	a := secret.Random(32)
	b := a.Clone()
	if err := wipeAll(scrub, b, a, a); err != nil {
		t.Error(err)
	}
}

// TestWipeAllWipesSecretsAndCopies also takes secrets that are wiped already.
func TestWipeAllWipesSecretsAndCopies(t *testing.T) {
	a, b := secret.Random(32), secret.Random(32)
	copyOfA := bytes.Clone(a.Expose())
	b.Wipe()
	if err := wipeAll(scrub, a, nil, b); err != nil {
		t.Fatal(err)
	}
	if a.Len() != 0 || !bytes.Equal(copyOfA, make([]byte, 32)) {
		t.Errorf("left: secret of %d bytes, copy %x", a.Len(), copyOfA)
	}
}

// TestWipeAllSearchesAgainAfterAFailure: the attempt after a failed search must
// find what that one did not, as the step that holds repeats it.
func TestWipeAllSearchesAgainAfterAFailure(t *testing.T) {
	key := secret.Random(32)
	defer key.Wipe()
	left := bytes.Clone(key.Expose())
	broken := errors.New("no /proc")
	fails := func([]*secret.Bytes) (int, error) { return 0, broken }
	for range 2 {
		if err := wipeAll(fails, key); !errors.Is(err, broken) {
			t.Fatalf("got %v, want the search's own error", err)
		}
	}
	if key.Len() != 32 {
		t.Fatal("the secret is gone though its copies were not searched for")
	}
	if err := wipeAll(scrub, key); err != nil {
		t.Fatal(err)
	}
	if key.Len() != 0 || !bytes.Equal(left, make([]byte, 32)) {
		t.Errorf("left after the repair: secret of %d bytes, copy %x", key.Len(), left)
	}
}

// TestWipeAllRefusesToSearchForNothing: no pattern is no proof.
func TestWipeAllRefusesToSearchForNothing(t *testing.T) {
	gone := secret.Random(32)
	gone.Wipe()
	for name, secrets := range map[string][]*secret.Bytes{"none": nil, "nil": {nil}, "wiped": {gone, nil}} {
		if err := wipeAll(scrub, secrets...); !errors.Is(err, errNoPattern) {
			t.Errorf("%s: got %v, want errNoPattern", name, err)
		}
	}
}

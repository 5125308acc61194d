package keyblob

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/landfall-project/landfall/pkg/secret"
)

func fixed(b byte) *secret.Bytes { return secret.Take(bytes.Repeat([]byte{b}, KeySize)) }

var ident = Ident{Device: "r07-u12", KEKID: [IDSize]byte{1, 2, 3}, Generation: 7}

func wrapped(t testing.TB) []byte {
	t.Helper()
	r, err := Wrap(fixed(0xA0), fixed(0xB0), ident)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// resum makes an altered record pass the checksum.
func resum(r []byte) []byte {
	binary.BigEndian.PutUint32(r[offCRC:], checksum(r))
	return r
}

func TestWrapUnwrap(t *testing.T) {
	r := wrapped(t)
	if len(r) != Size {
		t.Fatalf("record of %d bytes, want %d", len(r), Size)
	}
	dek, err := Unwrap(fixed(0xA0), r, ident)
	if err != nil {
		t.Fatal(err)
	}
	if !dek.Equal(fixed(0xB0)) {
		t.Error("another DEK came back")
	}
	h, err := Parse(r)
	if want := (Header{Slot: 1, Generation: 7, KEKID: ident.KEKID}); err != nil || h != want {
		t.Errorf("Parse: got %+v, %v, want %+v", h, err, want)
	}
	if bytes.Equal(r, wrapped(t)) {
		t.Error("two records are the same: the nonce is not fresh")
	}
}

// TestEveryBit flips each bit of a record; none may pass, with the checksum
// left wrong or made right.
func TestEveryBit(t *testing.T) {
	r := wrapped(t)
	for i := range Size * 8 {
		b := bytes.Clone(r)
		b[i/8] ^= 1 << (i % 8)
		if _, err := Unwrap(fixed(0xA0), b, ident); err == nil {
			t.Errorf("bit %d flipped: it opens", i)
		}
		if i/8 < offCRC {
			if _, err := Unwrap(fixed(0xA0), resum(b), ident); err == nil {
				t.Errorf("bit %d flipped, checksum made right: it opens", i)
			}
		}
	}
}

func TestUnwrapRefuses(t *testing.T) {
	with := func(off int, v ...byte) []byte {
		b := wrapped(t)
		copy(b[off:], v)
		return resum(b)
	}
	changed := func(change func(*Ident)) Ident {
		id := ident
		change(&id)
		return id
	}
	// A record moved to another generation in its header and in what is asked
	// for: only the associated data tells.
	moved := wrapped(t)
	binary.BigEndian.PutUint32(moved[offGeneration:], 9)
	tests := []struct {
		name   string
		kek    *secret.Bytes
		record []byte
		id     Ident
		want   error
	}{
		{"blank", fixed(0xA0), make([]byte, Size), ident, ErrBlank},
		{"erased flash", fixed(0xA0), bytes.Repeat([]byte{0xff}, Size), ident, ErrBlank},
		{"short", fixed(0xA0), wrapped(t)[:Size-1], ident, ErrCorrupt},
		{"other magic", fixed(0xA0), with(0, 'X'), ident, ErrCorrupt},
		{"rotten bit", fixed(0xA0), func() []byte { b := wrapped(t); b[60] ^= 4; return b }(), ident, ErrCorrupt},
		{"newer version", fixed(0xA0), with(offVersion, 2), ident, ErrVersion},
		{"reserved bytes used", fixed(0xA0), with(offReserved, 1), ident, ErrCorrupt},
		{"padding used", fixed(0xA0), with(offPadding, 1), ident, ErrCorrupt},
		{"slot of the other parity", fixed(0xA0), with(offSlot, 0), ident, ErrCorrupt},
		{"generation zero", fixed(0xA0), with(offSlot, 0, 0, 0, 0, 0, 0, 0), ident, ErrCorrupt},
		{"other generation released", fixed(0xA0), wrapped(t), changed(func(i *Ident) { i.Generation = 9 }), ErrMismatch},
		{"other KEK released", fixed(0xA0), wrapped(t), changed(func(i *Ident) { i.KEKID[0]++ }), ErrMismatch},
		{"another device's record", fixed(0xA0), wrapped(t), changed(func(i *Ident) { i.Device = "r07-u13" }), ErrAuth},
		{"moved to another generation", fixed(0xA0), resum(moved), changed(func(i *Ident) { i.Generation = 9 }), ErrAuth},
		{"wrong KEK", fixed(0xA1), wrapped(t), ident, ErrAuth},
		{"short KEK", secret.New(16), wrapped(t), ident, ErrArgument},
		{"wiped KEK", nil, wrapped(t), ident, ErrArgument},
		{"no device", fixed(0xA0), wrapped(t), changed(func(i *Ident) { i.Device = "" }), ErrArgument},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if dek, err := Unwrap(tt.kek, tt.record, tt.id); !errors.Is(err, tt.want) || dek != nil {
				t.Errorf("got %v, %v, want %v", dek, err, tt.want)
			}
		})
	}
}

func TestWrapRefuses(t *testing.T) {
	for name, id := range map[string]Ident{
		"no device":     {Generation: 1},
		"long device":   {Generation: 1, Device: string(make([]byte, MaxDevice+1))},
		"no generation": {Device: "a"},
	} {
		if _, err := Wrap(fixed(1), fixed(2), id); !errors.Is(err, ErrArgument) {
			t.Errorf("%s: got %v, want ErrArgument", name, err)
		}
	}
	if _, err := Wrap(fixed(1), secret.New(16), ident); !errors.Is(err, ErrArgument) {
		t.Errorf("short DEK: got %v, want ErrArgument", err)
	}
}

// TestNoKeyStaysInMemory searches the process's own memory: the KEK is the
// first round keys of AES, and kexec does not clear memory.
func TestNoKeyStaysInMemory(t *testing.T) {
	kek, dek := secret.Random(KeySize), secret.Random(KeySize)
	// What is searched for is kept inverted, or the search would find itself.
	search := [2][]byte{inverted(kek.Expose()), inverted(dek.Expose())}
	if !inMemory(t, search[0]) {
		t.Fatal("the KEK is not found while it is in use: this test would miss it")
	}
	r, err := Wrap(kek, dek, ident)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Unwrap(kek, r, ident)
	if err != nil {
		t.Fatal(err)
	}
	got.Wipe()
	kek.Wipe()
	dek.Wipe()
	for i, name := range []string{"KEK", "DEK"} {
		if inMemory(t, search[i]) {
			t.Errorf("the %s is still in memory", name)
		}
	}
}

func inverted(b []byte) []byte {
	c := make([]byte, len(b))
	for i := range b {
		c[i] = ^b[i]
	}
	return c
}

// inMemory looks for the 32 bytes whose inverse is given in all writable
// mappings (proc(5), maps and mem).
func inMemory(t *testing.T, inv []byte) bool {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mem.Close() }()
	// Few pages at a time, outside the heap that is searched.
	window := secret.New(64 << 10)
	defer window.Wipe()
	for line := range bytes.Lines(maps) {
		f := bytes.Fields(line)
		if f[1][1] != 'w' {
			continue
		}
		from, to, _ := bytes.Cut(f[0], []byte("-"))
		lo, hi := address(t, from), address(t, to)
		buf := window.Expose()
		for ; lo < hi; lo += int64(len(buf) - KeySize) {
			n, _ := mem.ReadAt(buf[:min(int64(len(buf)), hi-lo)], lo) // unreadable pages hold no key
			if matches(buf[:n], inv) {
				return true
			}
		}
	}
	return false
}

func address(t *testing.T, hexDigits []byte) int64 {
	t.Helper()
	b, err := hex.DecodeString(string(append(bytes.Repeat([]byte("0"), 16-len(hexDigits)), hexDigits...)))
	if err != nil {
		t.Fatal(err)
	}
	return int64(binary.BigEndian.Uint64(b))
}

func matches(b, inv []byte) bool {
	defer clear(b)
	for rest := b; len(rest) >= len(inv); rest = rest[1:] {
		i := bytes.IndexByte(rest, ^inv[0])
		if i < 0 || len(rest)-i < len(inv) {
			return false
		}
		rest = rest[i:]
		j := 1
		for j < len(inv) && rest[j] == ^inv[j] {
			j++
		}
		if j == len(inv) {
			return true
		}
	}
	return false
}

// vector is one entry of testdata/vectors.json.
type vector struct {
	Name       string `json:"name"`
	KEK        string `json:"kek"`
	Record     string `json:"record"`
	Device     string `json:"device"`
	KEKID      string `json:"kek_id"`
	Generation uint32 `json:"generation"`
	DEK        string `json:"dek,omitempty"`
	Error      string `json:"error,omitempty"`
}

func TestVectors(t *testing.T) {
	file, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(file, &vectors); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]error{
		"blank": ErrBlank, "corrupt": ErrCorrupt, "version": ErrVersion, "mismatch": ErrMismatch, "auth": ErrAuth,
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			id := Ident{Device: v.Device, Generation: v.Generation}
			copy(id.KEKID[:], unhex(t, v.KEKID))
			dek, err := Unwrap(secret.Take(unhex(t, v.KEK)), unhex(t, v.Record), id)
			if v.Error != "" {
				if !errors.Is(err, kinds[v.Error]) || kinds[v.Error] == nil {
					t.Errorf("got %v, want error %q", err, v.Error)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(dek.Expose()); got != v.DEK {
				t.Errorf("got DEK %s, want %s", got, v.DEK)
			}
		})
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzUnwrap(f *testing.F) {
	f.Add(wrapped(f))
	f.Add(make([]byte, Size))
	f.Add(wrapped(f)[:60])
	kek := fixed(0xA0)
	f.Fuzz(func(t *testing.T, record []byte) {
		h, err := Parse(record)
		if err == nil && (h.Generation == 0 || h.Slot != Slot(h.Generation)) {
			t.Errorf("accepted %+v", h)
		}
		dek, err := Unwrap(kek, record, ident)
		if err == nil && !dek.Equal(fixed(0xB0)) {
			t.Error("opened something that was never wrapped")
		}
	})
}

package luks2

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"reflect"
	"testing"
)

// frozen loads the first 32 KiB of a volume that cryptsetup 2.6.1 made, on a
// device of devSize bytes.
func frozen(t testing.TB, name string, devSize int) image {
	t.Helper()
	f, err := os.Open("testdata/headers/" + name + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	im := make(image, devSize)
	copy(im, b)
	return im
}

// frozenHeaders are the fixtures and what Read says of them.
var frozenHeaders = []struct {
	name string
	size int
	code Code
}{
	{"inplace-512-pbkdf2", 33 * mib, ""},
	{"format-4096-argon2id", 20 * mib, ""},
	{"encryption-in-progress", 33 * mib, CodeRequirement},
	{"reencryption-in-progress", 20 * mib, CodeRequirement},
	{"aes-cbc", 20 * mib, CodeSegmentCipher},
	{"unbound-key", 20 * mib, ""},
	{"foreign-keyslots", 20 * mib, ""},
	{"converted-luks1", 20 * mib, ""},
}

func TestFrozenHeaders(t *testing.T) {
	for _, c := range frozenHeaders {
		h, err := frozen(t, c.name, c.size).read()
		if c.code != "" {
			wantCode(t, err, c.code)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got, err := json.MarshalIndent(h, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		golden := "testdata/headers/" + c.name + ".golden.json"
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(append(got, '\n'), want) {
			t.Errorf("%s: read as\n%s\nwant\n%s", c.name, got, want)
		}
	}
}

// FuzzHeader mends the checksums, so that the fuzzer reaches what they guard.
func FuzzHeader(f *testing.F) {
	for _, c := range frozenHeaders {
		im := frozen(f, c.name, 2*minHeaderSize)
		f.Add([]byte(im[:512]), bytes.TrimRight(im[binSize:minHeaderSize], "\x00"), uint32(c.size/512))
	}
	f.Fuzz(func(t *testing.T, bin, text []byte, sectors uint32) {
		size := int64(sectors) * 512
		dev := make(image, 2*minHeaderSize)
		copy(dev[:512], bin)
		copy(dev[minHeaderSize:], dev[:512])
		copy(dev[minHeaderSize:], magicSecondary)
		copy(dev[minHeaderSize+256:], "\x00\x00\x00\x00\x00\x00\x40\x00")
		for off := 0; off <= minHeaderSize; off += minHeaderSize {
			copy(dev[off+binSize:off+minHeaderSize], text)
			fixCopy(dev[off : off+minHeaderSize])
		}
		h, err := Read(zeroExtended{dev}, size)
		if err != nil {
			return
		}
		checkInvariants(t, h, size)
		again, err := Read(zeroExtended{dev}, size)
		if err != nil || !reflect.DeepEqual(h, again) {
			t.Errorf("a second read differs: %v", err)
		}
		_, _ = FindToken(h)
	})
}

// zeroExtended is a header followed by zeros without end.
type zeroExtended struct{ image }

func (z zeroExtended) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(z.image)) {
		copy(p, z.image[off:])
	}
	return len(p), nil
}

// checkInvariants restates what every accepted header must satisfy.
func checkInvariants(t *testing.T, h *Header, size int64) {
	t.Helper()
	dev := uint64(size)
	ok := h.Cipher == CipherXTS && (h.KeySize == 32 || h.KeySize == 64) &&
		h.Offset < dev && h.Size > 0 && h.Size <= dev-h.Offset && h.Size%uint64(h.SectorSize) == 0 &&
		(len(h.Digest.Value) == hashSize(h.Digest.Hash) || len(h.Digest.Value) == luks1Digest) && len(h.Keyslots) > 0 && len(h.Keyslots) <= 32
	ours := false
	for i, k := range h.Keyslots {
		ok = ok && k.AreaOffset >= 2*minHeaderSize && k.AreaSize > 0 && k.AreaOffset+k.AreaSize <= h.Offset
		ours = ours || k.Refused == nil
		if k.Refused == nil {
			ok = ok && k.keySize == h.KeySize && k.AreaSize >= uint64(materialSize(h.KeySize)) &&
				len(k.KDF.Salt) == saltSize && k.KDF.work() <= maxKeyslotWork
		}
		for _, o := range h.Keyslots[:i] {
			ok = ok && (o.AreaOffset+o.AreaSize <= k.AreaOffset || k.AreaOffset+k.AreaSize <= o.AreaOffset)
		}
	}
	for _, raw := range h.Tokens {
		ok = ok && json.Valid(raw)
	}
	if !ok || !ours {
		t.Errorf("accepted %+v on a device of %d bytes", h, size)
	}
}

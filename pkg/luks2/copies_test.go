package luks2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
)

// TestDamagedCopies compares the choice of the copy with cryptsetup's, on
// images that differ only in what happened to one copy.
func TestDamagedCopies(t *testing.T) {
	v, base := twoKeyslots(t)
	size := base.hdrSize()
	seq := binary.BigEndian.Uint64(base[16:])
	relabel := func(im image, off uint64, label string, seqID uint64) {
		copy(im[off+24:], label+"\x00")
		binary.BigEndian.PutUint64(im[off+16:], seqID)
		fixCopy(im[off : off+size])
	}
	for _, c := range []struct {
		name      string
		edit      func(image)
		label     string
		secondary bool
	}{
		{"both good", func(image) {}, "", false},
		{"primary bit flip", func(im image) { im[5000] ^= 1 }, "", true},
		{"primary wiped", func(im image) { clear(im[:size]) }, "", true},
		{"primary's size damaged", func(im image) { im[13] ^= 0x80 }, "", true},
		{"secondary bit flip", func(im image) { im[size+5000] ^= 1 }, "", false},
		{"secondary wiped", func(im image) { clear(im[size : 2*size]) }, "", false},
		{"secondary stale", func(im image) { relabel(im, size, "old", seq-1) }, "", false},
		{"primary stale", func(im image) { relabel(im, size, "new", seq+1) }, "new", true},
		{"secondary stale, primary damaged", func(im image) { relabel(im, size, "old", seq-1); im[5000] ^= 1 }, "old", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			im := base.clone()
			c.edit(im)
			if err := os.WriteFile(v.img, im, 0o600); err != nil {
				t.Fatal(err)
			}
			h := v.header()
			if h.Label != c.label || h.Secondary != c.secondary {
				t.Errorf("label %q, secondary %v; want %q, %v", h.Label, h.Secondary, c.label, c.secondary)
			}
			v.mustUnlock(v.pass, UnlockOptions{})
			// Last: cryptsetup repairs the image while it reads.
			cryptsetup(t, "open", "--test-passphrase", "--key-file", v.pass, v.img)
			if got := v.header(); got.Label != c.label {
				t.Errorf("cryptsetup kept the copy labelled %q, Read chose %q", got.Label, c.label)
			}
		})
	}
}

// other is the digest of some other volume key.
var other = strings.Repeat("A", 43) + "="

// stale makes the copy at off an older one, with other metadata.
func stale(t *testing.T, im image, off uint64, edit func(map[string]any)) {
	t.Helper()
	size := im.hdrSize()
	tree := im.json(t)
	edit(tree)
	edited := im.clone()
	edited.setJSON(t, tree)
	copy(im[off:off+size], edited[off:off+size])
	binary.BigEndian.PutUint64(im[off+16:], 1)
	fixCopy(im[off : off+size])
}

// TestTamperedCopies: what damage does not explain is refused.
func TestTamperedCopies(t *testing.T) {
	_, base := twoKeyslots(t)
	size := base.hdrSize()
	for _, c := range []struct {
		name string
		want Code
		edit func(image)
	}{
		{"same seqid, other label", CodeCopies, func(im image) { copy(im[size+24:], "x\x00"); im.fix() }},
		{"same seqid, other UUID", CodeCopies, func(im image) { im[size+168] ^= 1; im.fix() }},
		{"newer primary with bad JSON", CodeJSON, func(im image) {
			im[binSize] = '['
			binary.BigEndian.PutUint64(im[16:], 99)
			im.fix()
		}},
		{"newer secondary with bad UUID", CodeUUID, func(im image) {
			im[size+168] = 'x'
			binary.BigEndian.PutUint64(im[size+16:], 99)
			im.fix()
		}},
		{"stale secondary of another UUID", CodeStale, func(im image) {
			im[size+168] = "0123456789abcdef"[(im[size+168]+1)%16]
			binary.BigEndian.PutUint64(im[size+16:], binary.BigEndian.Uint64(im[16:])-1)
			im.fix()
		}},
		{"stale secondary of another volume key", CodeStale, func(im image) { stale(t, im, size, set(other, "digests", "0", "digest")) }},
		{"stale secondary of another segment", CodeStale, func(im image) { stale(t, im, size, set("2101248", "segments", "0", "offset")) }},
		{"stale primary of another volume key", CodeStale, func(im image) { stale(t, im, 0, set(other, "digests", "0", "digest")) }},
		{"another version in the primary", CodeVersion, func(im image) { im[7] = 3; im.fix() }},
		{"damage in the primary's version", CodeVersion, func(im image) { im[7] = 3 }},
		{"both checksums", CodeChecksum, func(im image) { im[5000] ^= 1; im[size+5000] ^= 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			im := base.clone()
			c.edit(im)
			_, err := im.read()
			wantCode(t, err, c.want)
		})
	}
}

// TestUnreadableCopy: a bad sector in one copy is survivable, in both it is an
// I/O error and not "no header".
func TestUnreadableCopy(t *testing.T) {
	_, im := twoKeyslots(t)
	size := int64(im.hdrSize())
	for _, off := range []int64{0, 8192, size, size + 8192} {
		dev := failingReader{bytes.NewReader(im), off, off + 512}
		h, err := Read(dev, int64(len(im)))
		if err != nil || h.Secondary != (off < size) {
			t.Errorf("bad sector at %d: %v", off, err)
		}
	}
	_, err := Read(failingReader{bytes.NewReader(im), 0, 8 * mib}, int64(len(im)))
	if !errors.Is(err, errBadSector) {
		t.Errorf("dead disk: %v, want the I/O error", err)
	}
}

// FuzzCopies gives the two copies a text each and an age: what Read makes of
// them is what one of them says alone, and they never disagree on the volume.
func FuzzCopies(f *testing.F) {
	for _, c := range frozenHeaders {
		im := frozen(f, c.name, 2*minHeaderSize)
		text := bytes.TrimRight(im[binSize:minHeaderSize], "\x00")
		f.Add(text, text, uint8(1), uint8(1))
		f.Add(text, bytes.Replace(text, []byte(`"size":"dynamic"`), []byte(`"size":"1048576"`), 1), uint8(2), uint8(1))
		f.Add(text, bytes.Replace(text, []byte(`"priority"`), nil, 1), uint8(1), uint8(2))
	}
	f.Fuzz(func(t *testing.T, primary, secondary []byte, age1, age2 uint8) {
		const size = 33 * mib
		dev := frozen(t, "inplace-512-pbkdf2", 2*minHeaderSize)
		for off, c := range map[int]struct {
			text []byte
			age  uint8
		}{0: {primary, age1}, minHeaderSize: {secondary, age2}} {
			b := dev[off : off+minHeaderSize]
			clear(b[binSize:])
			copy(b[binSize:], c.text)
			binary.BigEndian.PutUint64(b[16:], uint64(c.age))
			fixCopy(b)
		}
		h, err := Read(zeroExtended{dev}, size)
		alone := func(from int) (*Header, error) {
			one := dev.clone()
			clear(one[from : from+minHeaderSize])
			return Read(zeroExtended{one}, size)
		}
		first, err1 := alone(minHeaderSize)
		second, err2 := alone(0)
		if err1 == nil && err2 == nil && !first.sameVolume(second) && err == nil {
			t.Errorf("copies of two volumes are accepted: %+v, %+v", first, second)
		}
		if err != nil {
			return
		}
		checkInvariants(t, h, size)
		same := first
		if h.Secondary {
			same = second
		}
		if same == nil || !reflect.DeepEqual(h.Keyslots, same.Keyslots) || h.SeqID != same.SeqID || !h.sameVolume(same) {
			t.Errorf("read as %+v, alone it is %+v", h, same)
		}
	})
}

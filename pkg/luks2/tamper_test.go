package luks2

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// mutation edits the metadata of both copies; checksums are mended afterwards,
// as an attacker would.
type mutation struct {
	name string
	want Code
	edit func(m map[string]any)
}

// set returns an edit that sets path (its last element is a field) to v.
func set(v any, path ...string) func(map[string]any) {
	return func(m map[string]any) { at(m, path[:len(path)-1]...)[path[len(path)-1]] = v }
}

func del(path ...string) func(map[string]any) {
	return func(m map[string]any) { delete(at(m, path[:len(path)-1]...), path[len(path)-1]) }
}

// dup copies the member named from to the name to.
func dup(section, from, to string) func(map[string]any) {
	return func(m map[string]any) {
		c := map[string]any{}
		for k, v := range at(m, section, from) {
			c[k] = v
		}
		at(m, section)[to] = c
	}
}

var segmentMutations = []mutation{
	{"segment null cipher", CodeNullCipher, set("cipher_null-ecb", "segments", "0", "encryption")},
	{"segment kernel null cipher", CodeNullCipher, set("null", "segments", "0", "encryption")},
	{"segment cbc", CodeSegmentCipher, set("aes-cbc-essiv:sha256", "segments", "0", "encryption")},
	{"segment kernel syntax", CodeSegmentCipher, set("capi:ecb(cipher_null)-plain", "segments", "0", "encryption")},
	{"two segments", CodeSegmentCount, dup("segments", "0", "1")},
	{"no segment", CodeSegmentCount, set(map[string]any{}, "segments")},
	{"linear segment", CodeSegmentType, set("linear", "segments", "0", "type")},
	{"backup segment", CodeSegmentFlags, set([]any{"backup-final"}, "segments", "0", "flags")},
	{"segment in reencryption", CodeSegmentFlags, set([]any{"in-reencryption"}, "segments", "0", "flags")},
	{"segment flags no array", CodeField, set("in-reencryption", "segments", "0", "flags")},
	{"integrity", CodeIntegrity, set(map[string]any{"type": "none", "journal_encryption": "none", "journal_integrity": "none"}, "segments", "0", "integrity")},
	{"segment unknown field", CodeUnknownField, set("x", "segments", "0", "opal_segment_number")},
	{"segment field in other case", CodeUnknownField, set("0", "segments", "0", "Offset")},
	{"only segment 1", CodeNumber, func(m map[string]any) {
		s := at(m, "segments")
		s["1"] = s["0"]
		delete(s, "0")
		set([]any{"1"}, "digests", "0", "segments")(m)
	}},
	{"segment number", CodeNumber, func(m map[string]any) { s := at(m, "segments"); s["00"] = s["0"]; delete(s, "0") }},
	{"sector size 0", CodeSectorSize, set(0, "segments", "0", "sector_size")},
	{"sector size 768", CodeSectorSize, set(768, "segments", "0", "sector_size")},
	{"sector size 8192", CodeSectorSize, set(8192, "segments", "0", "sector_size")},
	{"sector size fraction", CodeField, set(512.5, "segments", "0", "sector_size")},
	{"sector size string", CodeField, set("512", "segments", "0", "sector_size")},
	{"segment at 0", CodeSegmentOffset, set("0", "segments", "0", "offset")},
	{"segment in the keyslots area", CodeSegmentOffset, set("1048576", "segments", "0", "offset")},
	{"segment misaligned", CodeSegmentOffset, set("2097153", "segments", "0", "offset")},
	{"segment past the device", CodeSegmentOffset, set("4194304", "segments", "0", "offset")},
	{"segment offset at 2^64", CodeSegmentOffset, set("18446744073709551104", "segments", "0", "offset")},
	{"segment offset above 2^64", CodeField, set("18446744073709551616", "segments", "0", "offset")},
	{"segment offset negative", CodeField, set("-512", "segments", "0", "offset")},
	{"segment offset number", CodeField, set(2097152, "segments", "0", "offset")},
	{"segment size 0", CodeSegmentSize, set("0", "segments", "0", "size")},
	{"segment size odd", CodeSegmentSize, set("4097", "segments", "0", "size")},
	{"segment size past the device", CodeSegmentSize, set("2097664", "segments", "0", "size")},
	{"segment size wraps", CodeSegmentSize, set("18446744073709551104", "segments", "0", "size")},
	{"segment size text", CodeField, set("all", "segments", "0", "size")},
	{"iv misaligned for 4096", CodeIVOffset, func(m map[string]any) {
		set(4096, "segments", "0", "sector_size")(m)
		set("1", "segments", "0", "iv_tweak")(m)
	}},
	{"iv wraps", CodeIVOffset, set("18446744073709551615", "segments", "0", "iv_tweak")},
	{"iv missing", CodeField, del("segments", "0", "iv_tweak")},
}

// keyslotMutations are refused in any keyslot: they are out of bounds, or not in
// the shape that cryptsetup wants, or contradict the other keyslot.
var keyslotMutations = []mutation{
	{"area type", CodeAreaType, set("checksum", "keyslots", "0", "area", "type")},
	{"area in the header", CodeAreaBounds, set("4096", "keyslots", "0", "area", "offset")},
	{"area misaligned", CodeAreaBounds, set("32769", "keyslots", "0", "area", "offset")},
	{"area past the keyslots area", CodeAreaBounds, set("1048576", "keyslots", "0", "area", "offset")},
	{"area past the device", CodeAreaBounds, set("1099511627776", "keyslots", "0", "area", "offset")},
	{"area wraps", CodeAreaBounds, set("18446744073709551104", "keyslots", "0", "area", "size")},
	{"area empty", CodeAreaSize, set("0", "keyslots", "0", "area", "size")},
	{"areas overlap", CodeAreaOverlap, set("36864", "keyslots", "1", "area", "offset")},
	{"areas equal", CodeAreaOverlap, set("32768", "keyslots", "1", "area", "offset")},
	{"kdf empty salt", CodeField, set("", "keyslots", "0", "kdf", "salt")},
	{"area missing", CodeField, del("keyslots", "0", "area")},
	{"reencrypt keyslot", CodeKeyslotType, set("reencrypt", "keyslots", "1", "type")},
	{"keyslot key size 0", CodeKeyslotKeySize, set(0, "keyslots", "0", "key_size")},
	{"keyslot key size 1", CodeKeyslotKeySize, set(1, "keyslots", "0", "key_size")},
	{"keyslot key size huge", CodeKeyslotKeySize, set(4294967295, "keyslots", "0", "key_size")},
	{"keyslot key sizes differ", CodeKeyslotKeySize, set(32, "keyslots", "1", "key_size")},
	{"keyslot number", CodeNumber, dup("keyslots", "0", "32")},
	{"keyslot number text", CodeNumber, dup("keyslots", "0", "x")},
	{"no keyslots", CodeKeyslotCount, set(map[string]any{}, "keyslots")},
	{"33 keyslots", CodeKeyslotCount, func(m map[string]any) {
		for i := range 33 {
			at(m, "keyslots")[itoa(i)] = at(m, "keyslots", "0")
		}
	}},
	{"af type", CodeAF, set("none", "keyslots", "0", "af", "type")},
	{"kdf iterations above 2^32", CodeField, set(4294967296, "keyslots", "0", "kdf", "iterations")},
	{"kdf iterations negative", CodeField, set(-1, "keyslots", "0", "kdf", "iterations")},
}

// kindMutations make a keyslot one that this package does not open: it is left
// alone beside one of ours, and refused where it is the only one.
var kindMutations = []mutation{
	{"area null cipher", CodeNullCipher, set("cipher_null-ecb", "keyslots", "0", "area", "encryption")},
	{"area other cipher", CodeAreaCipher, set("serpent-xts-plain64", "keyslots", "0", "area", "encryption")},
	{"area key size 0", CodeAreaKeySize, set(0, "keyslots", "0", "area", "key_size")},
	{"area key size 16", CodeAreaKeySize, set(16, "keyslots", "0", "area", "key_size")},
	{"area too small", CodeAreaSize, set("4096", "keyslots", "0", "area", "size")},
	{"keyslot priority", CodeKeyslotPriority, set(3, "keyslots", "0", "priority")},
	{"keyslot unknown field", CodeUnknownField, set(1, "keyslots", "0", "direction")},
	{"stripes 1", CodeAF, set(1, "keyslots", "0", "af", "stripes")},
	{"stripes huge", CodeAF, set(4294967295, "keyslots", "0", "af", "stripes")},
	{"af hash", CodeAF, set("md5", "keyslots", "0", "af", "hash")},
	{"kdf type", CodeKDFType, set("scrypt", "keyslots", "0", "kdf", "type")},
	{"kdf hash", CodeKDFHash, set("sha1", "keyslots", "0", "kdf", "hash")},
	{"kdf short salt", CodeKDFSalt, set("AAAA", "keyslots", "0", "kdf", "salt")},
	{"kdf salt of nothing", CodeKDFSalt, set("AA==", "keyslots", "0", "kdf", "salt")},
	{"kdf salt no base64", CodeKDFSalt, set("!", "keyslots", "0", "kdf", "salt")},
	{"kdf 1 iteration", CodeKDFCost, set(1, "keyslots", "0", "kdf", "iterations")},
	{"kdf iteration bomb", CodeKDFCost, set(4294967295, "keyslots", "0", "kdf", "iterations")},
	{"argon2 memory bomb", CodeKDFCost, set(argon(1, 4294967295, 1), "keyslots", "0", "kdf")},
	{"argon2 time bomb", CodeKDFCost, set(argon(4294967295, 64, 1), "keyslots", "0", "kdf")},
	{"argon2 work bomb", CodeKDFCost, set(argon(4096, 4194304, 4), "keyslots", "0", "kdf")},
	{"argon2 time 0", CodeKDFCost, set(argon(0, 64, 1), "keyslots", "0", "kdf")},
	{"argon2 memory 0", CodeKDFCost, set(argon(4, 0, 1), "keyslots", "0", "kdf")},
	{"argon2 lanes 0", CodeKDFCost, set(argon(4, 64, 0), "keyslots", "0", "kdf")},
	{"argon2 lanes 257", CodeKDFCost, set(argon(4, 65536, 257), "keyslots", "0", "kdf")},
	{"argon2 with a hash", CodeUnknownField, func(m map[string]any) {
		set(argon(4, 64, 1), "keyslots", "0", "kdf")(m)
		set("sha256", "keyslots", "0", "kdf", "hash")(m)
	}},
	{"type of tomorrow", CodeKeyslotType, set("luks3", "keyslots", "0", "type")},
}

func argon(time, memory, cpus int) map[string]any {
	return map[string]any{"type": "argon2id", "time": time, "memory": memory, "cpus": cpus, "salt": strings.Repeat("A", 43) + "="}
}

var otherMutations = []mutation{
	{"digest short", CodeDigestLength, set("AAAAAAAAAAAAAAAAAAAAAA==", "digests", "0", "digest")},
	{"digest empty", CodeField, set("", "digests", "0", "digest")},
	{"digest of another hash", CodeDigestLength, set("sha512", "digests", "0", "hash")},
	{"digest too long", CodeDigestLength, set(strings.Repeat("A", 44), "digests", "0", "digest")},
	{"digest hash", CodeDigestHash, set("sha1", "digests", "0", "hash")},
	{"digest salt", CodeDigestSalt, set("AAAA", "digests", "0", "salt")},
	{"digest cheap", CodeDigestCost, set(1, "digests", "0", "iterations")},
	{"digest bomb", CodeDigestCost, set(4294967295, "digests", "0", "iterations")},
	{"digest type", CodeDigestType, set("none", "digests", "0", "type")},
	{"digest of no segment", CodeDigestSegment, set([]any{}, "digests", "0", "segments")},
	{"digest of another segment", CodeDigestSegment, set([]any{"1"}, "digests", "0", "segments")},
	{"digest of no keyslot", CodeDigestKeyslot, set([]any{}, "digests", "0", "keyslots")},
	{"digest of one keyslot", CodeDigestKeyslot, set([]any{"0"}, "digests", "0", "keyslots")},
	{"keyslot of two digests", CodeDigestKeyslot, func(m map[string]any) {
		dup("digests", "0", "1")(m)
		set([]any{}, "digests", "1", "segments")(m)
	}},
	{"digest of a missing keyslot", CodeDigestKeyslot, set([]any{"0", "1", "2"}, "digests", "0", "keyslots")},
	{"digest of a keyslot twice", CodeDigestKeyslot, set([]any{"0", "0"}, "digests", "0", "keyslots")},
	{"digest keyslots no strings", CodeField, set([]any{0, 1}, "digests", "0", "keyslots")},
	{"two digests", CodeDigestCount, dup("digests", "0", "1")},
	{"no digest", CodeDigestCount, set(map[string]any{}, "digests")},
	{"digest number", CodeNumber, dup("digests", "0", "8")},

	{"reencryption in progress", CodeRequirement, set(map[string]any{"mandatory": []any{"online-reencrypt-v2"}}, "config", "requirements")},
	{"unknown requirement", CodeRequirement, set(map[string]any{"mandatory": []any{"quantum"}}, "config", "requirements")},
	{"requirement no array", CodeField, set(map[string]any{"mandatory": "online-reencrypt"}, "config", "requirements")},
	{"requirements of another kind", CodeUnknownField, set(map[string]any{"advisory": []any{}}, "config", "requirements")},
	{"json_size", CodeJSONSize, set("16384", "config", "json_size")},
	{"json_size 0", CodeJSONSize, set("0", "config", "json_size")},
	{"keyslots_size misaligned", CodeKeyslotsSize, set("1048575", "config", "keyslots_size")},
	{"keyslots_size absurd", CodeKeyslotsSize, set("1099511627776", "config", "keyslots_size")},
	{"keyslots_size past the device", CodeDeviceSize, set("8388608", "config", "keyslots_size")},
	{"keyslots_size into the segment", CodeSegmentOffset, set("2097152", "config", "keyslots_size")},
	{"33 flags", CodeFlags, set(make33(), "config", "flags")},
	{"flags no strings", CodeField, set([]any{1}, "config", "flags")},
	{"config unknown field", CodeUnknownField, set("x", "config", "x")},
	{"config missing", CodeField, del("config")},
	{"unknown section", CodeUnknownField, set(map[string]any{}, "volumes")},
	{"keyslots an array", CodeField, set([]any{}, "keyslots")},
	{"tokens missing", CodeField, del("tokens")},
	{"33 tokens", CodeTokenCount, func(m map[string]any) {
		for i := range 33 {
			at(m, "tokens")[itoa(i)] = map[string]any{"type": "x", "keyslots": []any{}}
		}
	}},
	{"token of a missing keyslot", CodeTokenKeyslot, set(map[string]any{"type": "x", "keyslots": []any{"9"}}, "tokens", "0")},
	{"token without type", CodeField, set(map[string]any{"keyslots": []any{}}, "tokens", "0")},
	{"token number", CodeNumber, set(map[string]any{"type": "x", "keyslots": []any{}}, "tokens", "32")},
	{"deep JSON", CodeJSONLimit, func(m map[string]any) {
		var v any = "x"
		for range 20 {
			v = []any{v}
		}
		at(m, "tokens")["0"] = map[string]any{"type": "x", "keyslots": []any{}, "v": v}
	}},
}

func make33() []any {
	out := make([]any, 33)
	for i := range out {
		out[i] = "x"
	}
	return out
}

// twoKeyslots is a sane image with two keyslots and the paths to try it with.
func twoKeyslots(t *testing.T) (*volume, image) {
	t.Helper()
	v := format(t)
	v.addKey("--key-slot", "1")
	return v, image(v.bytes())
}

func wantCode(t *testing.T, err error, want Code) {
	t.Helper()
	var he *HeaderError
	if !errors.As(err, &he) {
		t.Errorf("got error %v, want code %s", err, want)
	} else if he.Code != want {
		t.Errorf("got code %s (%v), want %s", he.Code, err, want)
	}
}

// TestTamperedMetadata edits the JSON of a header that cryptsetup made. Each
// edit must be refused for its own reason.
func TestTamperedMetadata(t *testing.T) {
	_, base := twoKeyslots(t)
	for _, m := range slices.Concat(segmentMutations, keyslotMutations, otherMutations) {
		t.Run(m.name, func(t *testing.T) {
			im := base.clone()
			tree := im.json(t)
			m.edit(tree)
			im.setJSON(t, tree)
			_, err := im.read()
			wantCode(t, err, m.want)
		})
	}
}

// TestKeyslotKinds: what a keyslot is that nobody tries is its maker's business;
// alone it is the reason to refuse the header, and it is never opened.
func TestKeyslotKinds(t *testing.T) {
	v, base := twoKeyslots(t)
	pass := readSecret(t, v.pass)
	for _, m := range kindMutations {
		t.Run(m.name, func(t *testing.T) {
			im := base.clone()
			tree := im.json(t)
			m.edit(tree)
			im.setJSON(t, tree)
			h, err := im.read()
			if err != nil {
				t.Fatalf("refused beside a keyslot of ours: %v", err)
			}
			if h.Keyslots[0].Refused == nil || h.Keyslots[0].Refused.Code != m.want || h.Keyslots[1].Refused != nil {
				t.Errorf("keyslots refused for %v and %v", h.Keyslots[0].Refused, h.Keyslots[1].Refused)
			}
			_, err = h.Unlock(t.Context(), bytes.NewReader(im), pass, UnlockOptions{Keyslots: []int{0}})
			wantCode(t, err, m.want)
			if _, err := h.Unlock(t.Context(), bytes.NewReader(im), pass, UnlockOptions{}); !errors.Is(err, ErrNoKeyslot) {
				t.Errorf("unasked: %v, want ErrNoKeyslot: the other keyslot has another passphrase", err)
			}
			delete(at(tree, "keyslots"), "1")
			set([]any{"0"}, "digests", "0", "keyslots")(tree)
			im.setJSON(t, tree)
			_, err = im.read()
			wantCode(t, err, m.want)
		})
	}
}

// TestTamperedText covers what a JSON encoder cannot produce.
func TestTamperedText(t *testing.T) {
	_, base := twoKeyslots(t)
	text := string(bytes.TrimRight(base[binSize:base.hdrSize()], "\x00"))
	for _, c := range []struct {
		name string
		want Code
		text string
	}{
		{"duplicate member", CodeJSONDuplicate, strings.Replace(text, `"type":"crypt"`, `"type":"crypt","type":"linear"`, 1)},
		{"duplicate by escape", CodeJSONDuplicate, strings.Replace(text, `"type":"crypt"`, `"type":"crypt","\u0074ype":"linear"`, 1)},
		{"duplicate section", CodeJSONDuplicate, text[:len(text)-1] + `,"segments":{}}`},
		{"second object", CodeJSON, text + "{}"},
		{"trailing bytes", CodeJSONTrailing, text + "\x00x"},
		{"truncated", CodeJSON, text[:len(text)-1]},
		{"leading blank", CodeJSON, " " + text},
		{"array", CodeJSON, "[" + text + "]"},
		{"empty", CodeJSON, ""},
		{"invalid UTF-8", CodeJSON, strings.Replace(text, `"crypt"`, "\"cr\xffypt\"", 1)},
		{"exponent", CodeField, strings.Replace(text, `"stripes":4000`, `"stripes":4e3`, 1)},
		{"null", CodeField, strings.Replace(text, `"type":"crypt"`, `"type":null`, 1)},
		{"leading zero", CodeField, strings.Replace(text, `"offset":"2097152"`, `"offset":"02097152"`, 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.text == text {
				t.Fatal("the edit changed nothing")
			}
			im := base.clone()
			im.setJSON(t, []byte(c.text))
			_, err := im.read()
			wantCode(t, err, c.want)
		})
	}
}

// TestTamperedBinary edits the binary header of both copies.
func TestTamperedBinary(t *testing.T) {
	_, base := twoKeyslots(t)
	for _, c := range []struct {
		name   string
		want   Code
		offset int
		bytes  string
	}{
		{"LUKS1", CodeVersion, 6, "\x00\x01"},
		{"version 3", CodeVersion, 6, "\x00\x03"},
		{"size 0", CodeHeaderSize, 8, "\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"size 8 MiB", CodeHeaderSize, 8, "\x00\x00\x00\x00\x00\x80\x00\x00"},
		{"size 2^63", CodeHeaderSize, 8, "\x80\x00\x00\x00\x00\x00\x00\x00"},
		{"size no power of two", CodeHeaderSize, 8, "\x00\x00\x00\x00\x00\x00\x60\x00"},
		{"size past the device", CodeDeviceSize, 8, "\x00\x00\x00\x00\x00\x40\x00\x00"},
		{"offset", CodeHeaderOff, 256, "\x00\x00\x00\x00\x00\x00\x02\x00"},
		{"checksum algorithm", CodeChecksumAlg, 72, "crc32\x00"},
		{"checksum algorithm unterminated", CodeChecksumAlg, 72, strings.Repeat("a", 32)},
		{"UUID text", CodeUUID, 168, "not a UUID\x00"},
		{"UUID empty", CodeUUID, 168, "\x00"},
		{"UUID unterminated", CodeUUID, 168, strings.Repeat("a", 40)},
		{"label unterminated", CodeLabel, 24, strings.Repeat("a", 48)},
		{"subsystem unterminated", CodeLabel, 208, strings.Repeat("a", 48)},
	} {
		t.Run(c.name, func(t *testing.T) {
			im := base.clone()
			size := im.hdrSize()
			copy(im[c.offset:], c.bytes)
			copy(im[size+uint64(c.offset):], c.bytes)
			fixCopy(im[:size])
			fixCopy(im[size : 2*size])
			if c.want == CodeDeviceSize {
				im = im[:3*mib]
			}
			_, err := im.read()
			wantCode(t, err, c.want)
		})
	}
	for _, n := range []int64{0, 4096, 32767} {
		_, err := Read(bytes.NewReader(base), n)
		wantCode(t, err, CodeDeviceSize)
	}
	if _, err := image(make([]byte, 8*mib)).read(); !errors.Is(err, ErrNotLUKS2) {
		t.Errorf("blank disk: %v, want ErrNotLUKS2", err)
	}
}

package luks2

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
)

// Limits of the specification and of cryptsetup.
const (
	maxObjects      = 32 // keyslots and tokens
	maxSegments     = 32
	maxDigests      = 8
	maxKeyslotsSize = 128 << 20
	saltSize        = 32
	maxFlags        = 32
)

// parse validates the JSON text of the chosen copy; devSize in bytes.
func parse(b *binHeader, devSize uint64) (*Header, error) {
	top, err := parseJSON(b.json)
	if err != nil {
		return nil, err
	}
	h := &Header{UUID: b.uuid, Label: b.label, Subsystem: b.subsystem, SeqID: b.seqID}
	r := &reader{where: "metadata", obj: top}
	r.only("keyslots", "tokens", "segments", "digests", "config")
	if r.err != nil {
		return nil, r.err
	}
	// Requirements come first: what else the header says may be meant for a
	// reader that knows them.
	keyslotsSize, err := h.parseConfig(top["config"], b.size)
	if err != nil {
		return nil, err
	}
	areas := span{2 * b.size, 2*b.size + keyslotsSize}
	if areas.end > devSize {
		return nil, refuse(CodeDeviceSize, "keyslots area ends at %d, the device at %d", areas.end, devSize)
	}
	segID, err := h.parseSegments(top["segments"], areas.end, devSize)
	if err != nil {
		return nil, err
	}
	if err := h.parseKeyslots(top["keyslots"], areas); err != nil {
		return nil, err
	}
	if err := h.parseDigests(top["digests"], segID); err != nil {
		return nil, err
	}
	if err := h.parseTokens(top["tokens"]); err != nil {
		return nil, err
	}
	return h, nil
}

// parseConfig checks the config object (specification §3.5) and returns the
// size of the keyslots area in bytes.
func (h *Header) parseConfig(v *value, hdrSize uint64) (uint64, error) {
	r := newReader("config", v)
	r.only("json_size", "keyslots_size", "flags", "requirements")
	if r.has("requirements") {
		// "mandatory" is the one member that is defined. No requirement is
		// supported: each known one means reencryption or hardware encryption.
		q := newReader("requirements", r.obj["requirements"])
		q.only("mandatory")
		if q.has("mandatory") {
			if m := q.strings("mandatory"); len(m) > 0 {
				q.fail(CodeRequirement, "mandatory requirement %q", m[0])
			}
		}
		if q.err != nil {
			return 0, q.err
		}
	}
	if n := r.u64("json_size"); r.err == nil && n != hdrSize-binSize {
		r.fail(CodeJSONSize, "json_size is %d, the area has %d bytes", n, hdrSize-binSize)
	}
	size := r.u64("keyslots_size")
	if r.err == nil && (size%4096 != 0 || size > maxKeyslotsSize) {
		r.fail(CodeKeyslotsSize, "keyslots_size is %d", size)
	}
	if r.has("flags") {
		h.Flags = r.strings("flags")
		if len(h.Flags) > maxFlags {
			r.fail(CodeFlags, "%d flags", len(h.Flags))
		}
	}
	return size, r.err
}

// parseSegments accepts exactly one crypt segment (specification §3.3) and
// returns its number.
func (h *Header) parseSegments(v *value, metaEnd, devSize uint64) (int, error) {
	segs, err := numbered("segments", v, maxSegments)
	if err != nil {
		return 0, err
	}
	if len(segs) != 1 {
		return 0, refuse(CodeSegmentCount, "%d segments, want one", len(segs))
	}
	id := slices.Collect(maps.Keys(segs))[0]
	if id != 0 {
		return 0, refuse(CodeNumber, "the only segment has the number %d: segments count from 0", id)
	}
	r := newReader(label("segment", id), segs[id])
	if t := r.str("type"); r.err == nil && t != "crypt" {
		r.fail(CodeSegmentType, "segment of type %q", t)
	}
	if r.has("flags") {
		if f := r.strings("flags"); len(f) > 0 {
			r.fail(CodeSegmentFlags, "segment flag %q", f[0])
		}
	}
	if r.has("integrity") {
		r.fail(CodeIntegrity, "the segment wants authenticated encryption")
	}
	r.only("type", "offset", "size", "iv_tweak", "encryption", "sector_size", "flags")
	s := Segment{Cipher: r.str("encryption"), SectorSize: r.u32("sector_size"), Offset: r.u64("offset"), IVOffset: r.u64("iv_tweak")}
	if s.Dynamic = r.str("size") == "dynamic"; !s.Dynamic {
		s.Size = r.u64("size")
	}
	if r.err != nil {
		return 0, r.err
	}
	h.Segment = s
	return id, h.checkSegment(metaEnd, devSize)
}

// checkSegment checks the ranges as the kernel and cryptsetup do, and resolves
// a dynamic size.
func (h *Header) checkSegment(metaEnd, devSize uint64) error {
	s := &h.Segment
	if err := checkCipher(s.Cipher, CodeSegmentCipher, "segment"); err != nil {
		return err
	}
	switch s.SectorSize {
	case 512, 1024, 2048, 4096:
	default:
		return refuse(CodeSectorSize, "sector size %d", s.SectorSize)
	}
	sector := uint64(s.SectorSize)
	if s.Offset%512 != 0 || s.Offset < metaEnd || s.Offset >= devSize {
		return refuse(CodeSegmentOffset, "segment at %d; metadata ends at %d, the device at %d", s.Offset, metaEnd, devSize)
	}
	if s.Dynamic {
		s.Size = devSize - s.Offset
	}
	if s.Size == 0 || s.Size%sector != 0 || s.Size > devSize-s.Offset {
		return refuse(CodeSegmentSize, "segment of %d bytes at %d, sectors of %d, on a device of %d", s.Size, s.Offset, sector, devSize)
	}
	// dm-crypt wants the IV offset on a sector's boundary; the last sector
	// number must not wrap.
	if s.IVOffset%(sector/512) != 0 || s.IVOffset+s.Size/512 < s.IVOffset {
		return refuse(CodeIVOffset, "iv_tweak %d", s.IVOffset)
	}
	return nil
}

// checkCipher allows CipherXTS only. Null ciphers get a code of their own:
// they are how a tampered header makes a system boot in the clear.
func checkCipher(cipher string, c Code, where string) error {
	switch {
	case cipher == CipherXTS:
		return nil
	case len(cipher) >= 4 && (cipher[:4] == "null" || len(cipher) >= 11 && cipher[:11] == "cipher_null"):
		return refuse(CodeNullCipher, "%s: cipher %q encrypts nothing", where, cipher)
	}
	return refuse(c, "%s: cipher %q, only %s is supported", where, cipher, CipherXTS)
}

// parseDigests accepts exactly one digest (specification §3.4), which binds
// every keyslot to the segment.
func (h *Header) parseDigests(v *value, segID int) error {
	digests, err := numbered("digests", v, maxDigests)
	if err != nil {
		return err
	}
	if len(digests) != 1 {
		return refuse(CodeDigestCount, "%d digests, want one", len(digests))
	}
	id := slices.Collect(maps.Keys(digests))[0]
	r := newReader(label("digest", id), digests[id])
	if t := r.str("type"); r.err == nil && t != "pbkdf2" {
		r.fail(CodeDigestType, "digest of type %q", t)
	}
	r.only("type", "keyslots", "segments", "hash", "iterations", "salt", "digest")
	d := Digest{Hash: r.str("hash"), Iterations: r.u32("iterations")}
	d.Salt, d.Value = r.base64("salt", CodeDigestSalt), r.base64("digest", CodeDigestLength)
	keyslots, segments := r.strings("keyslots"), r.strings("segments")
	if r.err != nil {
		return r.err
	}
	h.Digest = d
	size := hashSize(d.Hash)
	switch {
	case size == 0:
		return refuse(CodeDigestHash, "digest hash %q", d.Hash)
	case len(d.Value) != size:
		return refuse(CodeDigestLength, "digest of %d bytes, %s has %d", len(d.Value), d.Hash, size)
	case len(d.Salt) != saltSize:
		return refuse(CodeDigestSalt, "digest salt of %d bytes", len(d.Salt))
	case d.Iterations < minIterations || d.Iterations > maxDigestIterations:
		return refuse(CodeDigestCost, "digest with %d iterations", d.Iterations)
	case !sameNumbers(segments, []int{segID}):
		return refuse(CodeDigestSegment, "digest is bound to segments %q", segments)
	case !sameNumbers(keyslots, h.keyslotIDs()):
		return refuse(CodeDigestKeyslot, "digest is bound to keyslots %q, the header has %d", keyslots, h.keyslotIDs())
	}
	return nil
}

// sameNumbers tells whether names are exactly the numbers of ids, in any order.
func sameNumbers(names []string, ids []int) bool {
	got := make([]int, 0, len(names))
	for _, s := range names {
		n, ok := decimal(s, 16)
		if !ok {
			return false
		}
		got = append(got, int(n))
	}
	slices.Sort(got)
	return slices.Equal(got, ids)
}

// base64 reads standard, padded base64. Decoding alone would skip line breaks.
func (r *reader) base64(name string, c Code) []byte {
	s := r.str(name)
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || base64.StdEncoding.EncodeToString(b) != s {
		r.fail(c, "%s: %s is not base64", r.where, name)
	}
	return b
}

// parseTokens checks what cryptsetup checks of tokens of any type: a type, and
// keyslots that are there (specification §3.6).
func (h *Header) parseTokens(v *value) error {
	if v != nil && len(v.obj) > maxObjects {
		return refuse(CodeTokenCount, "%d tokens", len(v.obj))
	}
	tokens, err := numbered("tokens", v, maxObjects)
	if err != nil {
		return err
	}
	h.Tokens = make(map[int]json.RawMessage, len(tokens))
	for _, id := range slices.Sorted(maps.Keys(tokens)) {
		t := tokens[id]
		r := newReader(label("token", id), t)
		r.str("type")
		for _, name := range r.strings("keyslots") {
			n, ok := decimal(name, 16)
			if !ok || !slices.Contains(h.keyslotIDs(), int(n)) {
				r.fail(CodeTokenKeyslot, "token %d names keyslot %q", id, name)
			}
		}
		if r.err != nil {
			return r.err
		}
		h.Tokens[id] = slices.Clone(t.raw)
	}
	return nil
}

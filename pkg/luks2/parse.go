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
	luks1Digest     = 20 // bytes of a digest that was made for LUKS1, whatever its hash
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
	if err := h.parseSegments(top["segments"], areas.end, devSize); err != nil {
		return nil, err
	}
	if err := h.parseKeyslots(top["keyslots"], areas); err != nil {
		return nil, err
	}
	if err := h.parseDigests(top["digests"]); err != nil {
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

// parseSegments accepts exactly one crypt segment (specification §3.3), which has
// the number 0.
func (h *Header) parseSegments(v *value, metaEnd, devSize uint64) error {
	segs, err := numbered("segments", v, maxSegments)
	if err != nil {
		return err
	}
	if len(segs) != 1 {
		return refuse(CodeSegmentCount, "%d segments, want one", len(segs))
	}
	if segs[0] == nil {
		return refuse(CodeNumber, "the only segment has the number %d: segments count from 0", slices.Collect(maps.Keys(segs))[0])
	}
	r := newReader(label("segment", 0), segs[0])
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
		return r.err
	}
	h.Segment = s
	return h.checkSegment(metaEnd, devSize)
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

// parseDigests looks for the one digest (specification §3.4) that binds keyslots
// to the segment. Others are of keys that are not the volume's, as cryptsetup
// stores them in unbound keyslots; only what they are bound to is checked.
func (h *Header) parseDigests(v *value) error {
	digests, err := numbered("digests", v, maxDigests)
	if err != nil {
		return err
	}
	var own *reader
	var ours, all []int
	for _, id := range slices.Sorted(maps.Keys(digests)) {
		r := newReader(label("digest", id), digests[id])
		r.str("type")
		keyslots, segments := r.strings("keyslots"), r.strings("segments")
		if r.err != nil {
			return r.err
		}
		ofSegment := len(segments) > 0
		switch {
		case ofSegment && (len(segments) > 1 || segments[0] != "0"):
			return refuse(CodeDigestSegment, "%s is bound to segments %q", r.where, segments)
		case ofSegment && own != nil:
			return refuse(CodeDigestCount, "%s and %s are both bound to the segment", own.where, r.where)
		}
		before := len(all)
		if all, err = h.bound(all, keyslots); err != nil {
			return err
		}
		if ofSegment {
			own, ours = r, all[before:]
		}
	}
	switch {
	case own == nil && len(digests) == 0:
		return refuse(CodeDigestCount, "no digest")
	case own == nil:
		return refuse(CodeDigestSegment, "no digest is bound to the segment")
	}
	if len(all) != len(h.Keyslots) {
		return refuse(CodeDigestKeyslot, "digests are bound to keyslots %d, the header has %d", all, h.keyslotIDs())
	}
	if err := h.Digest.parse(own); err != nil {
		return err
	}
	return h.bind(ours)
}

// bound appends the numbers of the keyslots that a digest names to those of other
// digests. Each keyslot has one digest.
func (h *Header) bound(all []int, names []string) ([]int, error) {
	for _, name := range names {
		n, ok := decimal(name, 16)
		if id := int(n); !ok || slices.Contains(all, id) || !slices.Contains(h.keyslotIDs(), id) {
			return nil, refuse(CodeDigestKeyslot, "a digest is bound to keyslots %q, the header has %d", names, h.keyslotIDs())
		}
		all = append(all, int(n))
	}
	return all, nil
}

// parse reads the digest that decides whether a key is the volume's.
func (d *Digest) parse(r *reader) error {
	if t := r.str("type"); t != "pbkdf2" {
		r.fail(CodeDigestType, "%s of type %q", r.where, t)
	}
	r.only("type", "keyslots", "segments", "hash", "iterations", "salt", "digest")
	d.Hash, d.Iterations = r.str("hash"), r.u32("iterations")
	d.Salt, d.Value = r.base64("salt", CodeDigestSalt), r.base64("digest", CodeDigestLength)
	if r.err != nil {
		return r.err
	}
	size := hashSize(d.Hash)
	switch {
	case size == 0:
		return refuse(CodeDigestHash, "digest hash %q", d.Hash)
	case len(d.Value) != size && len(d.Value) != luks1Digest:
		return refuse(CodeDigestLength, "digest of %d bytes, %s has %d", len(d.Value), d.Hash, size)
	case len(d.Salt) != saltSize:
		return refuse(CodeDigestSalt, "digest salt of %d bytes", len(d.Salt))
	case d.Iterations < minIterations || d.Iterations > maxDigestIterations:
		return refuse(CodeDigestCost, "digest with %d iterations", d.Iterations)
	}
	return nil
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

package luks2

import (
	"cmp"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"maps"
	"slices"
)

// Bounds of the costs that a header may ask for. They hold for every keyslot,
// tried or not; UnlockOptions bound what is really spent.
const (
	minIterations       = 1000    // as in cryptsetup
	maxIterations       = 1 << 26 // ~20 s on a fast core
	maxDigestIterations = 1 << 24
	maxArgonMemory      = 4 << 20 // KiB, as in cryptsetup
	maxArgonTime        = 1 << 12
	maxArgonCPUs        = 4 // as in cryptsetup
	maxKeyslotWork      = 1 << 27
)

// afStripes is the number of stripes of the anti-forensic splitter; the
// specification fixes it.
const afStripes = 4000

// span is a half-open range of bytes on the device.
type span struct{ start, end uint64 }

// parseKeyslots checks all keyslots (specification §3.2), also those that are
// never tried.
func (h *Header) parseKeyslots(v *value, areas span) error {
	if v != nil && len(v.obj) > maxObjects {
		return refuse(CodeKeyslotCount, "%d keyslots", len(v.obj))
	}
	slots, err := numbered("keyslots", v, maxObjects)
	if err != nil {
		return err
	}
	if len(slots) == 0 {
		return refuse(CodeKeyslotCount, "no keyslots")
	}
	for _, id := range slices.Sorted(maps.Keys(slots)) {
		if err := h.parseKeyslot(id, slots[id], areas); err != nil {
			return err
		}
	}
	return h.checkOverlap()
}

func (h *Header) parseKeyslot(id int, v *value, areas span) error {
	where := label("keyslot", id)
	r := newReader(where, v)
	if t := r.str("type"); r.err == nil && t != "luks2" {
		r.fail(CodeKeyslotType, "%s of type %q", where, t)
	}
	r.only("type", "key_size", "priority", "area", "kdf", "af")
	keySize := r.u32("key_size")
	k := Keyslot{ID: id, Priority: PriorityNormal}
	if r.has("priority") {
		k.Priority = Priority(r.u32("priority"))
	}
	if r.err != nil {
		return r.err
	}
	if k.Priority > PriorityPrefer {
		return refuse(CodeKeyslotPriority, "%s: priority %d", where, k.Priority)
	}
	if keySize != 32 && keySize != 64 || h.KeySize != 0 && h.KeySize != int(keySize) {
		return refuse(CodeKeyslotKeySize, "%s: key of %d bytes", where, keySize)
	}
	h.KeySize = int(keySize)
	if err := k.parseAF(newReader(where+" af", r.obj["af"])); err != nil {
		return err
	}
	if err := k.parseArea(newReader(where+" area", r.obj["area"]), areas, h.KeySize); err != nil {
		return err
	}
	if err := k.KDF.parse(newReader(where+" kdf", r.obj["kdf"])); err != nil {
		return err
	}
	h.Keyslots = append(h.Keyslots, k)
	return nil
}

func (k *Keyslot) parseAF(r *reader) error {
	r.only("type", "stripes", "hash")
	t, n, hash := r.str("type"), r.u32("stripes"), r.str("hash")
	if r.err == nil && (t != "luks1" || n != afStripes || hashSize(hash) == 0) {
		r.fail(CodeAF, "%s: splitter %q, %d stripes, hash %q", r.where, t, n, hash)
	}
	k.AFHash = hash
	return r.err
}

func (k *Keyslot) parseArea(r *reader, areas span, keySize int) error {
	if t := r.str("type"); r.err == nil && t != "raw" {
		r.fail(CodeAreaType, "%s of type %q", r.where, t)
	}
	r.only("type", "offset", "size", "encryption", "key_size")
	k.AreaOffset, k.AreaSize = r.u64("offset"), r.u64("size")
	cipher, areaKey := r.str("encryption"), r.u32("key_size")
	if r.err != nil {
		return r.err
	}
	if err := checkCipher(cipher, CodeAreaCipher, r.where); err != nil {
		return err
	}
	if areaKey != 32 && areaKey != 64 {
		return refuse(CodeAreaKeySize, "%s: key of %d bytes", r.where, areaKey)
	}
	k.AreaKeySize = int(areaKey)
	// Offset and size are compared without adding them first: the sum may wrap.
	if k.AreaOffset%512 != 0 || k.AreaOffset < areas.start || k.AreaOffset > areas.end || k.AreaSize > areas.end-k.AreaOffset {
		return refuse(CodeAreaBounds, "%s: %d bytes at %d, outside of %d to %d", r.where, k.AreaSize, k.AreaOffset, areas.start, areas.end)
	}
	if k.AreaSize < uint64(materialSize(keySize)) {
		return refuse(CodeAreaSize, "%s: %d bytes, the split key has %d", r.where, k.AreaSize, materialSize(keySize))
	}
	return nil
}

// materialSize is the length in bytes of a split key, in whole 512-byte
// sectors as the keyslot area stores it.
func materialSize(keySize int) int { return (keySize*afStripes + 511) / 512 * 512 }

func (k *KDF) parse(r *reader) error {
	k.Type = r.str("type")
	k.Salt = r.base64("salt", CodeKDFSalt)
	if r.err == nil && len(k.Salt) != saltSize {
		r.fail(CodeKDFSalt, "%s: salt of %d bytes", r.where, len(k.Salt))
	}
	if r.err != nil {
		return r.err
	}
	switch k.Type {
	case KDFPBKDF2:
		r.only("type", "salt", "hash", "iterations")
		k.Hash, k.Iterations = r.str("hash"), r.u32("iterations")
		if r.err == nil && hashSize(k.Hash) == 0 {
			r.fail(CodeKDFHash, "%s: hash %q", r.where, k.Hash)
		}
		if r.err == nil && (k.Iterations < minIterations || k.Iterations > maxIterations) {
			r.fail(CodeKDFCost, "%s: %d iterations", r.where, k.Iterations)
		}
	case KDFArgon2i, KDFArgon2id:
		r.only("type", "salt", "time", "memory", "cpus")
		cpus := r.u32("cpus")
		k.Time, k.Memory, k.CPUs = r.u32("time"), r.u32("memory"), uint8(min(cpus, 255))
		if r.err == nil && (k.Time < 1 || k.Time > maxArgonTime || k.CPUs < 1 || k.CPUs > maxArgonCPUs ||
			k.Memory < 8*uint32(k.CPUs) || k.Memory > maxArgonMemory || k.work() > maxKeyslotWork) {
			r.fail(CodeKDFCost, "%s: time %d, memory %d KiB, cpus %d", r.where, k.Time, k.Memory, cpus)
		}
	default:
		r.fail(CodeKDFType, "%s of type %q", r.where, k.Type)
	}
	return r.err
}

// work is the cost in units of roughly one PBKDF2 iteration over one block of
// output; filling one KiB in Argon2 takes about four of them.
func (k *KDF) work() uint64 {
	if k.Type == KDFPBKDF2 {
		return 2 * uint64(k.Iterations) // a 64-byte area key is two blocks of SHA-256
	}
	return 4 * uint64(k.Time) * uint64(k.Memory)
}

// checkOverlap refuses keyslot areas that share bytes: rewriting one keyslot
// would destroy another, and two readers could see two keys.
func (h *Header) checkOverlap() error {
	slots := slices.Clone(h.Keyslots)
	slices.SortFunc(slots, func(a, b Keyslot) int { return cmp.Compare(a.AreaOffset, b.AreaOffset) })
	for i := 1; i < len(slots); i++ {
		a, b := slots[i-1], slots[i]
		if a.AreaOffset+a.AreaSize > b.AreaOffset {
			return refuse(CodeAreaOverlap, "keyslots %d and %d overlap at %d", a.ID, b.ID, b.AreaOffset)
		}
	}
	return nil
}

// keyslotIDs returns the numbers of the keyslots in rising order.
func (h *Header) keyslotIDs() []int {
	ids := make([]int, len(h.Keyslots))
	for i, k := range h.Keyslots {
		ids[i] = k.ID
	}
	return ids
}

// hashSize returns the output length in bytes of an allowed hash, else 0.
func hashSize(name string) int {
	switch name {
	case "sha256":
		return sha256.Size
	case "sha512":
		return sha512.Size
	}
	return 0
}

// newHash returns an allowed hash; parse has refused the others.
func newHash(name string) func() hash.Hash {
	if name == "sha512" {
		return sha512.New
	}
	return sha256.New
}

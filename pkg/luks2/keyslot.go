package luks2

import (
	"cmp"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
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

// parseKeyslots checks all keyslots (specification §3.2): each must have the shape
// that cryptsetup wants, and an area of its own within bounds. What it takes to
// open one is another matter, and kept in Keyslot.Refused: a keyslot that nobody
// here tries may be of any kind.
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
		k := Keyslot{ID: id, Priority: PriorityNormal}
		if err := k.parse(newReader(label("keyslot", id), slots[id]), areas); err != nil {
			return err
		}
		h.Keyslots = append(h.Keyslots, k)
	}
	return h.checkOverlap()
}

func (k *Keyslot) parse(r *reader, areas span) error {
	kind := r.str("type")
	if kind == "reencrypt" {
		r.fail(CodeKeyslotType, "%s of type %q", r.where, kind)
	}
	keySize := r.u32("key_size")
	k.keySize = int(keySize)
	if r.has("priority") {
		k.Priority = Priority(r.u32("priority"))
	}
	area := newReader(r.where+" area", r.obj["area"])
	if r.err == nil {
		r.err = k.parseArea(area, areas)
	}
	if r.err != nil {
		return r.err
	}
	if kind != "luks2" {
		k.cannot(refuse(CodeKeyslotType, "%s of type %q", r.where, kind))
		return nil
	}
	k.cannot(r.unknown("type", "key_size", "priority", "area", "kdf", "af"))
	if k.Priority > PriorityPrefer {
		k.cannot(refuse(CodeKeyslotPriority, "%s: priority %d", r.where, k.Priority))
	}
	if !keySizeAllowed(keySize) {
		k.cannot(refuse(CodeKeyslotKeySize, "%s: key of %d bytes", r.where, keySize))
	} else if k.AreaSize < uint64(materialSize(k.keySize)) {
		k.cannot(refuse(CodeAreaSize, "%s: %d bytes, the split key has %d", area.where, k.AreaSize, materialSize(k.keySize)))
	}
	return cmp.Or(k.parseAF(newReader(r.where+" af", r.obj["af"])),
		k.parseCipher(area), k.parseKDF(newReader(r.where+" kdf", r.obj["kdf"])))
}

// cannot keeps the first reason why this package does not open the keyslot.
func (k *Keyslot) cannot(err error) {
	if k.Refused == nil {
		errors.As(err, &k.Refused)
	}
}

// keySizeAllowed says whether n is the size of a key for CipherXTS, in bytes.
func keySizeAllowed(n uint32) bool { return n == 32 || n == 64 }

func (k *Keyslot) parseAF(r *reader) error {
	t, n, hash := r.str("type"), r.u32("stripes"), r.str("hash")
	if r.err == nil && t != "luks1" {
		r.fail(CodeAF, "%s: splitter %q", r.where, t)
	}
	k.cannot(r.unknown("type", "stripes", "hash"))
	if n != afStripes || hashSize(hash) == 0 {
		k.cannot(refuse(CodeAF, "%s: splitter %q, %d stripes, hash %q", r.where, t, n, hash))
	}
	k.AFHash = hash
	return r.err
}

// parseArea checks where the area of a keyslot of any type is.
func (k *Keyslot) parseArea(r *reader, areas span) error {
	k.AreaOffset, k.AreaSize = r.u64("offset"), r.u64("size")
	if r.err != nil {
		return r.err
	}
	// Offset and size are compared without adding them first: the sum may wrap.
	if k.AreaOffset%512 != 0 || k.AreaOffset < areas.start || k.AreaOffset > areas.end || k.AreaSize > areas.end-k.AreaOffset {
		return refuse(CodeAreaBounds, "%s: %d bytes at %d, outside of %d to %d", r.where, k.AreaSize, k.AreaOffset, areas.start, areas.end)
	}
	if k.AreaSize == 0 {
		return refuse(CodeAreaSize, "%s: empty", r.where)
	}
	return nil
}

// parseCipher reads what encrypts the area of a luks2 keyslot.
func (k *Keyslot) parseCipher(r *reader) error {
	if t := r.str("type"); r.err == nil && t != "raw" {
		r.fail(CodeAreaType, "%s of type %q", r.where, t)
	}
	cipher, areaKey := r.str("encryption"), r.u32("key_size")
	k.cannot(r.unknown("type", "offset", "size", "encryption", "key_size"))
	k.cannot(checkCipher(cipher, CodeAreaCipher, r.where))
	if !keySizeAllowed(areaKey) {
		k.cannot(refuse(CodeAreaKeySize, "%s: key of %d bytes", r.where, areaKey))
	}
	k.AreaKeySize = int(areaKey)
	return r.err
}

// bind keeps the keyslots apart that the volume's digest binds to its segment,
// and takes the volume key's size from them. One of them must be of a kind that
// this package opens.
func (h *Header) bind(own []int) error {
	var refused *HeaderError
	usable := false
	for i := range h.Keyslots {
		k := &h.Keyslots[i]
		if !slices.Contains(own, k.ID) {
			k.cannot(refuse(CodeDigestKeyslot, "keyslot %d holds another key than the volume's", k.ID))
			continue
		}
		if h.KeySize == 0 {
			h.KeySize = k.keySize
		}
		if k.keySize != h.KeySize || !keySizeAllowed(uint32(k.keySize)) {
			return refuse(CodeKeyslotKeySize, "keyslot %d: key of %d bytes", k.ID, k.keySize)
		}
		usable = usable || k.Refused == nil
		refused = cmp.Or(refused, k.Refused)
	}
	switch {
	case usable:
		return nil
	case refused != nil:
		return refused
	}
	return refuse(CodeDigestKeyslot, "the digest is bound to no keyslot")
}

// materialSize is the length in bytes of a split key, in whole 512-byte
// sectors as the keyslot area stores it.
func materialSize(keySize int) int { return (keySize*afStripes + 511) / 512 * 512 }

// parseKDF checks the fields that a type of KDF has; their values only matter
// where the keyslot is to be opened.
func (k *Keyslot) parseKDF(r *reader) error {
	d := &k.KDF
	d.Type = r.str("type")
	switch d.Type {
	case KDFPBKDF2:
		d.Hash, d.Iterations = r.str("hash"), r.u32("iterations")
		k.cannot(r.unknown("type", "salt", "hash", "iterations"))
		if hashSize(d.Hash) == 0 {
			k.cannot(refuse(CodeKDFHash, "%s: hash %q", r.where, d.Hash))
		}
		if d.Iterations < minIterations || d.Iterations > maxIterations {
			k.cannot(refuse(CodeKDFCost, "%s: %d iterations", r.where, d.Iterations))
		}
	case KDFArgon2i, KDFArgon2id:
		cpus := r.u32("cpus")
		d.Time, d.Memory, d.CPUs = r.u32("time"), r.u32("memory"), uint8(min(cpus, 255))
		k.cannot(r.unknown("type", "salt", "time", "memory", "cpus"))
		if d.Time < 1 || d.Time > maxArgonTime || d.CPUs < 1 || d.CPUs > maxArgonCPUs ||
			d.Memory < 8*uint32(d.CPUs) || d.Memory > maxArgonMemory || d.work() > maxKeyslotWork {
			k.cannot(refuse(CodeKDFCost, "%s: time %d, memory %d KiB, cpus %d", r.where, d.Time, d.Memory, cpus))
		}
	default:
		k.cannot(refuse(CodeKDFType, "%s of type %q", r.where, d.Type))
		return r.err
	}
	salt := &reader{where: r.where, obj: r.obj}
	d.Salt = salt.base64("salt", CodeKDFSalt)
	k.cannot(salt.err)
	if len(d.Salt) != saltSize {
		k.cannot(refuse(CodeKDFSalt, "%s: salt of %d bytes", r.where, len(d.Salt)))
	}
	r.str("salt")
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

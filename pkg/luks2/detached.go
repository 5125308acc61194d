package luks2

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
)

// Layout of a detached header, in bytes.
const (
	detachedCopy = minHeaderSize    // one header copy
	detachedArea = 2 * detachedCopy // where the keyslot area starts
	areaAlign    = 4096
)

// Detached makes a LUKS2 header of its own for an unlocked volume: what was
// validated and proved, and nothing else of what the device's header says. It
// holds the one keyslot that opened the volume, its segment and its digest; no
// flags, no tokens, no other keyslots.
//
// It is for a reader that would otherwise read the device's header again, after
// this package did and with less strictness: the next kernel's cryptsetup, with
// --header. The keyslot area is copied from dev as it is now; if somebody
// changed it, the keyslot does not open, since the digest is the validated one.
// The result is ciphertext and public parameters.
func (h *Header) Detached(dev io.ReaderAt, vk *VolumeKey) ([]byte, error) {
	slots, err := h.candidates([]int{vk.Keyslot})
	if err != nil {
		return nil, err
	}
	k := slots[0]
	if k.KDF.Type != KDFPBKDF2 {
		return nil, fmt.Errorf("volume %s keyslot %d: a detached header takes %s, not %s", h.UUID, k.ID, KDFPBKDF2, k.KDF.Type)
	}
	n := materialSize(h.KeySize)
	area := (n + areaAlign - 1) / areaAlign * areaAlign
	out := make([]byte, detachedArea+area)
	if err := readFull(dev, out[detachedArea:detachedArea+n], int64(k.AreaOffset)); err != nil {
		return nil, fmt.Errorf("read keyslot area at %d: %w", k.AreaOffset, err)
	}
	text, err := json.Marshal(h.detachedMetadata(&k, area))
	if err != nil {
		return nil, fmt.Errorf("detached header: %w", err)
	}
	if len(text) >= detachedCopy-binSize {
		return nil, fmt.Errorf("detached header: %d bytes of metadata", len(text))
	}
	for _, off := range []int{0, detachedCopy} {
		h.writeCopy(out[off:off+detachedCopy], off, text)
	}
	return out, nil
}

// members is a JSON object; encoding/json sorts its members.
type members = map[string]any

// detachedMetadata is the JSON text (specification §3). Integers beyond 32 bits
// are strings there.
func (h *Header) detachedMetadata(k *Keyslot, area int) members {
	size := "dynamic"
	if !h.Dynamic {
		size = quoted(h.Size)
	}
	return members{
		"keyslots": members{"0": members{
			"type": "luks2", "key_size": h.KeySize,
			"af": members{"type": "luks1", "stripes": afStripes, "hash": k.AFHash},
			"area": members{
				"type": "raw", "offset": quoted(detachedArea), "size": strconv.Itoa(area),
				"encryption": CipherXTS, "key_size": k.AreaKeySize,
			},
			"kdf": members{"type": KDFPBKDF2, "hash": k.KDF.Hash, "iterations": k.KDF.Iterations, "salt": k.KDF.Salt},
		}},
		"tokens": members{},
		"segments": members{"0": members{
			"type": "crypt", "offset": quoted(h.Offset), "size": size, "iv_tweak": quoted(h.IVOffset),
			"encryption": h.Cipher, "sector_size": h.SectorSize,
		}},
		"digests": members{"0": members{
			"type": KDFPBKDF2, "keyslots": []string{"0"}, "segments": []string{"0"},
			"hash": h.Digest.Hash, "iterations": h.Digest.Iterations, "salt": h.Digest.Salt, "digest": h.Digest.Value,
		}},
		"config": members{"json_size": quoted(detachedCopy - binSize), "keyslots_size": strconv.Itoa(area)},
	}
}

func quoted(n uint64) string { return strconv.FormatUint(n, 10) }

// writeCopy writes one copy of binary header and JSON area (specification §2).
// The salt field only tells copies apart and stays zero.
func (h *Header) writeCopy(b []byte, off int, text []byte) {
	magic := magicPrimary
	if off != 0 {
		magic = magicSecondary
	}
	copy(b, magic)
	binary.BigEndian.PutUint16(b[6:], 2)
	binary.BigEndian.PutUint64(b[8:], detachedCopy)
	binary.BigEndian.PutUint64(b[16:], 1) // seqid
	copy(b[72:], "sha256")
	copy(b[168:], h.UUID)
	binary.BigEndian.PutUint64(b[256:], uint64(off))
	copy(b[binSize:], text)
	sum := sha256.Sum256(b) // over a zero checksum field
	copy(b[448:], sum[:])
}

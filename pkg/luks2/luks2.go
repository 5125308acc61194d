// Package luks2 opens LUKS2 volumes, read-only, without trusting them.
//
// A thief can edit everything that this package reads. Read therefore takes
// both copies of the header into memory once, checks what decides how the volume is
// opened against an allow-list that is narrower than cryptsetup's, and all else
// for its bounds; all later steps work on that copy. What Read accepts is one
// aes-xts-plain64 segment with nothing in progress and a keyslot that opens it
// (docs/decisions/0002); each refusal is a *HeaderError with its own Code.
//
// A header that passes is only well-formed, not genuine: whoever knows any
// passphrase can make one. VerifyMAC tells whether a volume is the one that
// was sealed for this device.
//
// Not protected: the freshness of the header and of the data (somebody who
// imaged the disk can write the image back), and the integrity of the data
// (XTS garbles a changed block, it does not detect the change).
//
// Source: LUKS2 On-Disk Format Specification 1.1 ("the specification" below).
package luks2

import (
	"encoding/json"

	"github.com/landfall-project/landfall/pkg/secret"
)

// CipherXTS is the one cipher of segments and keyslot areas: AES in XTS mode
// (IEEE 1619), the tweak being the little-endian 64-bit number of the 512-byte
// sector.
const CipherXTS = "aes-xts-plain64"

// Header is one validated LUKS2 header. Read makes it; nothing changes it.
type Header struct {
	UUID      string // canonical lower-case text form of RFC 9562
	Label     string // any bytes, as the header has them
	Subsystem string // likewise
	SeqID     uint64 // of the copy in use; grows with every header write
	Secondary bool   // the primary copy was damaged or older

	Segment
	KeySize  int // bytes of the volume key: 32 or 64
	Keyslots []Keyslot
	Digest   Digest
	Tokens   map[int]json.RawMessage // by token number; type and keyslots are checked, the rest is not

	// Flags are the activation flags that the header asks for. They are not
	// authenticated and must not reach the mapping: the slice decides.
	Flags []string
}

// Segment is the encrypted part of the device: what a mapping needs to know.
type Segment struct {
	Cipher     string // CipherXTS
	SectorSize uint32 // bytes: 512, 1024, 2048 or 4096
	Offset     uint64 // bytes from the start of the device
	Size       uint64 // bytes; resolved from the device's size when Dynamic
	Dynamic    bool   // the header says "dynamic": up to the end of the device
	IVOffset   uint64 // added to the sector number, in 512-byte units
}

// Priority says when a keyslot is tried (specification §3.2).
type Priority int

// The specification's priorities. Unlock never tries PriorityIgnore unless
// UnlockOptions.Keyslots names the keyslot.
const (
	PriorityIgnore Priority = 0
	PriorityNormal Priority = 1
	PriorityPrefer Priority = 2
)

// Keyslot is an area that holds the volume key, encrypted under a passphrase.
type Keyslot struct {
	ID       int
	Priority Priority
	KDF      KDF
	AFHash   string // hash of the anti-forensic splitter: sha256 or sha512

	// Refused says why this package does not open the keyslot: it is of another
	// kind, or holds another key. Its fields, other than where its area is, are
	// what the header says. nil: Unlock may try it.
	Refused *HeaderError `json:",omitempty"`

	AreaOffset  uint64 // bytes from the start of the device
	AreaSize    uint64 // bytes
	AreaKeySize int    // bytes of the key that encrypts the area: 32 or 64

	keySize int // bytes of the key that it holds
}

// KDF types.
const (
	KDFPBKDF2   = "pbkdf2"
	KDFArgon2i  = "argon2i"
	KDFArgon2id = "argon2id"
)

// KDF turns a passphrase into the key of a keyslot area.
type KDF struct {
	Type string
	Salt []byte // saltSize bytes

	Hash       string // pbkdf2: sha256 or sha512
	Iterations uint32 // pbkdf2

	Time   uint32 // argon2: passes
	Memory uint32 // argon2: KiB
	CPUs   uint8  // argon2: lanes
}

// Digest verifies a candidate volume key: PBKDF2 over the key itself.
type Digest struct {
	Hash       string
	Iterations uint32
	Salt       []byte
	Value      []byte // as long as the hash's output, or 20 bytes where it was LUKS1's
}

// VolumeKey is an unlocked volume key with what the mapping needs. The caller
// wipes it once the mapping exists.
type VolumeKey struct {
	Segment
	UUID    string
	Keyslot int // the one that opened
	Key     *secret.Bytes
}

// Wipe overwrites the key. A nil VolumeKey is already wiped.
func (vk *VolumeKey) Wipe() {
	if vk != nil {
		vk.Key.Wipe()
	}
}

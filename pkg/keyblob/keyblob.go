// Package keyblob wraps a device's data-encryption key under a key-encryption
// key of the fleet, in the fixed record that a TPM NV slot holds. It opens no
// file and no socket. The format is docs/spec/keyblob.md.
//
// Not protected: the record carries no freshness. An old record under an old
// KEK opens for whoever has that KEK; the fleet destroys old generations.
package keyblob

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/landfall-project/landfall/pkg/secret"
)

// Sizes in bytes.
const (
	Size      = 128 // a record, and an NV slot
	KeySize   = 32  // DEK and KEK
	IDSize    = 16  // KEK ID
	MaxDevice = 255 // device ID
)

// Layout of a record; integers are big-endian.
const (
	magic   = "LFKB"
	version = 1

	offVersion    = 4
	offSlot       = 5
	offReserved   = 6
	offGeneration = 8
	offKEKID      = 12
	offNonce      = 28 // 12 bytes of nonce, 32 of ciphertext, 16 of tag
	offPadding    = 88
	offCRC        = 124

	label = "landfall dek v1\x00"
)

// What Parse, Wrap and Unwrap refuse.
var (
	// ErrBlank: the slot was never written. Seal the device.
	ErrBlank = errors.New("key record is blank: this slot was never written")
	// ErrCorrupt: bits have rotted or a write was cut. Use the other slot, or
	// the recovery key.
	ErrCorrupt = errors.New("key record is damaged")
	// ErrVersion: written by a newer Landfall. Boot that image.
	ErrVersion = errors.New("key record has an unknown version")
	// ErrMismatch: an intact record, but of another generation or KEK than the
	// fleet released. Have the fleet release the record's generation.
	ErrMismatch = errors.New("key record belongs to another key")
	// ErrAuth: intact, yet not made by this KEK for this device: somebody
	// else's record, or a wrong KEK. Never overwrite it unseen.
	ErrAuth = errors.New("key record does not open: it was not wrapped by this KEK for this device")
	// ErrArgument: a caller's mistake.
	ErrArgument = errors.New("key record: invalid argument")
)

// Ident is what a record is bound to besides the KEK itself.
type Ident struct {
	Device     string // device ID, 1 to 255 bytes
	KEKID      [IDSize]byte
	Generation uint32 // from 1
}

// Header is the readable part of a record. It is not authenticated before
// Unwrap succeeded.
type Header struct {
	Slot       int
	Generation uint32
	KEKID      [IDSize]byte
}

// Slot returns the NV slot of a generation: its parity.
func Slot(generation uint32) int { return int(generation & 1) }

// Wrap encrypts dek under kek with AES-256-GCM and a random 96-bit nonce, and
// returns a record of Size bytes.
func Wrap(kek, dek *secret.Bytes, id Ident) ([]byte, error) {
	if dek.Len() != KeySize {
		return nil, fmt.Errorf("%w: DEK of %d bytes, expected %d", ErrArgument, dek.Len(), KeySize)
	}
	aad, err := id.additional()
	if err != nil {
		return nil, err
	}
	aead, err := newSealer(kek)
	if err != nil {
		return nil, err
	}
	defer aead.wipe()
	r := make([]byte, Size)
	copy(r, magic)
	r[offVersion] = version
	r[offSlot] = byte(Slot(id.Generation))
	binary.BigEndian.PutUint32(r[offGeneration:], id.Generation)
	copy(r[offKEKID:], id.KEKID[:])
	aead.Seal(r[offNonce:offNonce:offPadding], nil, dek.Expose(), aad)
	binary.BigEndian.PutUint32(r[offCRC:], checksum(r))
	return r, nil
}

// Parse checks the outer form of a record. The CRC tells rot from attack; it
// protects nothing.
func Parse(record []byte) (Header, error) {
	var h Header
	if len(record) != Size {
		return h, fmt.Errorf("%w: %d bytes, expected %d", ErrCorrupt, len(record), Size)
	}
	if blank(record, 0x00) || blank(record, 0xff) {
		return h, ErrBlank
	}
	if string(record[:len(magic)]) != magic {
		return h, fmt.Errorf("%w: no %s at its start", ErrCorrupt, magic)
	}
	if got := binary.BigEndian.Uint32(record[offCRC:]); got != checksum(record) {
		return h, fmt.Errorf("%w: checksum differs", ErrCorrupt)
	}
	if v := record[offVersion]; v != version {
		return h, fmt.Errorf("%w: %d, this program knows %d", ErrVersion, v, version)
	}
	if !blank(record[offReserved:offGeneration], 0) || !blank(record[offPadding:offCRC], 0) {
		return h, fmt.Errorf("%w: padding is not zero", ErrCorrupt)
	}
	h.Generation = binary.BigEndian.Uint32(record[offGeneration:])
	h.Slot = int(record[offSlot])
	copy(h.KEKID[:], record[offKEKID:])
	if h.Generation == 0 {
		return h, fmt.Errorf("%w: generation 0", ErrCorrupt)
	}
	if h.Slot != Slot(h.Generation) {
		return h, fmt.Errorf("%w: generation %d in slot %d", ErrCorrupt, h.Generation, h.Slot)
	}
	return h, nil
}

// Unwrap opens a record. The receiver wipes the DEK.
func Unwrap(kek *secret.Bytes, record []byte, id Ident) (*secret.Bytes, error) {
	h, err := Parse(record)
	if err != nil {
		return nil, err
	}
	if h.Generation != id.Generation || h.KEKID != id.KEKID {
		return nil, fmt.Errorf("%w: it holds generation %d of KEK %x, the fleet released generation %d of KEK %x",
			ErrMismatch, h.Generation, h.KEKID, id.Generation, id.KEKID)
	}
	aad, err := id.additional()
	if err != nil {
		return nil, err
	}
	aead, err := newSealer(kek)
	if err != nil {
		return nil, err
	}
	defer aead.wipe()
	dek := secret.New(KeySize)
	// Open appends into dek's own memory: its capacity is exactly KeySize.
	if _, err := aead.Open(dek.Expose()[:0], nil, record[offNonce:offPadding], aad); err != nil {
		dek.Wipe()
		return nil, ErrAuth
	}
	return dek, nil
}

// Sealed returns the part of a record of Size bytes that the DEK is in: nonce,
// ciphertext and tag, 60 bytes, not a copy. Who leaves a memory behind looks for
// it there: with the KEK it is the DEK.
func Sealed(record []byte) []byte { return record[offNonce:offPadding] }

// additional is the associated data: label ‖ length of the device ID (2 bytes)
// ‖ device ID ‖ KEK ID ‖ generation (4 bytes) ‖ slot (1 byte).
func (id Ident) additional() ([]byte, error) {
	if n := len(id.Device); n == 0 || n > MaxDevice {
		return nil, fmt.Errorf("%w: device ID of %d bytes, expected 1 to %d", ErrArgument, n, MaxDevice)
	}
	if id.Generation == 0 {
		return nil, fmt.Errorf("%w: generations start at 1", ErrArgument)
	}
	b := []byte(label)
	b = binary.BigEndian.AppendUint16(b, uint16(len(id.Device)))
	b = append(b, id.Device...)
	b = append(b, id.KEKID[:]...)
	b = binary.BigEndian.AppendUint32(b, id.Generation)
	return append(b, byte(Slot(id.Generation))), nil
}

// checksum is CRC-32C (RFC 3720, 12.1) over all that precedes it.
func checksum(record []byte) uint32 {
	return crc32.Checksum(record[:offCRC], crc32.MakeTable(crc32.Castagnoli))
}

func blank(b []byte, with byte) bool {
	return bytes.Count(b, []byte{with}) == len(b)
}

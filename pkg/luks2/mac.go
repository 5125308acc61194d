package luks2

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/secret"
)

// Labels of the keys that come from a device's DEK; docs/spec/luks2-token.md.
const (
	infoPassphrase = "landfall luks2 keyslot v1"
	infoMAC        = "landfall luks2 volume-key mac v1"
)

// dekSize is the length of a DEK in bytes.
const dekSize = 32

// macVersion is the first byte of the authenticated encoding.
const macVersion = 1

// Passphrase derives the passphrase of one volume from the device's DEK:
// HKDF-SHA256, salt = the 16 bytes of the LUKS UUID in RFC 9562 order. It is
// 32 raw bytes (not text); cryptsetup takes it with --key-file.
func Passphrase(dek *secret.Bytes, uuid string) (*secret.Bytes, error) {
	return deriveKey(dek, uuid, infoPassphrase)
}

func deriveKey(dek *secret.Bytes, uuid, info string) (*secret.Bytes, error) {
	id, err := ParseUUID(uuid)
	if err != nil {
		return nil, err
	}
	if dek.Len() != dekSize {
		return nil, fmt.Errorf("the DEK has %d bytes, want %d", dek.Len(), dekSize)
	}
	return hkdfSecret(dek, id[:], []byte(info), 32), nil
}

// MAC computes the volume-key MAC: HMAC-SHA256, under a key derived from the
// DEK, over all that decides what a mapping shows. seal stores it in a token
// of type "landfall" as its very last step.
//
// The MAC binds the volume key and its parameters to the device's DEK. It says
// nothing of the data, of the other keyslots or of how old the header is.
func MAC(dek *secret.Bytes, vk *VolumeKey) ([]byte, error) {
	mac, err := macSecret(dek, vk)
	if err != nil {
		return nil, err
	}
	defer mac.Wipe()
	return append([]byte(nil), mac.Expose()...), nil // public: it goes to the disk
}

// VerifyMAC recomputes the MAC of an unlocked volume and compares it in
// constant time with the token's. It returns ErrMAC when they differ; the
// volume must not be mapped then.
func VerifyMAC(dek *secret.Bytes, vk *VolumeKey, mac []byte) error {
	want, err := macSecret(dek, vk)
	if err != nil {
		return err
	}
	defer want.Wipe()
	got := secret.New(len(mac))
	defer got.Wipe()
	copy(got.Expose(), mac)
	if !want.Equal(got) {
		return fmt.Errorf("volume %s: %w", vk.UUID, ErrMAC)
	}
	return nil
}

func macSecret(dek *secret.Bytes, vk *VolumeKey) (*secret.Bytes, error) {
	if vk.Key.Len() == 0 {
		return nil, errors.New("the volume key is missing or wiped")
	}
	key, err := deriveKey(dek, vk.UUID, infoMAC)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	p := newPRF(sha256.New, key.Expose())
	defer p.wipe()
	mac := secret.New(sha256.Size)
	p.sum(mac.Expose()[:0], macParts(vk)...)
	return mac, nil
}

// macParts is the authenticated encoding in pieces, so that the volume key is
// not copied: a version byte, then each field as a 32-bit big-endian length
// and its bytes.
func macParts(vk *VolumeKey) [][]byte {
	id, _ := ParseUUID(vk.UUID) // deriveKey has refused a malformed one
	size := []byte("dynamic")
	if !vk.Dynamic {
		size = binary.BigEndian.AppendUint64(nil, vk.Size)
	}
	fields := [][]byte{
		id[:],
		vk.Key.Expose(),
		[]byte(vk.Cipher),
		binary.BigEndian.AppendUint32(nil, vk.SectorSize),
		binary.BigEndian.AppendUint64(nil, vk.Offset),
		size,
		binary.BigEndian.AppendUint64(nil, vk.IVOffset),
	}
	parts := [][]byte{{macVersion}}
	for _, f := range fields {
		parts = append(parts, binary.BigEndian.AppendUint32(nil, uint32(len(f))), f)
	}
	return parts
}

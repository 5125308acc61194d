package kekstore

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/secret"
)

// BarrierKeySize is the length of a barrier key, in bytes.
const BarrierKeySize = 32

// HKDF-SHA256 info strings (RFC 5869) of the keys below the barrier key.
const (
	infoValues = "landfall store values v1"
	infoSum    = "landfall store sum v1"
	infoCheck  = "landfall store check v1"
)

// barrier holds the keys derived from the barrier key. The expanded AES key is
// in the Go heap for as long as the member runs unsealed.
type barrier struct {
	aead   cipher.AEAD
	sumKey *secret.Bytes
	check  [32]byte // tells a wrong key from a damaged store
}

func newBarrier(key *secret.Bytes) (*barrier, error) {
	if key.Len() != BarrierKeySize {
		return nil, fmt.Errorf("barrier key of %d bytes, want %d: %w", key.Len(), BarrierKeySize, ErrBarrierKey)
	}
	values, err := derive(key, infoValues)
	if err != nil {
		return nil, err
	}
	defer values.Wipe()
	block, err := aes.NewCipher(values.Expose())
	if err != nil {
		return nil, fmt.Errorf("barrier cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("barrier cipher: %w", err)
	}
	check, err := derive(key, infoCheck)
	if err != nil {
		return nil, err
	}
	defer check.Wipe()
	sumKey, err := derive(key, infoSum)
	if err != nil {
		return nil, err
	}
	b := &barrier{aead: aead, sumKey: sumKey}
	b.check = sha256.Sum256(check.Expose())
	return b, nil
}

func derive(key *secret.Bytes, info string) (*secret.Bytes, error) {
	out, err := hkdf.Key(sha256.New, key.Expose(), nil, info, 32)
	if err != nil {
		return nil, fmt.Errorf("derive %q: %w", info, err)
	}
	return secret.Take(out), nil
}

func (b *barrier) wipe() { b.sumKey.Wipe() }

// aad binds a ciphertext to its path and version:
// "landfall store v1" ‖ 0 ‖ path ‖ 0 ‖ version (8 bytes, big endian).
// Paths hold no zero byte.
func aad(path string, version uint64) []byte {
	a := append([]byte("landfall store v1\x00"), path...)
	return binary.BigEndian.AppendUint64(append(a, 0), version)
}

// markSize is the length of what stands before a value: zeros, or a random token
// that stores had there once, and nothing reads.
const markSize = 16

// record is a stored value: version (8 bytes, big endian) ‖ nonce (12) ‖
// ciphertext of mark (16) ‖ value, and tag (16).
func (b *barrier) seal(path string, version uint64, data []byte) []byte {
	plain := make([]byte, markSize, markSize+len(data))
	plain = append(plain, data...)
	defer secret.Wipe(plain)
	return b.aead.Seal(binary.BigEndian.AppendUint64(nil, version), nil, plain, aad(path, version))
}

// open returns the value of a record; its version must be want.
func (b *barrier) open(path string, record []byte, want uint64) ([]byte, error) {
	version, err := recordVersion(path, record)
	if err != nil {
		return nil, err
	}
	if version != want {
		return nil, fmt.Errorf("%s: version %d where %d was written last: %w", path, version, want, ErrTampered)
	}
	plain, err := b.aead.Open(nil, nil, record[8:], aad(path, version))
	if err != nil || len(plain) < markSize {
		return nil, fmt.Errorf("%s: value does not open: %w", path, ErrTampered)
	}
	return plain[markSize:], nil
}

func recordVersion(path string, record []byte) (uint64, error) {
	if len(record) < 8 {
		return 0, fmt.Errorf("%s: record of %d bytes: %w", path, len(record), ErrTampered)
	}
	return binary.BigEndian.Uint64(record), nil
}

// sum is a keyed multiset hash over all (path, version) pairs: the sum modulo
// 2^256 of HMAC-SHA256(path ‖ 0 ‖ version), which can be kept up to date by
// adding and subtracting (Clarke et al., Incremental Multiset Hash Functions,
// 2003, MSet-Add-Hash; a pair is never in it twice).
type sum struct {
	limbs [4]uint64
	count uint64
	epoch uint64
	head  Head // of the log outside
}

// Stores that were written before heads were kept have none.
const (
	sumSize  = 32 + 8 + 8
	headSize = 8 + 32
)

func (b *barrier) term(path string, version uint64) [4]uint64 {
	m := hmac.New(sha256.New, b.sumKey.Expose())
	m.Write(binary.BigEndian.AppendUint64(append([]byte(path), 0), version))
	var buf [32]byte
	digest := m.Sum(buf[:0])
	var t [4]uint64
	for i := range t {
		t[i] = binary.LittleEndian.Uint64(digest[8*i:])
	}
	return t
}

func (s *sum) encode() []byte {
	out := make([]byte, 0, sumSize+headSize)
	for _, l := range s.limbs {
		out = binary.BigEndian.AppendUint64(out, l)
	}
	out = binary.BigEndian.AppendUint64(out, s.count)
	out = binary.BigEndian.AppendUint64(out, s.epoch)
	return append(binary.BigEndian.AppendUint64(out, s.head.Number), s.head.Hash[:]...)
}

func decodeSum(data []byte) (*sum, error) {
	if len(data) != sumSize && len(data) != sumSize+headSize {
		return nil, errors.New("sum record of a wrong length")
	}
	var s sum
	for i := range s.limbs {
		s.limbs[i] = binary.BigEndian.Uint64(data[8*i:])
	}
	s.count = binary.BigEndian.Uint64(data[32:])
	s.epoch = binary.BigEndian.Uint64(data[40:])
	if rest := data[sumSize:]; len(rest) > 0 {
		s.head.Number = binary.BigEndian.Uint64(rest)
		copy(s.head.Hash[:], rest[8:])
	}
	return &s, nil
}

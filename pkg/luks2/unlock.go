package luks2

import (
	"context"
	"crypto/aes"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/xts"

	"github.com/landfall-project/landfall/pkg/secret"
)

// Defaults of UnlockOptions.
const (
	DefaultMaxMemory = 1 << 20 // KiB; cryptsetup's own default for new keyslots
	DefaultMaxWork   = 1 << 27 // well above cryptsetup's defaults, about a minute
)

// UnlockOptions restrict what Unlock tries. The zero value tries all keyslots
// within the default budget.
type UnlockOptions struct {
	// Keyslots are the only ones to try, in this order, whatever their
	// priority. nil: all but the ignored and the refused ones, preferred ones
	// first.
	Keyslots []int
	// MaxMemory bounds the memory of one key derivation in KiB; 0 is
	// DefaultMaxMemory. A boot image with little memory sets it lower: Go
	// cannot survive an allocation that the machine refuses.
	MaxMemory uint32
	// MaxWork bounds the key derivation of all keyslots together, in
	// PBKDF2 iterations per hash block; 0 is DefaultMaxWork.
	MaxWork uint64
}

// Unlock tries keyslots until the passphrase opens one whose key matches the
// header's digest. It returns ErrNoKeyslot when none does, ErrBudget when one
// that might was too expensive, a *HeaderError when one that was named is
// refused, an I/O error when one that might could not be read, or ctx's error. The passphrase stays the caller's.
//
// The result fits the header; whether the header is genuine only VerifyMAC
// tells.
func (h *Header) Unlock(ctx context.Context, dev io.ReaderAt, passphrase *secret.Bytes, opts UnlockOptions) (*VolumeKey, error) {
	if passphrase.Len() == 0 {
		return nil, errors.New("unlock: the passphrase is empty or wiped")
	}
	slots, err := h.candidates(opts.Keyslots)
	if err != nil {
		return nil, err
	}
	if opts.MaxMemory == 0 {
		opts.MaxMemory = DefaultMaxMemory
	}
	if opts.MaxWork == 0 {
		opts.MaxWork = DefaultMaxWork
	}
	failed := fmt.Errorf("volume %s: %w", h.UUID, ErrNoKeyslot)
	for _, k := range slots {
		if k.Refused != nil {
			failed = fmt.Errorf("volume %s keyslot %d: %w", h.UUID, k.ID, k.Refused)
			continue
		}
		cost := k.KDF.work() + 2*uint64(h.Digest.Iterations)
		if k.KDF.Memory > opts.MaxMemory || cost > opts.MaxWork {
			failed = fmt.Errorf("volume %s keyslot %d: %w", h.UUID, k.ID, ErrBudget)
			continue
		}
		opts.MaxWork -= cost
		key, err := h.open(ctx, dev, k, passphrase)
		switch {
		case ctx.Err() != nil:
			key.Wipe()
			return nil, ctx.Err()
		case err != nil:
			failed = fmt.Errorf("volume %s keyslot %d: %w", h.UUID, k.ID, err)
		case key != nil:
			return &VolumeKey{Segment: h.Segment, UUID: h.UUID, Keyslot: k.ID, Key: key}, nil
		}
	}
	return nil, failed
}

// candidates returns the keyslots to try, in order.
func (h *Header) candidates(only []int) ([]Keyslot, error) {
	var out []Keyslot
	if only == nil {
		for p := PriorityPrefer; p > PriorityIgnore; p-- {
			for _, k := range h.Keyslots {
				if k.Priority == p && k.Refused == nil {
					out = append(out, k)
				}
			}
		}
		return out, nil
	}
	for _, id := range only {
		i := slices.IndexFunc(h.Keyslots, func(k Keyslot) bool { return k.ID == id })
		if i < 0 {
			return nil, fmt.Errorf("volume %s: no keyslot %d: %w", h.UUID, id, ErrNoKeyslot)
		}
		out = append(out, h.Keyslots[i])
	}
	return out, nil
}

// open tries one keyslot. It returns nil, nil when the passphrase is not its.
func (h *Header) open(ctx context.Context, dev io.ReaderAt, k Keyslot, passphrase *secret.Bytes) (*secret.Bytes, error) {
	material := secret.New(materialSize(h.KeySize))
	defer material.Wipe()
	if err := readFull(dev, material.Expose(), int64(k.AreaOffset)); err != nil {
		return nil, fmt.Errorf("read keyslot area at %d: %w", k.AreaOffset, err)
	}
	areaKey, err := k.KDF.derive(ctx, passphrase, k.AreaKeySize)
	if err != nil {
		return nil, err
	}
	defer areaKey.Wipe()
	if err := decryptArea(material.Expose(), areaKey.Expose()); err != nil {
		return nil, err
	}
	key := secret.New(h.KeySize)
	afMerge(newHash(k.AFHash)(), key.Expose(), material.Expose())
	ok, err := h.Digest.verify(ctx, key)
	if err != nil || !ok {
		key.Wipe()
		return nil, err
	}
	return key, nil
}

// derive returns the key of a keyslot area. Argon2's memory is not wiped: it
// is on the Go heap, and neither passphrase nor area key can be read from it
// without inverting BLAKE2b.
func (k *KDF) derive(ctx context.Context, passphrase *secret.Bytes, n int) (*secret.Bytes, error) {
	switch k.Type {
	case KDFArgon2id:
		return secret.Take(argon2.IDKey(passphrase.Expose(), k.Salt, k.Time, k.Memory, k.CPUs, uint32(n))), ctx.Err()
	case KDFArgon2i:
		return secret.Take(argon2.Key(passphrase.Expose(), k.Salt, k.Time, k.Memory, k.CPUs, uint32(n))), ctx.Err()
	}
	p := newPRF(newHash(k.Hash), passphrase.Expose())
	defer p.wipe()
	out := secret.New(n)
	if err := pbkdf2(ctx, p, k.Salt, k.Iterations, out.Expose()); err != nil {
		out.Wipe()
		return nil, err
	}
	return out, nil
}

// verify compares the full digest of a candidate key in constant time.
func (d *Digest) verify(ctx context.Context, key *secret.Bytes) (bool, error) {
	p := newPRF(newHash(d.Hash), key.Expose())
	defer p.wipe()
	got := secret.New(len(d.Value))
	defer got.Wipe()
	if err := pbkdf2(ctx, p, d.Salt, d.Iterations, got.Expose()); err != nil {
		return false, err
	}
	want := secret.New(len(d.Value))
	defer want.Wipe()
	copy(want.Expose(), d.Value)
	return got.Equal(want), nil
}

// areaSector is the sector size of keyslot areas in bytes, whatever the
// segment's is.
const areaSector = 512

// decryptArea decrypts a keyslot area in place; sectors count from 0 at the
// start of the area.
func decryptArea(b, key []byte) error {
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		return err
	}
	for i := 0; i < len(b)/areaSector; i++ {
		s := b[i*areaSector : (i+1)*areaSector]
		c.Decrypt(s, s, uint64(i))
	}
	return nil
}

// afMerge recovers a key from its afStripes stripes: the anti-forensic
// splitter of LUKS1 (LUKS1 On-Disk Format §2.4). h is the diffusion hash, and
// stays wiped.
func afMerge(h hash.Hash, key, stripes []byte) {
	defer wipeHash(h)
	n := len(key)
	clear(key)
	for i := range afStripes - 1 {
		subtle.XORBytes(key, key, stripes[i*n:(i+1)*n])
		diffuse(h, key)
	}
	subtle.XORBytes(key, key, stripes[(afStripes-1)*n:afStripes*n])
}

// diffuse replaces each block of the hash's size by the hash of its number
// (32 bits, big-endian) and itself; a last short block by a cut hash.
func diffuse(h hash.Hash, b []byte) {
	var number [4]byte
	var sum [64]byte
	for i := uint32(0); len(b) > 0; i++ {
		n := min(h.Size(), len(b))
		binary.BigEndian.PutUint32(number[:], i)
		h.Reset()
		h.Write(number[:])
		h.Write(b[:n])
		copy(b[:n], h.Sum(sum[:0]))
		b = b[n:]
	}
	secret.Wipe(sum[:])
}

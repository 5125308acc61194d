package luks2

import (
	"context"
	"crypto/subtle"
	"encoding"
	"encoding/binary"
	"hash"

	"github.com/landfall-project/landfall/pkg/secret"
)

// prf is HMAC (RFC 2104) whose key-dependent state can be wiped. crypto/hmac
// leaves the padded key, that is DEK or volume key, on the garbage-collected
// heap, where the memory of the booted production system would still hold it.
// Not wiped: registers and the stack frames of the hash functions, which later
// calls overwrite; TestNoSecretsLeftInMemory searches for what is left.
type prf struct {
	inner, outer   hash.Hash
	istate, ostate *secret.Bytes // hash states after the padded key
	tmp            *secret.Bytes // inner digest
}

// newPRF keys an HMAC. wipe must be called.
func newPRF(newHash func() hash.Hash, key []byte) *prf {
	p := &prf{inner: newHash(), outer: newHash()}
	p.tmp = secret.New(p.inner.Size())
	pad := secret.New(p.inner.BlockSize())
	defer pad.Wipe()
	b := pad.Expose()
	if len(key) > len(b) {
		p.inner.Write(key)
		p.inner.Sum(b[:0])
		p.inner.Reset()
	} else {
		copy(b, key)
	}
	for i := range b {
		b[i] ^= 0x36
	}
	p.inner.Write(b)
	for i := range b {
		b[i] ^= 0x36 ^ 0x5c
	}
	p.outer.Write(b)
	p.istate, p.ostate = saveState(p.inner), saveState(p.outer)
	return p
}

// stateSize holds the marshaled state of SHA-256 (108 bytes) and SHA-512 (204).
const stateSize = 256

func saveState(h hash.Hash) *secret.Bytes {
	s := secret.New(stateSize)
	b, err := h.(encoding.BinaryAppender).AppendBinary(s.Expose()[:0])
	if err != nil || len(b) > stateSize {
		panic("luks2: the hash has no portable state") // not so for Go's SHA-2
	}
	out := secret.New(len(b))
	copy(out.Expose(), s.Expose())
	s.Wipe()
	return out
}

// sum appends HMAC(key, parts...) to dst, which should have room for it: what
// append allocates is not wiped.
func (p *prf) sum(dst []byte, parts ...[]byte) []byte {
	load(p.inner, p.istate)
	for _, b := range parts {
		p.inner.Write(b)
	}
	tmp := p.inner.Sum(p.tmp.Expose()[:0])
	load(p.outer, p.ostate)
	p.outer.Write(tmp)
	return p.outer.Sum(dst)
}

func load(h hash.Hash, state *secret.Bytes) {
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(state.Expose()); err != nil {
		panic("luks2: own hash state refused: " + err.Error())
	}
}

func (p *prf) wipe() {
	p.istate.Wipe()
	p.ostate.Wipe()
	p.tmp.Wipe()
	wipeHash(p.inner)
	wipeHash(p.outer)
}

// wipeHash overwrites a hash's chaining value and its buffer of one block: the
// odd first write makes the rest of the block pass through that buffer.
func wipeHash(h hash.Hash) {
	zero := make([]byte, h.BlockSize())
	h.Reset()
	h.Write(zero[:1])
	h.Write(zero[1:])
	h.Reset()
}

// pbkdf2 fills out with PBKDF2 (RFC 8018 §5.2) of the keyed prf. It stops when
// ctx ends.
func pbkdf2(ctx context.Context, p *prf, salt []byte, iterations uint32, out []byte) error {
	n := p.inner.Size()
	buf := secret.New(2 * n)
	defer buf.Wipe()
	u, t := buf.Expose()[:n], buf.Expose()[n:]
	for block := uint32(1); len(out) > 0; block++ {
		p.sum(u[:0], salt, binary.BigEndian.AppendUint32(nil, block))
		copy(t, u)
		for i := uint32(1); i < iterations; i++ {
			if i%4096 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			p.sum(u[:0], u)
			subtle.XORBytes(t, t, u)
		}
		out = out[copy(out, t):]
	}
	return ctx.Err()
}

// hkdfSecret derives n ≤ 32 bytes with HKDF-SHA256 (RFC 5869): one block of output.
func hkdfSecret(key *secret.Bytes, salt, info []byte, n int) *secret.Bytes {
	sha := newHash("sha256")
	prk := secret.New(sha().Size())
	defer prk.Wipe()
	extract := newPRF(sha, salt)
	defer extract.wipe()
	extract.sum(prk.Expose()[:0], key.Expose())
	expand := newPRF(sha, prk.Expose())
	defer expand.wipe()
	okm := secret.New(prk.Len())
	defer okm.Wipe()
	expand.sum(okm.Expose()[:0], info, []byte{1})
	out := secret.New(n)
	copy(out.Expose(), okm.Expose())
	return out
}

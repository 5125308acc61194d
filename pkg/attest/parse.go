package attest

import (
	"encoding/binary"
	"errors"
)

// Constants of TPM 2.0 Part 2; section in the comment.
const (
	generatedValue = 0xFF544347 // TPM_GENERATED_VALUE, 6.2
	stAttestQuote  = 0x8018     // TPM_ST_ATTEST_QUOTE, 6.9

	algRSA    = 0x0001 // TPM_ALG_ID, 6.3
	algSHA256 = 0x000B
	algNull   = 0x0010
	algECDSA  = 0x0018
	algECC    = 0x0023
	eccP256   = 0x0003 // TPM_ECC_CURVE, 6.4
)

// errShort is a structure that ends early; errTrailing one that goes on.
var (
	errShort    = errors.New("structure ends early")
	errTrailing = errors.New("bytes after the structure")
)

// reader takes a TPM structure apart: big-endian integers and TPM2B buffers. The
// first error sticks, and everything after it reads as zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n > len(r.b) {
		r.err = errShort
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() uint8 {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if v := r.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if v := r.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if v := r.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// sized reads a TPM2B: a 16-bit length, then as many bytes.
func (r *reader) sized() []byte { return r.take(int(r.u16())) }

// end reports the first error, or bytes that are left.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		return errTrailing
	}
	return r.err
}

package attest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
)

// TPMA_OBJECT bits (TPM 2.0 Part 2, 8.3).
const (
	fixedTPM            = 1 << 1
	stClear             = 1 << 2
	fixedParent         = 1 << 4
	sensitiveDataOrigin = 1 << 5
	restricted          = 1 << 16
	decrypt             = 1 << 17
	sign                = 1 << 18
)

// The symmetric algorithm of storage keys, and its mode (TPM_ALG_ID, Part 2, 6.3).
const algAES, algCFB = 0x0006, 0x0043

// ErrKey: a public area that is not the kind of key it is offered as.
var ErrKey = errors.New("TPM key is not of the required kind")

// AK is an attestation key: restricted, so that it signs only what the TPM
// itself made, and bound to its TPM.
type AK struct {
	name   string
	public *ecdsa.PublicKey
}

// Name is the key's TPM name in hex.
func (k *AK) Name() string { return k.name }

// Name returns the TPM name of a TPMT_PUBLIC in hex: nameAlg ‖ SHA-256(area)
// (TPM 2.0 Part 1, 16). Other name algorithms are refused.
func Name(tpmtPublic []byte) (string, error) {
	r := &reader{b: tpmtPublic}
	r.u16()
	if alg := r.u16(); r.err != nil || alg != algSHA256 {
		return "", fmt.Errorf("%w: name algorithm %#04x, expected SHA-256", ErrKey, alg)
	}
	d := sha256.Sum256(tpmtPublic)
	return hex.EncodeToString(append([]byte{0x00, algSHA256}, d[:]...)), nil
}

// public reads what all TPMT_PUBLIC begin with (TPM 2.0 Part 2, 12.2.4).
func (r *reader) public(alg uint16, must, mustNot uint32) error {
	if got := r.u16(); got != alg {
		return fmt.Errorf("%w: algorithm %#04x, expected %#04x", ErrKey, got, alg)
	}
	if got := r.u16(); got != algSHA256 {
		return fmt.Errorf("%w: name algorithm %#04x, expected SHA-256", ErrKey, got)
	}
	attrs := r.u32()
	if attrs&must != must || attrs&mustNot != 0 {
		return fmt.Errorf("%w: attributes %#08x lack %#x or have one of %#x", ErrKey, attrs, must&^attrs, mustNot)
	}
	r.sized() // authPolicy
	return nil
}

// ParseAK reads a TPMT_PUBLIC and refuses every key but an ECC P-256 one, ECDSA
// with SHA-256, restricted to signing what the TPM made, made inside that TPM
// and unable to leave it. That the TPM is genuine is shown by activating a
// credential, not here.
func ParseAK(tpmtPublic []byte) (*AK, error) {
	r := &reader{b: tpmtPublic}
	must := uint32(fixedTPM | fixedParent | sensitiveDataOrigin | restricted | sign)
	if err := r.public(algECC, must, decrypt|stClear); err != nil {
		return nil, err
	}
	// TPMS_ECC_PARMS, 12.2.3.6: a signing key has no symmetric algorithm.
	if sym, scheme, hash, curve, kdf := r.u16(), r.u16(), r.u16(), r.u16(), r.u16(); sym != algNull ||
		scheme != algECDSA || hash != algSHA256 || curve != eccP256 || kdf != algNull {
		return nil, fmt.Errorf("%w: not ECDSA with SHA-256 on P-256", ErrKey)
	}
	x, y := r.sized(), r.sized()
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	point, err := uncompressed(x, y)
	if err != nil {
		return nil, err
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	name, err := Name(tpmtPublic)
	if err != nil {
		return nil, err
	}
	return &AK{name: name, public: pub}, nil
}

// uncompressed is SEC 1, 2.3.3: 04 ‖ x ‖ y, each padded to 32 bytes; a TPM may
// drop leading zeros.
func uncompressed(x, y []byte) ([]byte, error) {
	if len(x) > 32 || len(y) > 32 {
		return nil, fmt.Errorf("%w: coordinates of %d and %d bytes", ErrKey, len(x), len(y))
	}
	p := make([]byte, 65)
	p[0] = 4
	copy(p[33-len(x):33], x)
	copy(p[65-len(y):], y)
	return p, nil
}

// ekPublic reads a TPMT_PUBLIC and refuses every key but an RSA-2048 storage
// key that cannot leave its TPM (TCG EK Credential Profile, template L-1).
func ekPublic(tpmtPublic []byte) (*rsa.PublicKey, error) {
	r := &reader{b: tpmtPublic}
	must := uint32(fixedTPM | fixedParent | sensitiveDataOrigin | restricted | decrypt)
	if err := r.public(algRSA, must, sign|stClear); err != nil {
		return nil, err
	}
	// TPMS_RSA_PARMS, 12.2.3.5: AES-128-CFB, no scheme, 2048 bits, exponent
	// 65537 written as 0.
	if sym, bits, mode, scheme := r.u16(), r.u16(), r.u16(), r.u16(); sym != algAES || bits != 128 || mode != algCFB || scheme != algNull {
		return nil, fmt.Errorf("%w: EK is not an AES-128-CFB storage key", ErrKey)
	}
	bits, exponent := r.u16(), r.u32()
	n := r.sized()
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	modulus := new(big.Int).SetBytes(n)
	if bits != 2048 || modulus.BitLen() != 2048 || (exponent != 0 && exponent != 65537) {
		return nil, fmt.Errorf("%w: EK is not RSA-2048 with exponent 65537", ErrKey)
	}
	return &rsa.PublicKey{N: modulus, E: 65537}, nil
}

package kekproto

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/secret"
)

// HPKEPublicSize is the length of an X25519 public key, in bytes.
const HPKEPublicSize = 32

// hpkeOverhead is the length of an encapsulated X25519 key and an AES-GCM tag.
const hpkeOverhead = 32 + 16

// ErrOpen is a sealed secret that does not open: it was made for another
// request, another key, or changed on the way.
var ErrOpen = errors.New("sealed answer does not open with this request's key")

// Info is the HPKE info string of an answer: the operation's label followed by
// the SHA-256 of the request, so that an answer serves no other request.
func Info(op Op, request []byte) []byte {
	sum := sha256.Sum256(request)
	return append([]byte(op.Label()), sum[:]...)
}

// Seal encrypts a secret to the X25519 public key of a request: HPKE base mode
// (RFC 9180, 5.1.1), DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, no
// AAD. The result is the encapsulated key (32 bytes), then the ciphertext.
func Seal(public, info []byte, s *secret.Bytes) ([]byte, error) {
	pk, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("HPKE public key of the request: %w", err)
	}
	sealed, err := hpke.Seal(pk, hpke.HKDFSHA256(), hpke.AES256GCM(), info, s.Expose())
	if err != nil {
		return nil, fmt.Errorf("seal the answer: %w", err)
	}
	return sealed, nil
}

// KeyPair is the receiver's side of one request: an ephemeral key that opens
// one answer. The receiver calls Wipe. Not wiped: the copies that crypto/ecdh
// and crypto/hpke make of it on the Go heap; who can search its memory for
// Private's bytes finds them.
type KeyPair struct {
	private *secret.Bytes // 32 bytes, any (RFC 7748, 5)
	public  []byte
}

// NewKeyPair makes the key of one request.
func NewKeyPair() (*KeyPair, error) {
	private := secret.Random(HPKEPublicSize)
	k, err := ecdh.X25519().NewPrivateKey(private.Expose())
	if err != nil {
		private.Wipe()
		return nil, fmt.Errorf("make the request's HPKE key: %w", err)
	}
	return &KeyPair{private: private, public: k.PublicKey().Bytes()}, nil
}

// Public returns the 32 bytes that go into Request.HPKEPublic.
func (k *KeyPair) Public() []byte { return k.public }

// Private returns the 32 bytes of the private key itself, not a copy: Wipe
// wipes them.
func (k *KeyPair) Private() *secret.Bytes { return k.private }

// Wipe overwrites the private key; nothing opens with it any more. It may be
// called often.
func (k *KeyPair) Wipe() { k.private.Wipe() }

// Open decrypts what Seal made into a secret of exactly n bytes.
func (k *KeyPair) Open(info, sealed []byte, n int) (*secret.Bytes, error) {
	if len(sealed) != n+hpkeOverhead {
		return nil, fmt.Errorf("sealed answer of %d bytes, want %d: %w", len(sealed), n+hpkeOverhead, ErrOpen)
	}
	private, err := hpke.DHKEM(ecdh.X25519()).NewPrivateKey(k.private.Expose())
	if err != nil {
		return nil, fmt.Errorf("%w: its private key is wiped", ErrOpen)
	}
	plain, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), info, sealed)
	if err != nil {
		return nil, ErrOpen
	}
	return secret.Take(plain), nil
}

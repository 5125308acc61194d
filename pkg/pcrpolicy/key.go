package pcrpolicy

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/landfall-project/landfall/pkg/signed"
)

// ParsePublicKey reads the policy key's public part as PEM SubjectPublicKeyInfo
// (RFC 7468, 13). A key that is not RSA is ErrKey; its size is judged where it
// is used.
func ParsePublicKey(text []byte) (*rsa.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("want a public key in PEM (PUBLIC KEY); it is %s", signed.Kind(text))
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	pub, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, ErrKey
	}
	return pub, nil
}

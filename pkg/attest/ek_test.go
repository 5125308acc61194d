package attest_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/landfall-project/landfall/pkg/attest"
)

// TestEKRefuses every key that is not a TPM's RSA-2048 storage key. A key that
// passes is refused for its certificate, which is none.
func TestEKRefuses(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	with := func(i int, v ...byte) []byte {
		b := bytes.Clone(d.ekPublic)
		copy(b[i:], v)
		return b
	}
	// Where the parameters begin, behind algorithms, attributes and a policy of
	// 32 bytes (TPM 2.0 Part 2, 12.2.4).
	const attributes, parameters = 4, 4 + 4 + 2 + 32
	if !bytes.Equal(d.ekPublic[parameters:parameters+4], []byte{0, 6, 0, 128}) {
		t.Fatalf("the parameters are not at %d: %x", parameters, d.ekPublic)
	}
	tests := []struct {
		name string
		area []byte
		want error
	}{
		{"as it is", d.ekPublic, attest.ErrEKCert},
		{"exponent written out", with(parameters+10, 0, 1, 0, 1), attest.ErrEKCert},
		{"empty", nil, attest.ErrKey},
		{"AK", d.akPublic, attest.ErrKey},
		{"signs as well", with(attributes+1, d.ekPublic[attributes+1]|4), attest.ErrKey},
		{"cleared at restart", with(attributes+3, d.ekPublic[attributes+3]|4), attest.ErrKey},
		{"not restricted", with(attributes+1, d.ekPublic[attributes+1]&^1), attest.ErrKey},
		{"may leave its TPM", with(attributes+3, d.ekPublic[attributes+3]&^2), attest.ErrKey},
		{"no symmetric cipher", with(parameters, 0, 0x10), attest.ErrKey},
		{"AES-256", with(parameters+2, 1, 0), attest.ErrKey},
		{"CBC", with(parameters+4, 0, 0x42), attest.ErrKey},
		{"with a scheme", with(parameters+6, 0, 0x17), attest.ErrKey},
		{"says 3072 bits", with(parameters+8, 0x0c, 0), attest.ErrKey},
		{"exponent 3", with(parameters+10, 0, 0, 0, 3), attest.ErrKey},
		{"modulus of 2047 bits", with(parameters+16, 0x7f), attest.ErrKey},
		{"cut", d.ekPublic[:len(d.ekPublic)-1], attest.ErrKey},
		{"goes on", append(bytes.Clone(d.ekPublic), 0), attest.ErrKey},
	}
	for _, tt := range tests {
		if err := attest.CheckEKCert(nil, tt.area, x509.NewCertPool()); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
}

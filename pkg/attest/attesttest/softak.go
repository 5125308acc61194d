// Package attesttest quotes in software, for tests that need many quotes or
// exact counts: a TPM makes a few a second. That quotes of real TPMs are accepted,
// and others are not, is tested with swtpm.
package attesttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"math/big"
	"testing"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekproto"
)

// SoftAK is an attestation key, and what its TPM would say of itself.
type SoftAK struct {
	PCRs           map[int][]byte
	Reset, Restart uint32 // counts
	key            *ecdsa.PrivateKey
}

// New makes a key of a TPM with these PCRs.
func New(t testing.TB, pcrs map[int][]byte) *SoftAK {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &SoftAK{key: key, PCRs: pcrs}
}

func sized(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(v))), v...)
}

// Public is a TPMT_PUBLIC (TPM 2.0 Part 2, 12.2.4) of a restricted P-256 key.
func (k *SoftAK) Public(t testing.TB) []byte {
	t.Helper()
	point, err := k.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b := []byte{0, 0x23, 0, 0x0b, 0, 5, 0, 0x72, 0, 0} // ECC, SHA-256, attributes, no policy
	b = append(b, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10)
	return sized(sized(b, point[1:33]), point[33:])
}

// Quote implements kekclient.Quoter (TPMS_ATTEST, Part 2, 10.12.12).
func (k *SoftAK) Quote(qualifying []byte) (kekproto.Quote, error) {
	b := []byte{0xff, 'T', 'C', 'G', 0x80, 0x18}
	b = sized(sized(b, []byte{0, 0x0b}), qualifying)
	b = append(b, make([]byte, 8)...) // clock
	b = binary.BigEndian.AppendUint32(b, k.Reset)
	b = binary.BigEndian.AppendUint32(b, k.Restart)
	b = append(b, make([]byte, 1+8)...) // safe, firmware version
	b = append(b, 0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0)
	h := sha256.New()
	for _, n := range attest.Selection() {
		b[len(b)-3+n/8] |= 1 << (n % 8)
		h.Write(k.PCRs[n])
	}
	b = sized(b, h.Sum(nil))
	digest := sha256.Sum256(b)
	r, s, err := ecdsa.Sign(rand.Reader, k.key, digest[:])
	if err != nil {
		return kekproto.Quote{}, err
	}
	pad := func(i *big.Int) []byte { return i.FillBytes(make([]byte, 32)) }
	return kekproto.Quote{Attest: b, Signature: sized(sized([]byte{0, 0x18, 0, 0x0b}, pad(r)), pad(s)), PCRs: k.PCRs}, nil
}

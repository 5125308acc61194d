package attest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// CredentialSize is the length of the secret in a credential, in bytes.
const CredentialSize = 32

// ErrEKCert: the EK certificate does not vouch for this EK. Have an operator
// compare and approve the EK by hand, or reject the machine.
var ErrEKCert = errors.New("EK certificate does not vouch for this TPM")

// MakeCredential encrypts secret so that only the TPM that holds both the EK
// and an object of that name can open it (TPM 2.0 Part 1, 24). ekPublic is a
// TPMT_PUBLIC, akName hex as Name returns it, secret CredentialSize bytes. The
// results are the contents of TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.
func MakeCredential(ekArea []byte, akName string, secret []byte) (credential, encrypted []byte, err error) {
	if _, err := ekPublic(ekArea); err != nil {
		return nil, nil, err
	}
	if len(secret) != CredentialSize {
		return nil, nil, fmt.Errorf("credential of %d bytes, expected %d", len(secret), CredentialSize)
	}
	name, err := hex.DecodeString(akName)
	if err != nil || len(name) != 34 {
		return nil, nil, fmt.Errorf("%w: name %q", ErrKey, akName)
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](ekArea)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	key, err := tpm2.ImportEncapsulationKey(area)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	credential, encrypted, err = tpm2.CreateCredential(rand.Reader, key, name, secret)
	if err != nil {
		return nil, nil, fmt.Errorf("make credential: %w", err)
	}
	return credential, encrypted, nil
}

// CheckEKCert checks that cert (DER) certifies the EK (TPMT_PUBLIC) and chains
// to one of roots, with the intermediates given beside it. The chain is judged
// as of the certificate's own notBefore: many EK certificates have run out
// before the machine was built, and clocks are not trusted. Revocation is not
// looked at.
func CheckEKCert(cert, ekArea []byte, roots *x509.CertPool, intermediates ...*x509.Certificate) error {
	ek, err := ekPublic(ekArea)
	if err != nil {
		return err
	}
	c, err := ParseEKCert(cert)
	if err != nil {
		return err
	}
	pub, ok := c.PublicKey.(*rsa.PublicKey)
	if !ok || !pub.Equal(ek) {
		return fmt.Errorf("%w: it is for another key", ErrEKCert)
	}
	pool := x509.NewCertPool()
	for _, i := range intermediates {
		pool.AddCert(i)
	}
	_, err = c.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: pool,
		CurrentTime:   c.NotBefore,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEKCert, err)
	}
	return nil
}

// ParseEKCert reads the certificate in DER; what an NV index holds beyond the
// certificate is padding. A subject alternative name that only holds a
// directory name is what the TCG EK Credential Profile (3.2.9) asks for, and
// what crypto/x509 reports as an unhandled critical extension.
func ParseEKCert(der []byte) (*x509.Certificate, error) {
	var raw asn1.RawValue
	if _, err := asn1.Unmarshal(der, &raw); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEKCert, err)
	}
	c, err := x509.ParseCertificate(bytes.Clone(raw.FullBytes))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEKCert, err)
	}
	san := asn1.ObjectIdentifier{2, 5, 29, 17}
	c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, san.Equal)
	return c, nil
}

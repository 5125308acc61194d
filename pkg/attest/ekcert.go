package attest

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// ErrEKCert: the EK certificate does not vouch for this EK. Have an operator
// compare and approve the EK by hand, or reject the machine.
var ErrEKCert = errors.New("EK certificate does not vouch for this TPM")

func refuseCert(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrEKCert, fmt.Errorf(format, args...))
}

// CheckEKCert checks that cert certifies the EK (TPMT_PUBLIC), that it is an EK
// certificate by the TCG EK Credential Profile ("the profile"), and that it
// chains to one of roots, with the intermediates given beside it. The chain is
// judged as of the certificate's own notBefore: many EK certificates have run out
// before the machine was built, and clocks are not trusted. Revocation is not
// looked at.
//
// It shows that a maker vouches for this TPM. It does not show whose TPM it is:
// every TPM of that maker has such a certificate. Which ones were ordered, a
// Delivery says.
func CheckEKCert(cert, ekArea []byte, roots *x509.CertPool, intermediates ...*x509.Certificate) error {
	ek, err := ekPublic(ekArea)
	if err != nil {
		return err
	}
	c, err := ParseEKCert(cert)
	if err != nil {
		return err
	}
	if err := certifies(c, ek); err != nil {
		return err
	}
	if err := checkProfile(c); err != nil {
		return err
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
		return refuseCert("%w", err)
	}
	return nil
}

// certifies compares the certificate's key with the EK. Some makers write the
// key's algorithm as id-RSAES-OAEP (RFC 4055, 4.1), which is what the EK does, and
// which crypto/x509 leaves alone; the key below it is written as any RSA key.
func certifies(c *x509.Certificate, ek *rsa.PublicKey) error {
	pub := c.PublicKey
	if pub == nil {
		var spki struct {
			Algorithm pkix.AlgorithmIdentifier
			Key       asn1.BitString
		}
		if _, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &spki); err != nil {
			return refuseCert("its key: %w", err)
		}
		if !spki.Algorithm.Algorithm.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}) {
			return refuseCert("it is for a key of the algorithm %v, which is not known here", spki.Algorithm.Algorithm)
		}
		key, err := x509.ParsePKCS1PublicKey(spki.Key.RightAlign())
		if err != nil {
			return refuseCert("its key: %w", err)
		}
		pub = key
	}
	key, ok := pub.(*rsa.PublicKey)
	switch {
	case !ok:
		return refuseCert("it is for an %v key: only that of the RSA EK counts", c.PublicKeyAlgorithm)
	case !key.Equal(ek):
		return refuseCert("it is for another key")
	}
	return nil
}

// firstTPM2 is before any TPM 2.0 was made.
func firstTPM2() time.Time { return time.Date(2012, 1, 1, 0, 0, 0, 0, time.UTC) }

// checkProfile refuses what a maker's root signs beside EK certificates: its CAs,
// and certificates for other ends. A signature with SHA-1 is named here, since
// crypto/x509 would say that the authority is unknown.
func checkProfile(c *x509.Certificate) error {
	ekCertificate := asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
	switch {
	case c.IsCA:
		return refuseCert("it is a CA's, not a TPM's")
	case !slices.ContainsFunc(c.UnknownExtKeyUsage, ekCertificate.Equal):
		return refuseCert("its extended key usage lacks tcg-kp-EKCertificate (2.23.133.8.1): it was issued for something else")
	case c.NotBefore.Before(firstTPM2()):
		return refuseCert("it is valid from %s, when there was no TPM 2.0", c.NotBefore.Format(time.DateOnly))
	case c.SignatureAlgorithm == x509.SHA1WithRSA || c.SignatureAlgorithm == x509.ECDSAWithSHA1:
		return refuseCert("it is signed with SHA-1 (%v), which the profile does not allow and which can be forged", c.SignatureAlgorithm)
	case len(c.UnhandledCriticalExtensions) > 0:
		return refuseCert("it has a critical extension that is not known here: %v", c.UnhandledCriticalExtensions[0])
	}
	return nil
}

// ParseEKCert reads a certificate as an NV index holds it: DER, behind it
// padding, and with TPMs of some makers a header before it.
func ParseEKCert(b []byte) (*x509.Certificate, error) {
	b, err := withoutHeader(b)
	if err != nil {
		return nil, err
	}
	var raw asn1.RawValue
	if _, err := asn1.Unmarshal(b, &raw); err != nil {
		return nil, refuseCert("no certificate in DER: %w", err)
	}
	c, err := parseAnySerial(bytes.Clone(raw.FullBytes))
	if err != nil {
		return nil, refuseCert("%w", err)
	}
	// What the profile has in an EK certificate and crypto/x509 leaves alone: a
	// subject alternative name that only holds a directory name (maker, model and
	// version of the TPM), and subject directory attributes (the specification
	// that it follows). Some makers make these critical.
	known := []asn1.ObjectIdentifier{{2, 5, 29, 17}, {2, 5, 29, 9}}
	c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, func(id asn1.ObjectIdentifier) bool {
		return slices.ContainsFunc(known, id.Equal)
	})
	return c, nil
}

// withoutHeader drops the header of TCG_PCCLIENT_STORED_CERT (TCG PC Client
// Implementation Specification for Conventional BIOS): tag 10 01, type 00 for a whole
// certificate, its length as 16 bits big-endian, and sometimes tag 10 02.
func withoutHeader(b []byte) ([]byte, error) {
	if !bytes.HasPrefix(b, []byte{0x10, 0x01}) {
		return b, nil
	}
	const size = 5
	if len(b) < size || b[2] != 0 {
		return nil, refuseCert("the TPM holds a part of a certificate only")
	}
	n := int(binary.BigEndian.Uint16(b[3:]))
	if n > len(b)-size {
		return nil, refuseCert("it is cut off: its header speaks of %d bytes, there are %d", n, len(b)-size)
	}
	return bytes.TrimPrefix(b[size:size+n], []byte{0x10, 0x02}), nil
}

// parseAnySerial is x509.ParseCertificate, which refuses the negative serial
// numbers that some makers' certificates have, for such too: it is given another
// serial number to parse, and what was signed is put back.
func parseAnySerial(der []byte) (*x509.Certificate, error) {
	edited := bytes.Clone(der)
	var cert, tbs, serial asn1.RawValue
	if _, err := asn1.Unmarshal(edited, &cert); err != nil {
		return nil, err
	}
	if _, err := asn1.Unmarshal(cert.Bytes, &tbs); err != nil {
		return nil, err
	}
	rest, err := asn1.Unmarshal(tbs.Bytes, &serial)
	if err == nil && serial.Class == asn1.ClassContextSpecific { // the version
		_, err = asn1.Unmarshal(rest, &serial)
	}
	if err != nil || serial.Class != asn1.ClassUniversal || serial.Tag != asn1.TagInteger || len(serial.Bytes) == 0 || serial.Bytes[0] < 0x80 {
		return x509.ParseCertificate(der)
	}
	var number *big.Int
	if _, err := asn1.Unmarshal(serial.FullBytes, &number); err != nil {
		return nil, err
	}
	serial.Bytes[0] = 0x7f // these are the bytes of edited
	c, err := x509.ParseCertificate(edited)
	if err != nil {
		return nil, err
	}
	from := len(der) - len(cert.Bytes)
	c.Raw, c.RawTBSCertificate, c.SerialNumber = der, der[from:from+len(tbs.FullBytes)], number
	return c, nil
}

// SameEK says whether two public areas (TPMT_PUBLIC) are of one EK: of one key,
// whatever else is said of it.
func SameEK(a, b []byte) bool {
	x, err1 := ekPublic(a)
	y, err2 := ekPublic(b)
	return err1 == nil && err2 == nil && x.Equal(y)
}

package fleetdir

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/landfall-project/landfall/pkg/signed"
)

// Validity of all certificates: from before any clock starts to never (RFC
// 5280, 4.1.2.5). Trust ends by a newer slice or configuration, not by a date.
func notBefore() time.Time { return time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC) }
func notAfter() time.Time  { return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) }

func serial() (*big.Int, error) { return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) }

// newCA makes the fleet CA's certificate: it signs leaves only.
func newCA(region string, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	n, err := serial()
	if err != nil {
		return nil, fmt.Errorf("fleet CA: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: "Landfall fleet CA " + region},
		NotBefore: notBefore(), NotAfter: notAfter(),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("fleet CA: %w", err)
	}
	return x509.ParseCertificate(der)
}

func newLeaf(ca *x509.Certificate, caKey *ecdsa.PrivateKey, public *ecdsa.PublicKey, name string, dns []string, usage x509.ExtKeyUsage) ([]byte, error) {
	n, err := serial()
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", name, err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: name}, DNSNames: dns,
		NotBefore: notBefore(), NotAfter: notAfter(),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, public, caKey)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", name, err)
	}
	return der, nil
}

func pemCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// parseCerts reads all certificates of a PEM file.
func parseCerts(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("want certificates in PEM; one part of it is %s", signed.Shown(block.Type))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("want certificates in PEM; the one after %d others is damaged: %w", len(out), err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("want certificates in PEM; it is %s", signed.Kind(text))
	}
	return out, nil
}

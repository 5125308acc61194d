package fleetdir

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/fleet"
)

// TestRootsWithOldHashes: old makers signed their roots with SHA-1. A root's own
// signature decides nothing, so it is a root nevertheless, and an intermediate
// beside it is none.
func TestRootsWithOldHashes(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ca := func(name string, alg x509.SignatureAlgorithm, issuer *x509.Certificate) (c *x509.Certificate, der []byte) {
		c = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign, SignatureAlgorithm: alg, NotAfter: time.Now().Add(time.Hour)}
		if issuer == nil {
			issuer = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, issuer, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		return c, der
	}
	root, rootDER := ca("root", x509.SHA1WithRSA, nil)
	_, issuerDER := ca("issuer", x509.SHA256WithRSA, root)
	var text []byte
	for _, der := range [][]byte{rootDER, issuerDER} {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	file := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := new(fleet.Rules)
	if err := loadRoots(file, cfg); err != nil {
		t.Fatal(err)
	}
	want := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(rootDER)
	if err != nil {
		t.Fatal(err)
	}
	want.AddCert(parsed)
	if !cfg.EKRoots.Equal(want) || len(cfg.EKIssuers) != 1 || cfg.EKIssuers[0].Subject.CommonName != "issuer" {
		t.Errorf("%d intermediates, and not that one root", len(cfg.EKIssuers))
	}
}

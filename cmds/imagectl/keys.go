package main

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"github.com/landfall-project/landfall/pkg/pcrpolicy"
)

func keyFile(given, region, name string) string {
	if given != "" {
		return given
	}
	return filepath.Join(region, name)
}

// readPolicyKey reads an RSA key in PEM (PKCS #8 or PKCS #1).
func readPolicyKey(name string) (*rsa.PrivateKey, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM key", name)
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: no RSA key in PKCS #8 or PKCS #1", name)
	}
	rsaKey, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, pcrpolicy.ErrKey)
	}
	return rsaKey, nil
}

func readPolicyPublic(name string) (*rsa.PublicKey, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	pub, err := pcrpolicy.ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return pub, nil
}

package main

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/signed"
)

func keyFile(given, region, name string) string {
	if given != "" {
		return given
	}
	return filepath.Join(region, name)
}

// elsewhere says how to name a key that is not in the region's folder, where
// nobody named another place.
func elsewhere(err error, name, given, flag string) error {
	if given == "" {
		return files.MovedAway(err, name, flag)
	}
	return err
}

// readPolicyKey reads an RSA key in PEM (PKCS #8 or PKCS #1).
func readPolicyKey(name string) (*rsa.PrivateKey, error) {
	text, err := files.Secret(name)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: want an RSA key in PEM, such as offline/policy.key of the region's folder; it is %s", name, signed.Kind(text))
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: want an RSA key in PKCS #8 or PKCS #1, such as offline/policy.key of the region's folder; it is %s", name, signed.Kind(text))
	}
	rsaKey, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: %w, such as offline/policy.key of the region's folder", name, pcrpolicy.ErrKey)
	}
	return rsaKey, nil
}

// maxKey bounds a public key, in bytes.
const maxKey = 16 << 10

func readPolicyPublic(name string) (*rsa.PublicKey, error) {
	text, err := files.Read(name, maxKey)
	if err != nil {
		return nil, err
	}
	pub, err := pcrpolicy.ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; put the one back that `kekctl init` wrote", name, err)
	}
	return pub, nil
}

// readSigner reads a note key.
func readSigner(name string) (note.Signer, error) {
	text, err := files.Secret(name)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	s, err := signed.ParseSigner(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; manifests are signed with offline/manifest.key of the region's folder, boot entries with a key that `imagectl entry key` makes", name, err)
	}
	return s, nil
}

// kindOf is what a note key is for, by its name: REGION/root, REGION/manifest,
// agent/NAME. All others are the region's own to name.
func kindOf(key string) string {
	region, kind, _ := strings.Cut(key, "/")
	if region == "agent" {
		return "agent"
	}
	return kind
}

// manifestSigner reads the key that signs manifests, and refuses one that is for
// something else, or is not the region's.
func (in *signInput) manifestSigner() (note.Signer, error) {
	name := keyFile(in.manifestKey, in.region, "offline/manifest.key")
	s, err := readSigner(name)
	if err != nil {
		return nil, elsewhere(err, name, in.manifestKey, "--manifest-key")
	}
	if kindOf(s.Name()) != "manifest" {
		return nil, fmt.Errorf("%s holds the key %s, which signs something else: a manifest is signed with offline/manifest.key of the region's folder", name, s.Name())
	}
	if in.region == "" {
		return s, nil
	}
	v, err := manifestVerifier(in.region)
	if err != nil {
		return nil, err
	}
	if v.Name() != s.Name() || v.KeyHash() != s.KeyHash() {
		return nil, fmt.Errorf("%s holds the key %s, which is not the one of %s: no fleet of that region takes what it signs", name, s.Name(), filepath.Join(in.region, "public/manifest.pub"))
	}
	return s, nil
}

// policySigner reads the key that signs PCR policies.
func (in *signInput) policySigner() (*rsa.PrivateKey, error) {
	name := keyFile(in.pcrsKey, in.region, "offline/policy.key")
	key, err := readPolicyKey(name)
	if err != nil || in.region == "" {
		return key, elsewhere(err, name, in.pcrsKey, "--policy-key")
	}
	public := filepath.Join(in.region, "public/policy.pub")
	pub, err := readPolicyPublic(public)
	if err != nil {
		return nil, err
	}
	if !pub.Equal(&key.PublicKey) {
		return nil, fmt.Errorf("%s is not the key of %s: no TPM of that region takes what it signs", name, public)
	}
	return key, nil
}

package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// makeRegion writes what init reads of a region's folder, and what that region
// signed: slices u12.note and u13.note, a slice by a namesake of its root, and
// policies, one of them by another key.
func makeRegion(dir string) error {
	region := &snapshot.Region{Type: snapshot.RegionType, Name: "north", Members: []snapshot.Member{{ID: "kek-1", URL: "https://10.0.7.2:7443"}}}
	ca, err := newCA()
	if err != nil {
		return err
	}
	text, err := signed.Marshal(region)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"north/public/region.json": text,
		"north/public/ca.pem":      pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca}),
	}
	for _, names := range [][]string{{"u12.note", "u13.note"}, {"namesake.note"}} {
		skey, vkey, err := note.GenerateKey(rand.Reader, "north/root")
		if err != nil {
			return err
		}
		if len(names) == 2 {
			files["north/public/root.pub"] = []byte(vkey + "\n")
		}
		for i, name := range names {
			if files[name], err = signedSlice([]string{"r07-u12", "r07-u13"}[i], region, ca, skey); err != nil {
				return err
			}
		}
	}
	for _, role := range []measure.Role{measure.RoleServer, measure.RoleFactory} {
		if err := addPolicy(files, role); err != nil {
			return err
		}
	}
	for name, b := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func newCA() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fleet CA"}, NotAfter: time.Unix(1<<33, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	return x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
}

// signedSlice is slice 4 of a device.
func signedSlice(id string, region *snapshot.Region, ca []byte, key string) ([]byte, error) {
	s, err := snapshot.ParseDescription([]byte(`{"device": {"id": "` + id + `", "roles": ["server"]}, "generation": 4,
		"amendment": {"replaces": "` + hex.EncodeToString(make([]byte, 32)) + `", "reason": "test"},
		"interfaces": [{"name": "eth0", "mac": "52:54:00:00:00:01", "addresses": ["10.0.7.12/24"]}],
		"volumes": [{"name": "root", "use": "root", "need": "required"}]}`))
	if err != nil {
		return nil, err
	}
	name := func(s string) string {
		h := sha256.Sum256([]byte(s))
		return "000b" + hex.EncodeToString(h[:])
	}
	if err := s.Complete(region, ca, snapshot.TPMKeys{EKName: name("ek"), AKName: name("ak"), SRKName: name("srk"), SRKPublic: []byte("srk")}); err != nil {
		return nil, err
	}
	signer, err := note.NewSigner(key)
	if err != nil {
		return nil, err
	}
	return snapshot.SignSlice(s, signer)
}

// addPolicy makes ROLE.policy. The policy key is made once, for the first role;
// foreign.policy is by another.
func addPolicy(files map[string][]byte, role measure.Role) error {
	m := &measure.Manifest{Type: measure.ManifestType, Image: "landfall-" + string(role), Version: "1.4", Role: role,
		Form: measure.FormEFIKernel, PCRs: map[int]measure.Hex{}}
	for _, n := range measure.ImagePCRs() {
		m.PCRs[n] = bytes.Repeat([]byte{byte(n)}, measure.Size)
	}
	key, err := policyKey(files)
	if err != nil {
		return err
	}
	if files[string(role)+".policy"], err = pcrpolicy.Sign(key, m); err != nil {
		return err
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	files["foreign.policy"], err = pcrpolicy.Sign(other, m)
	return err
}

func policyKey(files map[string][]byte) (*rsa.PrivateKey, error) {
	const name = "policy.key"
	if der, ok := files[name]; ok {
		return x509.ParsePKCS1PrivateKey(der)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	files[name] = x509.MarshalPKCS1PrivateKey(key)
	files["north/public/policy.pub"] = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	return key, err
}

// made reads what makeRegion wrote.
func (l *lab) made(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(filepath.Dir(l.path()), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

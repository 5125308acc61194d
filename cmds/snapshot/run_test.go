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
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"snapshot": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: func(env *testscript.Env) error {
		return makeRegion(env.WorkDir)
	}})
}

// makeRegion writes a region folder as kekctl init does, and a device's record.
func makeRegion(dir string) error {
	region := snapshot.Region{Type: snapshot.RegionType, Name: "north",
		Members: []snapshot.Member{{ID: "kek-1", URL: "https://10.0.7.2:7443"}}}
	sum := func(s string) string {
		h := sha256.Sum256([]byte(s))
		return "000b" + hex.EncodeToString(h[:])
	}
	record := kekproto.DeviceInfo{Device: "r07-u12", Enrolled: true,
		EKName: sum("ek"), AKName: sum("ak"), SRKName: sum("srk"), SRKPublic: []byte("srk")}
	stranger := record
	stranger.Enrolled = false
	rack := []kekproto.DeviceInfo{}
	for _, id := range []string{"r07-u01", "r07-u12", "r07-u13", "r07-u14"} {
		rack = append(rack, kekproto.DeviceInfo{Device: id, Enrolled: true,
			EKName: sum("ek" + id), AKName: sum("ak" + id), SRKName: sum("srk" + id), SRKPublic: []byte("srk" + id)})
	}
	replaced := rack[3]
	replaced.EKName, replaced.AKName, replaced.SRKName, replaced.SRKPublic = sum("ek new"), sum("ak new"), sum("srk new"), []byte("srk new")
	root, rootPub, err := note.GenerateKey(rand.Reader, "north/root")
	if err != nil {
		return err
	}
	other, otherPub, err := note.GenerateKey(rand.Reader, "south/root")
	if err != nil {
		return err
	}
	namesake, _, err := note.GenerateKey(rand.Reader, "north/root")
	if err != nil {
		return err
	}
	manifest, _, err := note.GenerateKey(rand.Reader, "north/manifest")
	if err != nil {
		return err
	}
	second, secondPub, err := note.GenerateKey(rand.Reader, "north/operations")
	if err != nil {
		return err
	}
	demanding := region
	demanding.AmendKeys = []string{secondPub}
	ca, err := caPEM()
	if err != nil {
		return err
	}
	block, _ := pem.Decode(ca)
	station, err := (&snapshot.Station{Type: snapshot.StationType, Fleet: snapshot.Fleet{CA: block.Bytes, Members: region.Members},
		Source: &snapshot.Source{URL: "https://10.9.0.1:8443", CA: block.Bytes}}).Bytes()
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"station.json":           station,
		"north/offline/root.key": []byte(root + "\n"),
		"north/public/root.pub":  []byte(rootPub + "\n"),
		"south.pub":              []byte(otherPub + "\n"),
		"second.key":             []byte(second + "\n"),
		"south.key":              []byte(other + "\n"),
		"namesake.key":           []byte(namesake + "\n"),
		"manifest.key":           []byte(manifest + "\n"),
		"north/public/ca.pem":    ca,
	}
	if err := addPolicies(files); err != nil {
		return err
	}
	for name, v := range map[string]any{"north/public/region.json": region, "record.json": record, "new.json": stranger,
		"records.json": rack, "replaced.json": replaced, "demanding.json": demanding} {
		if files[name], err = json.Marshal(v); err != nil {
			return err
		}
	}
	for name, b := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// addPolicies makes a policy key, a policy that it signed and one that another
// key signed.
func addPolicies(files map[string][]byte) error {
	m := &measure.Manifest{Type: measure.ManifestType, Image: "landfall-server", Version: "1.4", Role: measure.RoleServer,
		Form: measure.FormEFIKernel, PCRs: map[int]measure.Hex{}}
	for _, n := range measure.ImagePCRs() {
		m.PCRs[n] = bytes.Repeat([]byte{byte(n)}, measure.Size)
	}
	for _, name := range []string{"good.policy", "other.policy"} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return err
		}
		if files[name], err = pcrpolicy.Sign(key, m); err != nil {
			return err
		}
		if name != "good.policy" {
			continue
		}
		public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			return err
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		files["north/public/policy.pub"] = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
		files["policy.key"] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	}
	return nil
}

func caPEM() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "north fleet CA"},
		NotAfter: time.Unix(1<<32, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

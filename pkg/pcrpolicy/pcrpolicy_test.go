package pcrpolicy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/signed"
)

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func manifest() *measure.Manifest {
	m := &measure.Manifest{
		Type: measure.ManifestType, Image: "landfall-server", Version: "1.4",
		Role: measure.RoleServer, Form: measure.FormEFIKernel, PCRs: map[int]measure.Hex{},
	}
	for _, n := range measure.ImagePCRs() {
		m.PCRs[n] = bytes.Repeat([]byte{byte(n)}, measure.Size)
	}
	return m
}

func values() map[int][]byte {
	p := map[int][]byte{0: make([]byte, 32), 8: make([]byte, 32)}
	for n, v := range manifest().PCRs {
		p[n] = v
	}
	return p
}

// TestAgainstGoTPM computes the same digests with an independent calculator.
func TestAgainstGoTPM(t *testing.T) {
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	var concat []byte
	for _, n := range measure.ImagePCRs() {
		concat = append(concat, values()[n]...)
	}
	h, err := tpm2.TPMAlgSHA256.Hash()
	if err != nil {
		t.Fatal(err)
	}
	sum := h.New()
	sum.Write(concat)
	err = tpm2.PolicyPCR{
		PcrDigest: tpm2.TPM2BDigest{Buffer: sum.Sum(nil)},
		Pcrs: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
			Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(4, 9, 11, 12),
		}}},
	}.Update(calc)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := Compute(values()), calc.Hash().Digest; !bytes.Equal(got, want) {
		t.Errorf("Compute: got %x, want %x", got, want)
	}

	key := rsaKey(t, 2048)
	area, err := KeyPublic(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
	if err != nil {
		t.Fatal(err)
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		t.Fatal(err)
	}
	calc.Reset()
	err = tpm2.PolicyAuthorize{KeySign: *name, PolicyRef: tpm2.TPM2BDigest{Buffer: Ref()}}.Update(calc)
	if err != nil {
		t.Fatal(err)
	}
	got, err := AuthorizePolicy(&key.PublicKey)
	if err != nil || !bytes.Equal(got, calc.Hash().Digest) {
		t.Errorf("AuthorizePolicy: got %x, %v, want %x", got, err, calc.Hash().Digest)
	}
}

func TestSignParseVerify(t *testing.T) {
	key, other := rsaKey(t, 2048), rsaKey(t, 2048)
	doc, err := Sign(key, manifest())
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Verify(&key.PublicKey); err != nil {
		t.Error(err)
	}
	if err := p.Verify(&other.PublicKey); !errors.Is(err, ErrPolicy) {
		t.Errorf("another key: got %v, want ErrPolicy", err)
	}
	if !bytes.Equal(p.Digest, Compute(values())) {
		t.Error("the policy is over other values than the manifest's")
	}
}

func TestSignRefuses(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Sign(ec, manifest()); !errors.Is(err, ErrKey) {
		t.Errorf("ECDSA key: got %v, want ErrKey", err)
	}
	if _, err := Sign(rsaKey(t, 3072), manifest()); !errors.Is(err, ErrKey) {
		t.Errorf("RSA-3072 key: got %v, want ErrKey", err)
	}
	m := manifest()
	m.PCRs[measure.CapPCR] = measure.Extend(make([]byte, 32), measure.CapDigest())
	if _, err := Sign(rsaKey(t, 2048), m); err == nil || !strings.Contains(err.Error(), "image manifest is not valid") {
		t.Errorf("capped value: got %v, want that the manifest is not valid", err)
	}
}

func TestSelect(t *testing.T) {
	key := rsaKey(t, 2048)
	var policies []*Policy
	for i := range 3 {
		m := manifest()
		m.PCRs[9] = bytes.Repeat([]byte{byte(100 + i)}, 32)
		doc, err := Sign(key, m)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Parse(doc)
		if err != nil {
			t.Fatal(err)
		}
		policies = append(policies, p)
	}
	v := values()
	if _, err := Select(policies, v); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("no policy fits: got %v, want ErrNoPolicy", err)
	}
	v[9] = bytes.Repeat([]byte{101}, 32)
	if got, err := Select(policies, v); err != nil || got != policies[1] {
		t.Errorf("got %v, %v, want the second", got, err)
	}
	v[12] = measure.Extend(v[12], measure.CapDigest())
	if _, err := Select(policies, v); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("capped: got %v, want ErrNoPolicy", err)
	}
	delete(v, 12)
	if _, err := Select(policies, v); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("PCR missing: got %v, want ErrNoPolicy", err)
	}
}

// vectors is testdata/vectors.json.
type vectors struct {
	Key     string                 `json:"key"`      // PEM
	KeyName string                 `json:"key_name"` // hex
	Policy  string                 `json:"auth_policy"`
	PCRs    map[int]measure.Hex    `json:"pcrs"`
	Files   map[string]vectorEntry `json:"files"`
}

type vectorEntry struct {
	Error string `json:"error,omitempty"` // "": parses and verifies; parse; verify
	Fits  bool   `json:"fits,omitempty"`  // approves vectors.PCRs
}

func TestVectors(t *testing.T) {
	file, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(file, &v); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(v.Key))
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key := parsed.(*rsa.PublicKey)
	name, err := KeyName(key)
	if err != nil || hex.EncodeToString(name) != v.KeyName {
		t.Errorf("KeyName: got %x, %v, want %s", name, err, v.KeyName)
	}
	policy, err := AuthorizePolicy(key)
	if err != nil || hex.EncodeToString(policy) != v.Policy {
		t.Errorf("AuthorizePolicy: got %x, %v, want %s", policy, err, v.Policy)
	}
	pcrs := map[int][]byte{}
	for n, value := range v.PCRs {
		pcrs[n] = value
	}
	for name, want := range v.Files {
		t.Run(name, func(t *testing.T) {
			doc, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			got, p := vectorEntry{}, (*Policy)(nil)
			if p, err = Parse(doc); err != nil {
				got.Error = "parse"
			} else {
				if p.Verify(key) != nil {
					got.Error = "verify"
				}
				_, err := Select([]*Policy{p}, pcrs)
				got.Fits = err == nil
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzPolicy(f *testing.F) {
	key := rsaKey(f, 2048)
	doc, err := Sign(key, manifest())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(doc)
	f.Add(bytes.Replace(doc, []byte("4,"), []byte("10,"), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		if p.Verify(&key.PublicKey) == nil && !bytes.Equal(p.Digest, Compute(values())) {
			t.Error("verified a digest that was never signed")
		}
		if again, err := signed.Marshal(p); err != nil || !bytes.Equal(again, b) {
			t.Errorf("accepted a text that is not canonical: %q, %v", b, err)
		}
	})
}

// A policy is of the manifest whose values it approves and whose words it
// repeats.
func TestFits(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*measure.Manifest)
		fits   bool
	}{
		"its own":       {func(*measure.Manifest) {}, true},
		"other values":  {func(m *measure.Manifest) { m.PCRs[4] = make(measure.Hex, measure.Size) }, false},
		"other role":    {func(m *measure.Manifest) { m.Role = measure.RoleFactory }, false},
		"other version": {func(m *measure.Manifest) { m.Version = "1.5" }, false},
		"other form":    {func(m *measure.Manifest) { m.Form = measure.FormUKI }, false},
	} {
		text, err := Sign(key, manifest())
		if err != nil {
			t.Fatal(err)
		}
		p, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		m := manifest()
		tt.change(m)
		if err := p.Fits(m); (err == nil) != tt.fits || err != nil && !errors.Is(err, ErrPolicy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

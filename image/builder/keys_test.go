package builder

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

// TestKeys: nothing but the two public keys that uinit reads goes into an image,
// and what is refused is not shown.
func TestKeys(t *testing.T) {
	root, policy := testdata(t, "root.pub"), testdata(t, "policy.pub")
	private, _, err := note.GenerateKey(rand.Reader, "north/root")
	if err != nil {
		t.Fatal(err)
	}
	_, manifest, err := note.GenerateKey(rand.Reader, "north/manifest")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	block, _ := pem.Decode(policy)
	headed := pem.EncodeToMemory(&pem.Block{Type: block.Type, Headers: map[string]string{"Note": private}, Bytes: block.Bytes})
	tests := []struct {
		name           string
		region, policy []byte
		want           string // part of the error; none without
	}{
		{"both", root, policy, ""},
		{"a text editor's line ends", root, bytes.ReplaceAll(policy, []byte("\n"), []byte("\r\n")), ""},
		{"none", nil, nil, ""},
		{"private root", []byte(private + "\n"), policy, "region key: want a public key, one line NAME+HASH+KEY; it is a private signing key"},
		{"both root keys", slices.Concat(root, []byte(private+"\n")), policy, "region key: want a public key"},
		{"manifest key", []byte(manifest + "\n"), policy, "it is the key north/manifest, which signs no slice"},
		{"private policy key", root, secret, "policy key: want a public key in PEM (PUBLIC KEY); it is PEM (PRIVATE KEY)"},
		{"private behind public", root, slices.Concat(policy, secret), "there is more in it"},
		{"private before public", root, slices.Concat([]byte(private+"\n"), policy), "there is more in it"},
		{"private in a header", root, headed, "there is more in it"},
		{"no RSA key", root, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), "policy key must be RSA-2048"},
		{"swapped", policy, root, "region key: want a public key, one line NAME+HASH+KEY; it is PEM (PUBLIC KEY)"},
		{"empty", root, []byte{}, "policy key: want a public key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := Options{Flavour: Server, RegionPub: tt.region, PolicyPub: tt.policy}
			if tt.want == "" {
				if err := o.checkKeys(); err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			// There are no sources: what is refused is refused before anything is built.
			o.Repo = t.TempDir()
			_, err := Build(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			for _, text := range []string{private[len(private)-40:], strings.Split(string(secret), "\n")[1]} {
				if strings.Contains(err.Error(), text) {
					t.Error("the error shows the private key")
				}
			}
		})
	}
}

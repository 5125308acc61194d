package attest_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/attest"
)

// tbs is a TBSCertificate (RFC 5280, 4.1) that a test can write in ways that
// x509.CreateCertificate cannot.
type tbs struct {
	Version    int `asn1:"optional,explicit,default:0,tag:0"`
	Serial     *big.Int
	Signature  pkix.AlgorithmIdentifier
	Issuer     asn1.RawValue
	Validity   asn1.RawValue
	Subject    asn1.RawValue
	Key        spki
	Extensions []pkix.Extension `asn1:"optional,explicit,tag:3"`
}

type spki struct {
	Algorithm pkix.AlgorithmIdentifier
	Key       asn1.BitString
}

func oid(n ...int) asn1.ObjectIdentifier { return n }

// ekMaker is a maker's root that issues what it is told to.
type ekMaker struct {
	t    *testing.T
	key  *rsa.PrivateKey
	root *x509.Certificate
}

func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newMaker(t *testing.T) *ekMaker {
	t.Helper()
	m := &ekMaker{t: t, key: rsaKey(t)}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "TPM root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Date(1969, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2049, 1, 1, 0, 0, 0, 0, time.UTC)}
	m.root = m.create(root, root, &m.key.PublicKey)
	return m
}

func (m *ekMaker) create(c, parent *x509.Certificate, pub *rsa.PublicKey) *x509.Certificate {
	m.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, m.key)
	if err != nil {
		m.t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// template is an EK certificate as the profile wants it.
func template() *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(77), NotBefore: time.Date(2019, 5, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2029, 5, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageKeyEncipherment, BasicConstraintsValid: true, UnknownExtKeyUsage: []asn1.ObjectIdentifier{oid(2, 23, 133, 8, 1)}}
}

// issue writes a certificate and then edits and signs it anew.
func (m *ekMaker) issue(c *x509.Certificate, pub *rsa.PublicKey, edit func(*tbs)) []byte {
	m.t.Helper()
	der := m.create(c, m.root, pub).Raw
	if edit == nil {
		return der
	}
	var cert struct {
		TBS       tbs
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &cert); err != nil {
		m.t.Fatal(err)
	}
	edit(&cert.TBS)
	signed, err := asn1.Marshal(cert.TBS)
	if err != nil {
		m.t.Fatal(err)
	}
	sum := sha256.Sum256(signed)
	if cert.Signature.Bytes, err = rsa.SignPKCS1v15(rand.Reader, m.key, crypto.SHA256, sum[:]); err != nil {
		m.t.Fatal(err)
	}
	if der, err = asn1.Marshal(cert); err != nil {
		m.t.Fatal(err)
	}
	return der
}

// ekArea is the TPMT_PUBLIC of an RSA EK by the profile's template L-1.
func ekArea(pub *rsa.PublicKey) []byte {
	area := tpm2.RSAEKTemplate
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: pub.N.Bytes()})
	return tpm2.Marshal(area)
}

// stored is a certificate with the header of some makers' NV indices.
func stored(der []byte, tag ...byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0x10, 0x01, 0x00}, uint16(len(tag)+len(der)))
	return append(append(append(b, tag...), der...), 0xff, 0xff)
}

// TestMakersCertificates: what real makers' certificates have in them passes, and
// what is refused is refused for its true reason.
func TestMakersCertificates(t *testing.T) {
	t.Parallel()
	m, ek := newMaker(t), rsaKey(t)
	good := m.issue(template(), &ek.PublicKey, nil)
	with := func(edit func(*x509.Certificate)) []byte {
		c := template()
		edit(c)
		return m.issue(c, &ek.PublicKey, nil)
	}
	critical := func(id asn1.ObjectIdentifier, value []byte) []byte {
		return with(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: id, Critical: true, Value: value}}
		})
	}
	oaep := func(t *tbs) {
		t.Key.Algorithm = pkix.AlgorithmIdentifier{Algorithm: oid(1, 2, 840, 113549, 1, 1, 7)}
	}
	negative := func(t *tbs) {
		t.Serial, _ = new(big.Int).SetString("-0123456789abcdef0123456789abcdef", 16)
	}
	altered := m.issue(template(), &ek.PublicKey, negative)
	altered[25] ^= 1 // in the serial number
	for _, c := range []struct {
		name, want string
		cert       []byte
	}{
		{"by the profile", "", good},
		{"with padding", "", append(bytes.Clone(good), 0, 0, 0)},
		{"header 10 01 00", "", stored(good)},
		{"header 10 01 00, tag 10 02", "", stored(good, 0x10, 0x02)},
		{"header that speaks of more", "cut off: its header speaks of", stored(good)[:400]},
		{"part of a certificate", "a part of a certificate only", append([]byte{0x10, 0x01, 0x01, 0, 4}, good...)},
		{"empty index", "no certificate in DER", bytes.Repeat([]byte{0xff}, 1024)},
		{"RSAES-OAEP key", "", m.issue(template(), &ek.PublicKey, oaep)},
		{"RSAES-OAEP key of another", "it is for another key", m.issue(template(), &rsaKey(t).PublicKey, oaep)},
		{"key of an unknown algorithm", "algorithm 1.2.3, which is not known", m.issue(template(), &ek.PublicKey, func(t *tbs) {
			t.Key.Algorithm = pkix.AlgorithmIdentifier{Algorithm: oid(1, 2, 3)}
		})},
		{"negative serial number", "", m.issue(template(), &ek.PublicKey, negative)},
		{"negative serial number, altered", "verification error", altered},
		{"subject directory attributes", "", critical(oid(2, 5, 29, 9), []byte{0x30, 0})},
		{"another critical extension", "critical extension that is not known here: 1.2.3.4", critical(oid(1, 2, 3, 4), []byte{5, 0})},
		{"SHA-1", "signed with SHA-1 (SHA1-RSA)", with(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA1WithRSA })},
		{"code signing", "lacks tcg-kp-EKCertificate", with(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
		})},
		{"any usage", "lacks tcg-kp-EKCertificate", with(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		})},
		{"issuing CA", "it is a CA's", with(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign })},
		{"from 1970", "valid from 1970-01-01", with(func(c *x509.Certificate) { c.NotBefore = time.Unix(0, 0) })},
	} {
		t.Run(c.name, func(t *testing.T) {
			roots := x509.NewCertPool()
			roots.AddCert(m.root)
			err := attest.CheckEKCert(c.cert, ekArea(&ek.PublicKey), roots)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (!errors.Is(err, attest.ErrEKCert) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// FuzzParseEKCert: a TPM's NV index may hold anything.
func FuzzParseEKCert(f *testing.F) {
	f.Add([]byte{0x10, 0x01, 0x00, 0, 2, 0x30, 0})
	f.Add([]byte{0x30, 0x0a, 0x30, 0x08, 0xa0, 3, 2, 1, 2, 2, 1, 0x80})
	f.Add([]byte{0x30, 0x05, 0x30, 0x03, 2, 1, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		c, err := attest.ParseEKCert(b)
		if !bytes.Equal(before, b) {
			t.Error("the input was changed")
		}
		if err == nil && !bytes.Contains(b, c.Raw) {
			t.Error("the certificate is not what was read")
		}
	})
}

func TestDelivery(t *testing.T) {
	t.Parallel()
	m, ek, other := newMaker(t), rsaKey(t), rsaKey(t)
	cert := m.issue(template(), &ek.PublicKey, nil)
	sum := sha256.Sum256(cert)
	name, err := attest.Name(ekArea(&other.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	d, err := attest.ParseDelivery([]byte("# order 4711\n\n" + strings.ToUpper(hex.EncodeToString(sum[:])) + "  CZ2342K7 r07-u12\n" + name + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	own, err := attest.Name(ekArea(&ek.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, name string
		cert       []byte
		want       bool
	}{
		{"by its name", name, nil, true},
		{"by its certificate", own, cert, true},
		{"by its certificate with a header", own, stored(cert), true},
		{"another certificate", own, m.issue(template(), &other.PublicKey, func(t *tbs) { t.Serial = big.NewInt(78) }), false},
		{"nothing", own, nil, false},
	} {
		if got := d.Has(c.name, c.cert); got != c.want {
			t.Errorf("%s: listed %v, want %v", c.what, got, c.want)
		}
	}
	for _, bad := range []string{"", "# nothing\n", "r07-u12\n", strings.Repeat("a", 63) + "\n", "000c" + strings.Repeat("a", 64) + "\n"} {
		if _, err := attest.ParseDelivery([]byte(bad)); err == nil {
			t.Errorf("%q is taken for a list", bad)
		} else if word := strings.TrimSpace(bad); word != "" && strings.Contains(err.Error(), word) { // perhaps a key
			t.Errorf("%q is quoted: %v", bad, err)
		}
	}
}

// TestSameEK: one key is one EK, whatever its template says beside it.
func TestSameEK(t *testing.T) {
	t.Parallel()
	ek, other := rsaKey(t), rsaKey(t)
	a := ekArea(&ek.PublicKey)
	renamed := bytes.Clone(a)
	renamed[7] ^= 0x40 // userWithAuth: another name, the same key
	near := bytes.Clone(a)
	near[len(near)-1] ^= 0x02 // in the modulus
	for name, c := range map[string]struct {
		a, b []byte
		want bool
	}{
		"the same":              {a, bytes.Clone(a), true},
		"another name":          {a, renamed, true},
		"another key":           {a, ekArea(&other.PublicKey), false},
		"another key's one bit": {a, near, false},
		"no key":                {a, nil, false},
		"no key, then one":      {nil, a, false},
		"no keys":               {nil, nil, false},
		"a part of one, twice":  {a[:len(a)-1], a[:len(a)-1], false},
	} {
		if got := attest.SameEK(c.a, c.b); got != c.want {
			t.Errorf("%s: SameEK = %v, want %v", name, got, c.want)
		}
	}
}

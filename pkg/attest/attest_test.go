package attest_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

const akHandle tpm2.TPMHandle = 0x81010100

// device is a TPM with its keys and the data of one honest request.
type device struct {
	*tpmtest.Sim
	ak         *attest.AK
	akPublic   []byte
	ekPublic   []byte
	srkPublic  []byte
	qualifying []byte
}

func newDevice(t *testing.T) *device {
	t.Helper()
	s := tpmtest.Start(t)
	keys, err := s.TPM().CreateKeys()
	if err != nil {
		t.Fatal(err)
	}
	ak, err := attest.ParseAK(keys.AK)
	if err != nil {
		t.Fatal(err)
	}
	return &device{
		Sim: s, ak: ak, akPublic: keys.AK, ekPublic: keys.EK, srkPublic: keys.SRK,
		qualifying: attest.Qualify(kekproto.OpRelease.Label(), bytes.Repeat([]byte{1}, 32), []byte(`{"op":"release"}`)),
	}
}

func (d *device) quote(t *testing.T, qualifying []byte) kekproto.Quote {
	t.Helper()
	pcrs, err := d.TPM().ReadPCRs()
	if err != nil {
		t.Fatal(err)
	}
	q, err := d.TPM().Quote(qualifying, pcrs)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// bank selects PCRs of one bank.
func bank(alg tpm2.TPMIAlgHash, pcrs ...int) tpm2.TPMSPCRSelection {
	bits := make([]byte, 3)
	for _, n := range pcrs {
		bits[n/8] |= 1 << (n % 8)
	}
	return tpm2.TPMSPCRSelection{Hash: alg, PCRSelect: bits}
}

// rawQuote has the TPM quote any selection.
func (d *device) rawQuote(t *testing.T, selection ...tpm2.TPMSPCRSelection) kekproto.Quote {
	t.Helper()
	pub, err := tpm2.ReadPublic{ObjectHandle: akHandle}.Execute(d.Bus())
	if err != nil {
		t.Fatal(err)
	}
	rsp, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: akHandle, Name: pub.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: d.qualifying},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      tpm2.TPMLPCRSelection{PCRSelections: selection},
	}.Execute(d.Bus())
	if err != nil {
		t.Fatal(err)
	}
	pcrs, err := d.TPM().ReadPCRs()
	if err != nil {
		t.Fatal(err)
	}
	return kekproto.Quote{Attest: rsp.Quoted.Bytes(), Signature: tpm2.Marshal(rsp.Signature), PCRs: pcrs}
}

// statement is another statement that an AK signs: TPM2_GetTime.
func (d *device) statement(t *testing.T) kekproto.Quote {
	t.Helper()
	pub, err := tpm2.ReadPublic{ObjectHandle: akHandle}.Execute(d.Bus())
	if err != nil {
		t.Fatal(err)
	}
	rsp, err := tpm2.GetTime{
		PrivacyAdminHandle: tpm2.TPMRHEndorsement,
		SignHandle:         tpm2.AuthHandle{Handle: akHandle, Name: pub.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData:     tpm2.TPM2BData{Buffer: d.qualifying},
		InScheme:           tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(d.Bus())
	if err != nil {
		t.Fatal(err)
	}
	q := d.quote(t, d.qualifying)
	q.Attest, q.Signature = rsp.TimeInfo.Bytes(), tpm2.Marshal(rsp.Signature)
	return q
}

func TestVerify(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	if err := d.TPM().Extend(measure.SlicePCR, bytes.Repeat([]byte{9}, 32)); err != nil {
		t.Fatal(err)
	}
	q := d.quote(t, d.qualifying)
	e, err := attest.Verify(q, d.ak, d.qualifying)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(q.PCRs, e.PCRs); diff != "" {
		t.Errorf("PCRs (-quoted +evidence):\n%s", diff)
	}
	if got, want := e.PCRs[measure.SlicePCR], measure.SliceValue(bytes.Repeat([]byte{9}, 32)); !bytes.Equal(got, want) {
		t.Errorf("slice PCR: got %x, want %x", got, want)
	}
	// The reset count is not obfuscated, since the AK is in the endorsement
	// hierarchy, and grows by one.
	d.Restart()
	after, err := attest.Verify(d.quote(t, d.qualifying), d.ak, d.qualifying)
	if err != nil {
		t.Fatal(err)
	}
	if after.ResetCount != e.ResetCount+1 {
		t.Errorf("reset count after a restart: got %d, want %d", after.ResetCount, e.ResetCount+1)
	}
	if e.Firmware == 0 || e.Clock == 0 {
		t.Errorf("evidence lacks firmware or clock: %+v", e)
	}
}

// TestVerifyRefuses holds what a verifier must never believe, made by a real
// TPM wherever a TPM would make it.
func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	d, other := newDevice(t), newDevice(t)
	exporter, request := bytes.Repeat([]byte{1}, 32), []byte(`{"op":"release"}`)
	label := kekproto.OpRelease.Label()
	good := d.quote(t, d.qualifying)
	all := attest.Selection()
	var capped []int
	for _, n := range all {
		if n != measure.CapPCR {
			capped = append(capped, n)
		}
	}
	sha256Bank := bank(tpm2.TPMAlgSHA256, all...)
	with := func(change func(q *kekproto.Quote)) kekproto.Quote {
		q := good
		q.PCRs = maps.Clone(good.PCRs)
		change(&q)
		return q
	}
	tests := []struct {
		name       string
		quote      kekproto.Quote
		qualifying []byte
		want       error
	}{
		{"replayed in another session", good, attest.Qualify(label, bytes.Repeat([]byte{2}, 32), request), attest.ErrQualifying},
		{"other request", good, attest.Qualify(label, exporter, []byte(`{"op":"release","x":1}`)), attest.ErrQualifying},
		{"other label", good, attest.Qualify(kekproto.OpAuths.Label(), exporter, request), attest.ErrQualifying},
		{"link key's label", d.quote(t, attest.Qualify("landfall link v1\x00", exporter, request)), d.qualifying, attest.ErrQualifying},
		{"no qualifying data at all", d.quote(t, nil), nil, attest.ErrQualifying},
		{"capped PCR left out", d.rawQuote(t, bank(tpm2.TPMAlgSHA256, capped...)), d.qualifying, attest.ErrSelection},
		{"one PCR more", d.rawQuote(t, bank(tpm2.TPMAlgSHA256, append([]int{16}, all...)...)), d.qualifying, attest.ErrSelection},
		{"no PCR", d.rawQuote(t, bank(tpm2.TPMAlgSHA256)), d.qualifying, attest.ErrSelection},
		{"SHA-1 bank", d.rawQuote(t, bank(tpm2.TPMAlgSHA1, all...)), d.qualifying, attest.ErrBank},
		{"SHA-1 bank besides", d.rawQuote(t, sha256Bank, bank(tpm2.TPMAlgSHA1, 0)), d.qualifying, attest.ErrBank},
		{"no bank", d.rawQuote(t), d.qualifying, attest.ErrBank},
		{"other AK", other.quote(t, d.qualifying), d.qualifying, attest.ErrSignature},
		{"other statement of this AK", d.statement(t), d.qualifying, attest.ErrType},
		{"values changed", with(func(q *kekproto.Quote) { q.PCRs[4] = make([]byte, 32); q.PCRs[4][0] = 1 }), d.qualifying, attest.ErrPCRs},
		{"value missing", with(func(q *kekproto.Quote) { delete(q.PCRs, 12) }), d.qualifying, attest.ErrPCRs},
		{"value too many", with(func(q *kekproto.Quote) { q.PCRs[14] = make([]byte, 32) }), d.qualifying, attest.ErrPCRs},
		{"value too short", with(func(q *kekproto.Quote) { q.PCRs[12] = q.PCRs[12][:31] }), d.qualifying, attest.ErrPCRs},
		{"statement altered", with(func(q *kekproto.Quote) { q.Attest = bytes.Clone(q.Attest); q.Attest[80] ^= 1 }), d.qualifying, attest.ErrSignature},
		{"signature altered", with(func(q *kekproto.Quote) { q.Signature = bytes.Clone(q.Signature); q.Signature[40] ^= 1 }), d.qualifying, attest.ErrSignature},
		{"signature goes on", with(func(q *kekproto.Quote) { q.Signature = append(bytes.Clone(q.Signature), 0) }), d.qualifying, attest.ErrForm},
		{"no signature", with(func(q *kekproto.Quote) { q.Signature = nil }), d.qualifying, attest.ErrForm},
		{"giant statement", with(func(q *kekproto.Quote) { q.Attest = make([]byte, 1<<20) }), d.qualifying, attest.ErrForm},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if e, err := attest.Verify(tt.quote, d.ak, tt.qualifying); !errors.Is(err, tt.want) || e != nil {
				t.Errorf("got %v, %v, want %v", e, err, tt.want)
			}
		})
	}
	if _, err := attest.Verify(good, d.ak, d.qualifying); err != nil {
		t.Errorf("the honest quote: %v", err)
	}
}

// softKey poses as an AK: its public area claims to be restricted, its owner
// signs what it likes.
func softKey(t *testing.T, akPublic []byte) (*ecdsa.PrivateKey, *attest.AK) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	area := bytes.Clone(akPublic[:len(akPublic)-68])
	for _, v := range [][]byte{point[1:33], point[33:]} {
		area = append(binary.BigEndian.AppendUint16(area, 32), v...)
	}
	ak, err := attest.ParseAK(area)
	if err != nil {
		t.Fatal(err)
	}
	return key, ak
}

func softSign(t *testing.T, key *ecdsa.PrivateKey, statement []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(statement)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := []byte{0x00, 0x18, 0x00, 0x0B}
	for _, v := range [][]byte{r.Bytes(), s.Bytes()} {
		sig = append(binary.BigEndian.AppendUint16(sig, uint16(len(v))), v...)
	}
	return sig
}

func TestVerifySoftwareStatements(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	key, ak := softKey(t, d.akPublic)
	good := d.quote(t, d.qualifying)
	tests := []struct {
		name  string
		alter func(b []byte) []byte
		want  error
	}{
		{"as a TPM makes it", func(b []byte) []byte { return b }, nil},
		{"other magic", func(b []byte) []byte { b[0] = 0; return b }, attest.ErrMagic},
		{"other type", func(b []byte) []byte { b[5] = 0x17; return b }, attest.ErrType},
		{"cut", func(b []byte) []byte { return b[:len(b)-1] }, attest.ErrForm},
		{"goes on", func(b []byte) []byte { return append(b, 0) }, attest.ErrForm},
		{"length of a field beyond the end", func(b []byte) []byte { b[6] = 0xff; return b }, attest.ErrQualifying},
		{"bit field of four bytes", func(b []byte) []byte {
			i := len(b) - 34 - 4
			return append(append(bytes.Clone(b[:i]), 4, b[i+1], b[i+2], b[i+3], 0), b[i+4:]...)
		}, attest.ErrSelection},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := good
			q.Attest = tt.alter(bytes.Clone(good.Attest))
			q.Signature = softSign(t, key, q.Attest)
			if _, err := attest.Verify(q, ak, d.qualifying); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestParseAKRefuses(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	with := func(i int, v ...byte) []byte {
		b := bytes.Clone(d.akPublic)
		copy(b[i:], v)
		return b
	}
	tests := []struct {
		name string
		area []byte
	}{
		{"empty", nil},
		{"EK", d.ekPublic},
		{"SRK", d.srkPublic},
		{"name by SHA-1", with(2, 0x00, 0x04)},
		{"not restricted", with(4, 0x00, 0x04)},
		{"not fixed to the TPM", with(7, 0x70)},
		{"not fixed to its parent", with(7, 0x62)},
		{"sensitive part from outside", with(7, 0x52)},
		{"decrypts as well", with(5, 0x07)},
		{"cleared at restart", with(7, 0x76)},
		{"ECDAA", with(12, 0x00, 0x1A)},
		{"SHA-1 scheme", with(14, 0x00, 0x04)},
		{"P-384", with(16, 0x00, 0x04)},
		{"point off the curve", with(len(d.akPublic)-1, d.akPublic[len(d.akPublic)-1]^1)},
		{"cut", d.akPublic[:len(d.akPublic)-1]},
		{"goes on", append(bytes.Clone(d.akPublic), 0)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := attest.ParseAK(tt.area); !errors.Is(err, attest.ErrKey) {
				t.Errorf("got %v, want ErrKey", err)
			}
		})
	}
	if name, err := attest.Name(d.akPublic); err != nil || name != d.ak.Name() {
		t.Errorf("Name: got %q, %v, want %q", name, err, d.ak.Name())
	}
	if err := d.TPM().CheckAK(d.ak.Name()); err != nil {
		t.Errorf("the TPM calls it otherwise: %v", err)
	}
}

func TestCredential(t *testing.T) {
	t.Parallel()
	d, other := newDevice(t), newDevice(t)
	want := bytes.Repeat([]byte{5}, attest.CredentialSize)
	credential, encrypted, err := attest.MakeCredential(d.ekPublic, d.ak.Name(), want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.TPM().ActivateCredential(credential, encrypted, d.srkPublic); err != nil || !bytes.Equal(got, want) {
		t.Errorf("own TPM: got %x, %v, want %x", got, err, want)
	}
	if _, err := other.TPM().ActivateCredential(credential, encrypted, other.srkPublic); err == nil {
		t.Error("a TPM with another EK opened the credential")
	}
	credential, encrypted, err = attest.MakeCredential(d.ekPublic, other.ak.Name(), want)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.TPM().ActivateCredential(credential, encrypted, d.srkPublic); err == nil {
		t.Error("a credential for another AK was opened")
	}
	if _, _, err := attest.MakeCredential(d.akPublic, d.ak.Name(), want); !errors.Is(err, attest.ErrKey) {
		t.Errorf("an AK as EK: got %v, want ErrKey", err)
	}
	if _, _, err := attest.MakeCredential(d.ekPublic, "00", want); !errors.Is(err, attest.ErrKey) {
		t.Errorf("short name: got %v, want ErrKey", err)
	}
}

func TestCheckEKCert(t *testing.T) {
	t.Parallel()
	d, other, elsewhere := newDevice(t), newDevice(t), tpmtest.StartOther(t)
	cert, err := d.TPM().EKCertificate()
	if err != nil {
		t.Fatal(err)
	}
	if err := attest.CheckEKCert(append(cert, 0, 0, 0), d.ekPublic, d.Roots, d.Intermediates...); err != nil {
		t.Errorf("own certificate: %v", err)
	}
	foreign, err := other.TPM().EKCertificate()
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(cert)
	bad[len(bad)-5] ^= 1
	tests := []struct {
		name  string
		cert  []byte
		ek    []byte
		roots *x509.CertPool
		want  error
	}{
		{"another TPM's certificate", foreign, d.ekPublic, d.Roots, attest.ErrEKCert},
		{"roots of another maker", cert, d.ekPublic, elsewhere.Roots, attest.ErrEKCert},
		{"no roots", cert, d.ekPublic, x509.NewCertPool(), attest.ErrEKCert},
		{"signature altered", bad, d.ekPublic, d.Roots, attest.ErrEKCert},
		{"no certificate", nil, d.ekPublic, d.Roots, attest.ErrEKCert},
		{"for an AK", cert, d.akPublic, d.Roots, attest.ErrKey},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := attest.CheckEKCert(tt.cert, tt.ek, tt.roots, d.Intermediates...); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

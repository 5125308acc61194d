package fabric

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/measure"
)

// TPM is a simulated TPM: a P-256 key in this process that signs quotes of
// made-up PCR values in the form of a TPM's. It proves nothing about real ones;
// package linkcheck's tests use a software TPM, too.
type TPM struct {
	key    *ecdsa.PrivateKey
	public []byte // TPMT_PUBLIC
	name   string
	pcrs   map[int][]byte
}

// NewTPM makes a TPM with all PCRs zero, as after a reset.
func NewTPM() (*TPM, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("simulated TPM: %w", err)
	}
	return withKey(key)
}

// TPMOf is the TPM of a device, the same whenever it is asked for: its key
// follows from the device's ID, so that everybody has it.
func TPMOf(device string) (*TPM, error) {
	sum := sha256.Sum256([]byte("landfall simulated TPM v1\x00" + device))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), sum[:])
	if err != nil {
		return nil, fmt.Errorf("simulated TPM of %s: %w", device, err)
	}
	return withKey(key)
}

func withKey(key *ecdsa.PrivateKey) (*TPM, error) {
	point, err := key.PublicKey.Bytes() // SEC 1, 2.3.3: 04 ‖ x ‖ y
	if err != nil {
		return nil, fmt.Errorf("simulated TPM: %w", err)
	}
	scheme := tpm2.TPMTECCScheme{
		Scheme:  tpm2.TPMAlgECDSA,
		Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
	}
	public := tpm2.Marshal(tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256, Scheme: scheme}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
		}),
	})
	name, err := attest.Name(public)
	if err != nil {
		return nil, err
	}
	t := &TPM{key: key, public: public, name: name, pcrs: map[int][]byte{}}
	for _, n := range measure.QuotePCRs() {
		t.pcrs[n] = make([]byte, measure.Size)
	}
	return t, nil
}

// AKName is the name of its attestation key, hex.
func (t *TPM) AKName() string { return t.name }

// AKPublic is its attestation key, a TPMT_PUBLIC.
func (t *TPM) AKPublic() []byte { return t.public }

// Extend extends a PCR.
func (t *TPM) Extend(pcr int, digest []byte) { t.pcrs[pcr] = measure.Extend(t.pcrs[pcr], digest) }

// Cap does what uinit does before it leaves.
func (t *TPM) Cap() { t.Extend(measure.CapPCR, measure.CapDigest()) }

// Reset does what a power cycle does.
func (t *TPM) Reset() {
	for n := range t.pcrs {
		t.pcrs[n] = make([]byte, measure.Size)
	}
}

// Quote is TPM2_Quote over measure.QuotePCRs (TPM 2.0 Part 3, 18.4).
func (t *TPM) Quote(qualifying []byte) (kekproto.Quote, error) {
	h, bits, values := sha256.New(), make([]byte, 3), map[int][]byte{}
	for _, n := range measure.QuotePCRs() {
		h.Write(t.pcrs[n])
		bits[n/8] |= 1 << (n % 8)
		values[n] = t.pcrs[n]
	}
	statement := tpm2.Marshal(tpm2.TPMSAttest{
		Magic:           tpm2.TPMGeneratedValue,
		Type:            tpm2.TPMSTAttestQuote,
		QualifiedSigner: tpm2.TPM2BName{Buffer: make([]byte, 34)},
		ExtraData:       tpm2.TPM2BData{Buffer: qualifying},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: bits}}},
			PCRDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)},
		}),
	})
	digest := sha256.Sum256(statement)
	r, s, err := ecdsa.Sign(rand.Reader, t.key, digest[:])
	if err != nil {
		return kekproto.Quote{}, fmt.Errorf("simulated TPM: %w", err)
	}
	signature := tpm2.Marshal(tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash:       tpm2.TPMAlgSHA256,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()},
			SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()},
		}),
	})
	return kekproto.Quote{Attest: statement, Signature: signature, PCRs: values}, nil
}

// Session certifies a session key for links by this TPM.
func (t *TPM) Session(region, device string) (*linkcheck.Session, error) {
	return linkcheck.Certify(region, device, t.public, t.Quote)
}

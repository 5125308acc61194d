// Package pcrpolicy holds the signed PCR policies that open a device's NV
// slots. It opens no file and no socket.
//
// The slots' own policy is TPM2_PolicyAuthorize: it names the policy key only.
// Each image has one document, by which that key approves TPM2_PolicyPCR over
// the image PCRs; all devices of a hardware class share it.
package pcrpolicy

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/signed"
)

// Type is the first field of every PCR policy document.
const Type = "landfall.dev/pcr-policy/v1"

// MaxSize bounds a policy document, in bytes.
const MaxSize = 16 << 10

// ref is the policyRef of all our approvals: another use of the policy key must
// take another one.
const ref = "landfall nv v1"

// keyBits is the size of the policy key. Every TPM verifies RSA-2048, and
// verification is RSA's cheap direction.
const keyBits = 2048

// Command codes of the policy commands (TPM 2.0 Part 2, 6.5.2).
const (
	ccPolicyAuthorize = 0x0000016A
	ccPolicyPCR       = 0x0000017F
)

// What this package refuses.
var (
	// ErrNoPolicy: this machine runs an image, or a changed one, that no policy
	// at hand approves. Bring the image's policy, or boot the right image.
	ErrNoPolicy = errors.New("no signed PCR policy fits the measured image")
	// ErrPolicy: the document itself is wrong. Make it anew with imagectl.
	ErrPolicy = errors.New("PCR policy document is not valid")
	// ErrKey: not an RSA-2048 key with exponent 65537.
	ErrKey = errors.New("policy key must be RSA-2048 with exponent 65537")
)

// Policy is one approval. Role, Image and Form are for people: only Digest is
// signed, and only the TPM's own PCRs decide.
type Policy struct {
	Type      string       `json:"type"` // Type
	Role      measure.Role `json:"role"`
	Image     string       `json:"image"` // name and version
	Form      measure.Form `json:"form"`
	PCRs      []int        `json:"pcrs"`      // measure.ImagePCRs
	Digest    []byte       `json:"digest"`    // approvedPolicy, 32 bytes
	Signature []byte       `json:"signature"` // RSASSA-PKCS1-v1_5 over SHA-256(approvedPolicy ‖ policyRef)
}

// Ref returns policyRef (TPM 2.0 Part 3, 23.16).
func Ref() []byte { return []byte(ref) }

// Compute returns the policy digest of a session in which only TPM2_PolicyPCR
// over the image PCRs was run while they held these values: SHA-256(0…0 ‖
// TPM_CC_PolicyPCR ‖ TPML_PCR_SELECTION ‖ SHA-256(values)) (TPM 2.0 Part 3,
// 23.7). A missing PCR counts as empty and yields a digest that no TPM reaches.
func Compute(pcrs map[int][]byte) []byte {
	values := sha256.New()
	for _, n := range measure.ImagePCRs() {
		values.Write(pcrs[n])
	}
	b := make([]byte, sha256.Size)
	b = binary.BigEndian.AppendUint32(b, ccPolicyPCR)
	b = append(b, selection(measure.ImagePCRs())...)
	b = values.Sum(b)
	d := sha256.Sum256(b)
	return d[:]
}

// selection is a TPML_PCR_SELECTION of one SHA-256 bank (TPM 2.0 Part 2,
// 10.9.7, 10.6.2): count, algorithm, size of the bit field, bit field.
func selection(pcrs []int) []byte {
	b := []byte{0, 0, 0, 1, 0x00, 0x0B, 3, 0, 0, 0}
	for _, n := range pcrs {
		b[7+n/8] |= 1 << (n % 8)
	}
	return b
}

// KeyPublic returns the policy key as the TPMT_PUBLIC that is loaded with
// TPM2_LoadExternal (TPM 2.0 Part 2, 12.2.4). Its bytes decide the key's name
// and so the slots' policy: they are fixed for good.
func KeyPublic(pub *rsa.PublicKey) ([]byte, error) {
	if pub == nil || pub.N == nil || pub.N.BitLen() != keyBits || pub.E != 65537 {
		return nil, ErrKey
	}
	const (
		algRSA, algSHA256, algNull, algRSASSA = 0x0001, 0x000B, 0x0010, 0x0014
		attributes                            = 1<<6 | 1<<18 // userWithAuth, sign
	)
	be := binary.BigEndian
	b := be.AppendUint16(nil, algRSA)
	b = be.AppendUint16(b, algSHA256)
	b = be.AppendUint32(b, attributes)
	b = be.AppendUint16(b, 0) // authPolicy
	b = be.AppendUint16(b, algNull)
	b = be.AppendUint16(b, algRSASSA)
	b = be.AppendUint16(b, algSHA256)
	b = be.AppendUint16(b, keyBits)
	b = be.AppendUint32(b, 0) // exponent: 0 is 65537
	b = be.AppendUint16(b, keyBits/8)
	return append(b, pub.N.FillBytes(make([]byte, keyBits/8))...), nil
}

// KeyName returns the policy key's TPM name: nameAlg ‖ SHA-256(TPMT_PUBLIC)
// (TPM 2.0 Part 1, 16).
func KeyName(pub *rsa.PublicKey) ([]byte, error) {
	area, err := KeyPublic(pub)
	if err != nil {
		return nil, err
	}
	d := sha256.Sum256(area)
	return append([]byte{0x00, 0x0B}, d[:]...), nil
}

// AuthorizePolicy returns the authPolicy of the NV slots:
// PolicyUpdate(TPM_CC_PolicyAuthorize, name of the key, policyRef) from a
// zeroed digest (TPM 2.0 Part 3, 23.16; PolicyUpdate is Part 3, 23.2.3).
func AuthorizePolicy(pub *rsa.PublicKey) ([]byte, error) {
	name, err := KeyName(pub)
	if err != nil {
		return nil, err
	}
	b := make([]byte, sha256.Size)
	b = binary.BigEndian.AppendUint32(b, ccPolicyAuthorize)
	first := sha256.Sum256(append(b, name...))
	second := sha256.Sum256(append(first[:], ref...))
	return second[:], nil
}

// ApprovalHash is what the policy key signs and the TPM checks:
// SHA-256(approvedPolicy ‖ policyRef) (TPM 2.0 Part 3, 23.16).
func ApprovalHash(approved []byte) []byte {
	d := sha256.Sum256(append(bytes.Clone(approved), ref...))
	return d[:]
}

// Sign writes the policy document for the image that a manifest describes. The
// signer's key must be RSA-2048.
func Sign(key crypto.Signer, m *measure.Manifest) ([]byte, error) {
	pub, _ := key.Public().(*rsa.PublicKey)
	if _, err := KeyPublic(pub); err != nil {
		return nil, err
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	pcrs := make(map[int][]byte)
	for n, v := range m.PCRs {
		pcrs[n] = v
	}
	p := Policy{
		Type: Type, Role: m.Role, Image: m.Image + " " + m.Version, Form: m.Form,
		PCRs: measure.ImagePCRs(), Digest: Compute(pcrs),
	}
	var err error
	if p.Signature, err = key.Sign(rand.Reader, ApprovalHash(p.Digest), crypto.SHA256); err != nil {
		return nil, fmt.Errorf("sign PCR policy: %w", err)
	}
	return signed.Marshal(p)
}

// Fits refuses a policy that is not of this manifest: over other values, or one
// that says of them what the manifest says otherwise.
func (p *Policy) Fits(m *measure.Manifest) error {
	pcrs := make(map[int][]byte)
	for n, v := range m.PCRs {
		pcrs[n] = v
	}
	if subtle.ConstantTimeCompare(p.Digest, Compute(pcrs)) != 1 {
		return fmt.Errorf("%w: it is of another image than the manifest: the PCR policy (of %s, form %s) is not over the values of manifest %s %s (%s); sign both with one `imagectl sign`",
			ErrPolicy, p.Image, p.Form, m.Image, m.Version, m.Form)
	}
	if own := m.Image + " " + m.Version; p.Role != m.Role || p.Image != own || p.Form != m.Form {
		return fmt.Errorf("%w: it says that these values are %s, role %s, form %s; the manifest says %s, role %s, form %s: sign both with one `imagectl sign`",
			ErrPolicy, p.Image, p.Role, p.Form, own, m.Role, m.Form)
	}
	return nil
}

// Parse reads a policy document. It does not check the signature: the TPM does,
// and Verify does for people.
func Parse(document []byte) (*Policy, error) {
	if len(document) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrPolicy, len(document), MaxSize)
	}
	p := new(Policy)
	if err := signed.Unmarshal(document, Type, p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	switch {
	case !slices.Equal(p.PCRs, measure.ImagePCRs()):
		return nil, fmt.Errorf("%w: it is over PCRs %v, expected %v", ErrPolicy, p.PCRs, measure.ImagePCRs())
	case len(p.Digest) != sha256.Size:
		return nil, fmt.Errorf("%w: digest of %d bytes, expected %d", ErrPolicy, len(p.Digest), sha256.Size)
	case len(p.Signature) != keyBits/8:
		return nil, fmt.Errorf("%w: signature of %d bytes, expected %d", ErrPolicy, len(p.Signature), keyBits/8)
	}
	return p, nil
}

// Verify checks the signature without a TPM.
func (p *Policy) Verify(pub *rsa.PublicKey) error {
	if _, err := KeyPublic(pub); err != nil {
		return err
	}
	if err := rsa.VerifyPKCS1v15(pub, crypto.SHA256, ApprovalHash(p.Digest), p.Signature); err != nil {
		return fmt.Errorf("%w: its signature is not by the policy key", ErrPolicy)
	}
	return nil
}

// Select returns the policy that approves these PCR values, or ErrNoPolicy.
func Select(policies []*Policy, pcrs map[int][]byte) (*Policy, error) {
	want := Compute(pcrs)
	for _, p := range policies {
		if subtle.ConstantTimeCompare(p.Digest, want) == 1 {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%w (%d policies at hand)", ErrNoPolicy, len(policies))
}

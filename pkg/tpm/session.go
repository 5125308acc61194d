package tpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/pcrpolicy"
)

// nonceSize is the length of session nonces, in bytes.
const nonceSize = 16

// Encrypt says which way a session encrypts the first parameter. A TPM refuses a
// session that would encrypt what a command does not have.
type Encrypt int

// The directions.
const (
	EncryptNone Encrypt = iota
	EncryptCommand
	EncryptResponse
)

// salted returns the options of a session whose key only the holder of the SRK
// can derive (TPM 2.0 Part 1, 19.6.12), and which encrypts with AES-128-CFB (21).
// srk is a TPMT_PUBLIC from a source that is trusted, not from this TPM,
// wherever there is one.
func (t *TPM) salted(srk []byte, enc Encrypt) ([]tpm2.AuthOption, error) {
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](srk)
	if err != nil {
		return nil, fmt.Errorf("SRK public area: %w", err)
	}
	if err := fits(srk, tpm2.ECCSRKTemplate); err != nil {
		return nil, fmt.Errorf("SRK public area: %w", err)
	}
	opts := []tpm2.AuthOption{tpm2.Salted(srkHandle, *pub)}
	switch {
	case t.plain:
	case enc == EncryptCommand:
		opts = append(opts, tpm2.AESEncryption(128, tpm2.EncryptIn))
	case enc == EncryptResponse:
		opts = append(opts, tpm2.AESEncryption(128, tpm2.EncryptOut))
	}
	return opts, nil
}

// Approval is a PCR policy whose signature this TPM has verified. It holds
// until the TPM resets.
type Approval struct {
	t       *TPM
	key     tpm2.TPMHandle
	keyName []byte
	digest  []byte
	ticket  tpm2.TPMTTKVerified
}

// Approve loads the policy key (its TPMT_PUBLIC from pcrpolicy.KeyPublic) and
// has the TPM verify the policy's signature: two commands (TPM 2.0 Part 3, 12.3,
// 20.1). ErrPolicy when it is not that key's.
func (t *TPM) Approve(keyArea []byte, p *pcrpolicy.Policy) (*Approval, error) {
	loaded, err := tpm2.LoadExternal{
		InPublic:  tpm2.BytesAs2B[tpm2.TPMTPublic](keyArea),
		Hierarchy: tpm2.TPMRHOwner, // a key in the null hierarchy makes no ticket
	}.Execute(t.wire)
	if err != nil {
		return nil, wrap(err, "load the policy key")
	}
	rsp, err := tpm2.VerifySignature{
		KeyHandle: loaded.ObjectHandle,
		Digest:    tpm2.TPM2BDigest{Buffer: pcrpolicy.ApprovalHash(p.Digest)},
		Signature: tpm2.TPMTSignature{
			SigAlg: tpm2.TPMAlgRSASSA,
			Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{
				Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: p.Signature},
			}),
		},
	}.Execute(t.wire)
	if err != nil {
		t.flush(loaded.ObjectHandle)
		if errors.Is(err, tpm2.TPMRCSignature) {
			return nil, fmt.Errorf("PCR policy is not signed by this image's policy key: %w: %w", ErrPolicy, err)
		}
		return nil, wrap(err, "verify the PCR policy")
	}
	return &Approval{t, loaded.ObjectHandle, loaded.Name.Buffer, p.Digest, rsp.Validation}, nil
}

// Release flushes the policy key. The approval itself goes on: its ticket does
// not need the key. Flushing is a command that can wait until the disks are
// open; a TPM has room for three keys.
func (a *Approval) Release() {
	if a.key != tpm2.TPMRHNull {
		a.t.flush(a.key)
		a.key = tpm2.TPMRHNull
	}
}

// PolicySession authorizes NV commands by PCR values. The TPM forgets what was
// satisfied with each command it authorized: run Satisfy before each.
type PolicySession struct {
	t *TPM
	s tpm2.Session
}

// StartPolicy opens a policy session: EncryptResponse for reading and
// EncryptCommand for writing are salted to the SRK, whose TPMT_PUBLIC comes from
// the slice; EncryptNone, for locking, has no secret to keep and spares the TPM
// the salt.
func (t *TPM) StartPolicy(srk []byte, enc Encrypt) (*PolicySession, error) {
	var opts []tpm2.AuthOption
	if enc != EncryptNone {
		var err error
		if opts, err = t.salted(srk, enc); err != nil {
			return nil, err
		}
	}
	s, _, err := tpm2.PolicySession(t.wire, tpm2.TPMAlgSHA256, nonceSize, opts...)
	if err != nil {
		return nil, wrap(err, "start policy session")
	}
	return &PolicySession{t, s}, nil
}

// Satisfy runs TPM2_PolicyPCR over the image PCRs, then TPM2_PolicyAuthorize
// (TPM 2.0 Part 3, 23.7, 23.16). ErrPolicy when the PCRs hold other values than
// the approved ones.
func (p *PolicySession) Satisfy(a *Approval, pcrs []int) error {
	_, err := tpm2.PolicyPCR{PolicySession: p.s.Handle(), Pcrs: selection(pcrs)}.Execute(p.t.wire)
	if err != nil {
		return wrap(err, "PolicyPCR")
	}
	_, err = tpm2.PolicyAuthorize{
		PolicySession:  p.s.Handle(),
		ApprovedPolicy: tpm2.TPM2BDigest{Buffer: a.digest},
		PolicyRef:      tpm2.TPM2BDigest{Buffer: pcrpolicy.Ref()},
		KeySign:        tpm2.TPM2BName{Buffer: a.keyName},
		CheckTicket:    a.ticket,
	}.Execute(p.t.wire)
	if errors.Is(err, tpm2.TPMRCValue) {
		return fmt.Errorf("PolicyAuthorize: %w: %w", ErrPolicy, err)
	}
	return wrap(err, "PolicyAuthorize")
}

// Close ends the session.
func (p *PolicySession) Close() { p.t.flush(p.s.Handle()) }

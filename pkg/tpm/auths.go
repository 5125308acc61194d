package tpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/landfall-project/landfall/pkg/secret"
)

// AuthSize is the length of an authorization, in bytes.
const AuthSize = 32

// Auths are the authorizations of the owner and lockout hierarchies. The fleet
// makes them durable first, and holds them; the device forgets them.
type Auths struct {
	Owner, Lockout *secret.Bytes
}

// Wipe wipes both.
func (a *Auths) Wipe() {
	a.Owner.Wipe()
	a.Lockout.Wipe()
}

// check refuses what would not work: go-tpm cuts an authorization at its first
// zero byte, where TPM 2.0 Part 1, 17.6.4.3 drops trailing ones only.
func (a *Auths) check() error {
	for _, s := range []*secret.Bytes{a.Owner, a.Lockout} {
		if s.Len() != AuthSize || bytes.IndexByte(s.Expose(), 0) >= 0 {
			return fmt.Errorf("TPM authorization must be %d bytes, none of them zero", AuthSize)
		}
	}
	return nil
}

// State is TPMA_PERMANENT (TPM 2.0 Part 2, 8.6).
type State struct {
	OwnerAuth       bool // ownerAuthSet
	EndorsementAuth bool // endorsementAuthSet
	LockoutAuth     bool // lockoutAuthSet
	ClearDisabled   bool // disableClear
	InLockout       bool // inLockout
}

// State reads the TPM's permanent attributes.
func (t *TPM) State() (State, error) {
	rsp, err := tpm2.GetCapability{
		Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTPermanent), PropertyCount: 1,
	}.Execute(t.wire)
	if err != nil {
		return State{}, wrap(err, "read the TPM's permanent attributes")
	}
	props, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil || len(props.TPMProperty) == 0 || props.TPMProperty[0].Property != tpm2.TPMPTPermanent {
		return State{}, fmt.Errorf("read the TPM's permanent attributes: %w: unexpected answer", ErrDevice)
	}
	v := props.TPMProperty[0].Value
	bit := func(n int) bool { return v>>n&1 == 1 }
	return State{OwnerAuth: bit(0), EndorsementAuth: bit(1), LockoutAuth: bit(2), ClearDisabled: bit(8), InLockout: bit(9)}, nil
}

// SetAuths sets the owner and the lockout authorization where they are still
// empty, checks the owner's where it is not, and disables TPM2_Clear. It may be
// run again after a power cut at any command. ErrAuth when the TPM holds other
// authorizations.
func (t *TPM) SetAuths(a *Auths, srk []byte) error {
	if err := a.check(); err != nil {
		return err
	}
	state, err := t.State()
	if err != nil {
		return err
	}
	if state.OwnerAuth {
		err = t.checkOwner(a.Owner, srk)
	} else {
		err = t.setAuth(tpm2.TPMRHOwner, a.Owner, srk)
	}
	if err != nil {
		return err
	}
	if !state.LockoutAuth {
		if err := t.setAuth(tpm2.TPMRHLockout, a.Lockout, srk); err != nil {
			return err
		}
	}
	if state.ClearDisabled {
		return nil
	}
	return t.disableClear(a.Lockout, srk)
}

// setAuth replaces an empty hierarchy authorization (TPM 2.0 Part 3, 24.8). The
// empty one is a password; a second session, salted to srk, encrypts the new
// one.
func (t *TPM) setAuth(hierarchy tpm2.TPMHandle, auth *secret.Bytes, srk []byte) error {
	opts, err := t.salted(srk, EncryptCommand)
	if err != nil {
		return err
	}
	if t.plain {
		opts = append(opts, tpm2.Audit()) // a session must be of some use
	}
	_, err = tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: auth.Expose()},
	}.Execute(t.wire, tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, opts...))
	return wrap(err, "set the authorization of %#x", uint32(hierarchy))
}

// hmac returns a one-use session that proves knowledge of auth without sending
// it (TPM 2.0 Part 1, 19.6), salted to srk so that a listener cannot try
// guesses.
func (t *TPM) hmac(srk []byte, auth *secret.Bytes) (tpm2.Session, error) {
	opts, err := t.salted(srk, EncryptNone)
	if err != nil {
		return nil, err
	}
	return tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, append(opts, tpm2.Auth(auth.Expose()))...), nil
}

// checkOwner proves that auth is the owner authorization, by a command that
// changes nothing: TPM2_PolicySecret in a trial session. The owner hierarchy is
// not subject to dictionary-attack protection.
func (t *TPM) checkOwner(auth *secret.Bytes, srk []byte) error {
	trial, done, err := tpm2.PolicySession(t.wire, tpm2.TPMAlgSHA256, nonceSize, tpm2.Trial())
	if err != nil {
		return wrap(err, "start trial session")
	}
	defer func() { _ = done() }() // as flush: it hides no other error
	session, err := t.hmac(srk, auth)
	if err != nil {
		return err
	}
	_, err = tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: session},
		PolicySession: trial.Handle(),
		NonceTPM:      trial.NonceTPM(),
	}.Execute(t.wire)
	return wrap(err, "check the owner authorization")
}

// ccClearControl is TPM_CC_ClearControl (TPM 2.0 Part 2, 6.5.2), which go-tpm
// does not know.
const ccClearControl tpm2.TPMCC = 0x00000127

// disableClear runs TPM2_ClearControl(disable = YES) (TPM 2.0 Part 3, 24.7).
// Only the platform hierarchy, which firmware closes, can enable it again. The
// lockout authorization is subject to lockout: a wrong one is tried once.
func (t *TPM) disableClear(lockout *secret.Bytes, srk []byte) error {
	const what = "disable TPM2_Clear"
	s, err := t.hmac(srk, lockout)
	if err != nil {
		return err
	}
	if err := errors.Join(s.Init(t.wire), s.NewNonceCaller()); err != nil {
		return wrap(err, what)
	}
	names := []tpm2.TPM2BName{tpm2.HandleName(tpm2.TPMRHLockout)}
	parms := []byte{1} // TPMI_YES_NO
	auth, err := s.Authorize(ccClearControl, parms, nil, names, 0)
	if err != nil {
		return wrap(err, what)
	}
	area := tpm2.Marshal(auth)
	cmd := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTSessions))
	cmd = binary.BigEndian.AppendUint32(cmd, uint32(10+4+4+len(area)+len(parms)))
	cmd = binary.BigEndian.AppendUint32(cmd, uint32(ccClearControl))
	cmd = binary.BigEndian.AppendUint32(cmd, uint32(tpm2.TPMRHLockout))
	cmd = binary.BigEndian.AppendUint32(cmd, uint32(len(area)))
	rsp, err := t.wire.Send(append(append(cmd, area...), parms...))
	if err != nil {
		return wrap(err, what)
	}
	if rc := tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])); rc != tpm2.TPMRCSuccess {
		return wrap(errors.Join(rc, s.CleanupFailure(t.wire)), what)
	}
	// Header, parameterSize = 0, then TPMS_AUTH_RESPONSE.
	if len(rsp) < 14 || binary.BigEndian.Uint32(rsp[10:]) != 0 {
		return fmt.Errorf("%s: %w: malformed response", what, ErrDevice)
	}
	answer, err := tpm2.Unmarshal[tpm2.TPMSAuthResponse](rsp[14:])
	if err != nil {
		return wrap(err, what)
	}
	return wrap(s.Validate(tpm2.TPMRCSuccess, ccClearControl, nil, names, 0, answer), what)
}

// ActivateCredential opens a credential that was made for this EK and this AK
// (TPM 2.0 Part 3, 12.5). The contents of TPM2B_ID_OBJECT and
// TPM2B_ENCRYPTED_SECRET go in, the secret comes out, encrypted on the bus.
func (t *TPM) ActivateCredential(credential, encrypted, srk []byte) ([]byte, error) {
	if _, err := t.AKName(); err != nil {
		return nil, err
	}
	_, ekName, err := t.readPublic(ekHandle)
	if err != nil {
		return nil, err
	}
	opts, err := t.salted(srk, EncryptResponse)
	if err != nil {
		return nil, err
	}
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: akHandle, Name: t.cachedAKName(), Auth: tpm2.PasswordAuth(nil)},
		KeyHandle: tpm2.AuthHandle{
			Handle: ekHandle, Name: tpm2.TPM2BName{Buffer: ekName},
			Auth: tpm2.Policy(tpm2.TPMAlgSHA256, nonceSize, t.endorsementPolicy, opts...),
		},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: credential},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: encrypted},
	}.Execute(t.wire)
	if err != nil {
		return nil, wrap(err, "activate credential")
	}
	return rsp.CertInfo.Buffer, nil
}

// endorsementPolicy satisfies the EK's policy: PolicySecret of the endorsement
// hierarchy, whose authorization stays empty (TCG EK Credential Profile, B.3).
func (t *TPM) endorsementPolicy(_ transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: session,
		NonceTPM:      nonce,
	}.Execute(t.wire)
	return err
}

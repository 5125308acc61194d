package tpm

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Persistent handles; docs/spec/tpm.md.
const (
	ekHandle  tpm2.TPMHandle = 0x81010001 // TCG Provisioning Guidance, table 2
	srkHandle tpm2.TPMHandle = 0x81000001
	akHandle  tpm2.TPMHandle = 0x81010100
)

// What the maker stored of the EK of template L-1 (TCG EK Credential Profile
// 2.5, 2.2.1.4): its certificate, and for few TPMs what the key was made with.
const (
	ekCertIndex     tpm2.TPMHandle = 0x01C00002
	ekNonceIndex    tpm2.TPMHandle = 0x01C00003
	ekTemplateIndex tpm2.TPMHandle = 0x01C00004
)

// Keys are the public areas (TPMT_PUBLIC) of a provisioned TPM.
type Keys struct {
	EK, AK, SRK []byte
}

// akTemplate is an ECC P-256 key, restricted to signing what the TPM made
// (TPM 2.0 Part 1, 25.1.3). Its authorization is empty: who may use it is
// decided by what it can say, not by a password.
func akTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
			KDF:     tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

// readPublic returns a loaded object's TPMT_PUBLIC and name.
func (t *TPM) readPublic(h tpm2.TPMHandle) (area, name []byte, err error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(t.wire)
	if err != nil {
		return nil, nil, wrap(err, "read public area of %#x", uint32(h))
	}
	return rsp.OutPublic.Bytes(), rsp.Name.Buffer, nil
}

// AKName returns the name of the attestation key in hex, from the TPM itself;
// ErrCleared when there is none.
func (t *TPM) AKName() (string, error) {
	if n := t.cachedAKName(); n.Buffer != nil {
		return hex.EncodeToString(n.Buffer), nil
	}
	_, name, err := t.readPublic(akHandle)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.akName = name
	return hex.EncodeToString(name), nil
}

// AKPublic returns the attestation key's public area, a TPMT_PUBLIC; ErrCleared
// when there is none.
func (t *TPM) AKPublic() ([]byte, error) {
	area, _, err := t.readPublic(akHandle)
	return area, err
}

func (t *TPM) cachedAKName() tpm2.TPM2BName {
	t.mu.Lock()
	defer t.mu.Unlock()
	return tpm2.TPM2BName{Buffer: t.akName}
}

// CheckAK compares the AK's name with a slice's: ErrOtherTPM when it differs,
// ErrCleared when there is no AK. A TPM that lies here cannot quote.
func (t *TPM) CheckAK(name string) error {
	got, err := t.AKName()
	if err != nil {
		return err
	}
	if got != name {
		return fmt.Errorf("%w: its AK is %s, the slice names %s", ErrOtherTPM, got, name)
	}
	return nil
}

// Keys returns the keys that CreateKeys made; ErrCleared when one is missing.
func (t *TPM) Keys() (*Keys, error) {
	k := new(Keys)
	for _, o := range []struct {
		h    tpm2.TPMHandle
		into *[]byte
	}{{ekHandle, &k.EK}, {akHandle, &k.AK}, {srkHandle, &k.SRK}} {
		area, _, err := t.readPublic(o.h)
		if err != nil {
			return nil, err
		}
		*o.into = area
	}
	return k, nil
}

// CreateKeys makes EK, SRK and AK persistent where they are missing, and
// returns them. It may be run again after a power cut at any command. Persisting
// wants an empty owner authorization: on a TPM that has one, all keys must be
// there already, else ErrState.
func (t *TPM) CreateKeys() (*Keys, error) {
	k := new(Keys)
	for _, o := range []struct {
		h         tpm2.TPMHandle
		hierarchy tpm2.TPMHandle
		template  tpm2.TPMTPublic
		into      *[]byte
	}{
		{ekHandle, tpm2.TPMRHEndorsement, tpm2.RSAEKTemplate, &k.EK},
		{srkHandle, tpm2.TPMRHOwner, tpm2.ECCSRKTemplate, &k.SRK},
		{akHandle, tpm2.TPMRHEndorsement, akTemplate(), &k.AK},
	} {
		area, _, err := t.readPublic(o.h)
		if errors.Is(err, ErrCleared) {
			area, err = t.createMissing(o.h, o.hierarchy, o.template)
		}
		if err != nil {
			return nil, err
		}
		if err := fits(area, o.template); err != nil {
			return nil, fmt.Errorf("key at %#x: %w", uint32(o.h), err)
		}
		*o.into = area
	}
	return k, nil
}

// createMissing makes a key that is not there; the EK with what its maker stored,
// since the certificate is for that key.
func (t *TPM) createMissing(h, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) ([]byte, error) {
	if h == ekHandle {
		var err error
		if template, err = t.ekTemplate(template); err != nil {
			return nil, err
		}
	}
	return t.createPersistent(h, hierarchy, template)
}

// ekTemplate is what the EK is made with (TCG EK Credential Profile 2.5,
// "TPMT_PUBLIC Calculation"): the template that the maker stored in the place of
// the usual one, and a nonce at the beginning of its unique field. A stored
// template that differs in more than that field is not known here: the key is
// made by the usual one, and found to be another than its certificate's.
func (t *TPM) ekTemplate(template tpm2.TPMTPublic) (tpm2.TPMTPublic, error) {
	stored, err := t.readNV(ekTemplateIndex, "the EK's template")
	if err != nil {
		return template, err
	}
	if own, bad := tpm2.Unmarshal[tpm2.TPMTPublic](stored); bad == nil && fits(stored, template) == nil {
		template = *own
	}
	nonce, err := t.readNV(ekNonceIndex, "the EK's nonce")
	if err != nil || len(nonce) == 0 || len(nonce) > ekSize {
		return template, err
	}
	unique := make([]byte, ekSize)
	copy(unique, nonce)
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: unique})
	return template, nil
}

// ekSize is the size of an RSA-2048 key's modulus, in bytes.
const ekSize = 256

// createPersistent makes a primary key (TPM 2.0 Part 3, 24.1) and persists it
// (28.5). A cut between the two leaves a transient object, gone at the next
// restart.
func (t *TPM) createPersistent(h, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) ([]byte, error) {
	state, err := t.State()
	if err != nil {
		return nil, err
	}
	if state.OwnerAuth {
		return nil, fmt.Errorf("key at %#x is missing and the owner authorization is set: %w", uint32(h), ErrState)
	}
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(template),
	}.Execute(t.wire)
	if err != nil {
		return nil, wrap(err, "create the key for %#x", uint32(h))
	}
	defer t.flush(rsp.ObjectHandle)
	_, err = tpm2.EvictControl{
		Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		ObjectHandle:     &tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name},
		PersistentHandle: h,
	}.Execute(t.wire)
	if err != nil {
		return nil, wrap(err, "persist the key at %#x", uint32(h))
	}
	return rsp.OutPublic.Bytes(), nil
}

// fits compares all of a public area but its unique part with a template.
func fits(area []byte, template tpm2.TPMTPublic) error {
	got, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	if got.Type != template.Type {
		return fmt.Errorf("%w: algorithm %#04x, expected %#04x", ErrState, uint16(got.Type), uint16(template.Type))
	}
	got.Unique = template.Unique
	if !bytes.Equal(tpm2.Marshal(got), tpm2.Marshal(template)) {
		return fmt.Errorf("%w: it is of another template", ErrState)
	}
	return nil
}

// flush drops a transient object or session; a failure leaves a slot occupied
// until the next restart, and hides no other error.
func (t *TPM) flush(h tpm2.TPMHandle) {
	_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(t.wire)
}

// EKCertificate returns the manufacturer's certificate of the EK as the NV index
// holds it, DER with possible padding; nil when the TPM has none, or an index
// that was never written.
func (t *TPM) EKCertificate() ([]byte, error) {
	return t.readNV(ekCertIndex, "the EK certificate")
}

// readNV reads a whole index that everybody may read; nil when there is none, or
// it was never written.
func (t *TPM) readNV(index tpm2.TPMHandle, what string) ([]byte, error) {
	pub, err := t.NVPublic(uint32(index))
	if errors.Is(err, ErrCleared) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !pub.Attributes.Written {
		return nil, nil
	}
	name, err := tpm2.NVName(pub)
	if err != nil {
		return nil, fmt.Errorf("name of the index of %s: %w", what, err)
	}
	const chunk = 512 // every TPM's NV buffer holds it
	var data []byte
	for len(data) < int(pub.DataSize) {
		rsp, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: *name, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: *name},
			Size:       uint16(min(chunk, int(pub.DataSize)-len(data))),
			Offset:     uint16(len(data)),
		}.Execute(t.wire)
		if err != nil {
			return nil, wrap(err, "read %s", what)
		}
		if len(rsp.Data.Buffer) == 0 {
			return nil, fmt.Errorf("read %s: %w: empty answer", what, ErrDevice)
		}
		data = append(data, rsp.Data.Buffer...)
	}
	return data, nil
}

// Flush drops every transient object and loaded session that an earlier run
// left behind. Only for a program that is alone on the TPM.
func (t *TPM) Flush() error {
	for _, first := range []uint32{0x80000000, 0x02000000} { // transient objects, loaded sessions
		rsp, err := tpm2.GetCapability{
			Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 64,
		}.Execute(t.wire)
		if err != nil {
			return wrap(err, "list open handles")
		}
		handles, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			return fmt.Errorf("list open handles: %w", err)
		}
		for _, h := range handles.Handle {
			t.flush(h)
		}
	}
	return nil
}

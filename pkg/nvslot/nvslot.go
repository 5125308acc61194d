// Package nvslot keeps a device's wrapped key in two NV indices of its TPM. A
// generation lives in the slot of its parity, so that writing a new one never
// touches the one in use. seal and uinit share it.
//
// What guards a slot is its policy alone: an approved image's PCR values, for
// reading as for writing. A slot is not protected against a holder of the policy
// key, and its being undefined is guarded by the owner authorization.
package nvslot

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/tpm"
)

// Count is the number of slots.
const Count = 2

// firstIndex is the NV index of slot 0; slot 1 follows.
const firstIndex = 0x01804C30

// ErrForeign: something else lies at our NV index, or its guards are not ours.
// Before provisioning: clear the TPM in the firmware's setup. On a sealed
// device somebody has tampered with it: use the recovery key and seal again.
var ErrForeign = errors.New("NV slot is not as provisioning made it")

// Slots are the two slots of one TPM. It is not safe for concurrent use.
type Slots struct {
	TPM       *tpm.TPM
	SRKPublic []byte         // TPMT_PUBLIC, from the signed slice
	PolicyKey *rsa.PublicKey // from the image

	policy    *pcrpolicy.Policy
	approval  *tpm.Approval
	session   *tpm.PolicySession
	encrypt   tpm.Encrypt // what session is for
	satisfied bool        // session may authorize one command
}

// index returns the NV index of a slot.
func index(slot int) uint32 { return firstIndex + uint32(slot) }

// Public returns the public area that provisioning gives a slot: read and
// written by policy only, read-lockable until the next restart, no owner or
// platform access (TPM 2.0 Part 2, 13.4).
func (s *Slots) Public(slot int) (*tpm2.TPMSNVPublic, error) {
	if slot < 0 || slot >= Count {
		return nil, fmt.Errorf("NV slot %d: there are slots 0 and 1", slot)
	}
	policy, err := pcrpolicy.AuthorizePolicy(s.PolicyKey)
	if err != nil {
		return nil, err
	}
	return &tpm2.TPMSNVPublic{
		NVIndex:    tpm2.TPMHandle(index(slot)),
		NameAlg:    tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{PolicyWrite: true, PolicyRead: true, ReadSTClear: true, NoDA: true, NT: tpm2.TPMNTOrdinary},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: policy},
		DataSize:   keyblob.Size,
	}, nil
}

// state is a slot's public area as it is now, which must be ours but for the
// bits that writing and locking set; tpm.ErrCleared or ErrForeign otherwise.
func (s *Slots) state(slot int) (*tpm2.TPMSNVPublic, error) {
	want, err := s.Public(slot)
	if err != nil {
		return nil, err
	}
	got, err := s.TPM.NVPublic(index(slot))
	if err != nil {
		return nil, err
	}
	want.Attributes.Written = got.Attributes.Written
	want.Attributes.ReadLocked = got.Attributes.ReadLocked
	if !bytes.Equal(tpm2.Marshal(got), tpm2.Marshal(want)) {
		return nil, fmt.Errorf("NV slot %d at %#x: %w", slot, index(slot), ErrForeign)
	}
	return got, nil
}

// Define makes both slots where they are missing. It may be run again after a
// power cut at any command.
func (s *Slots) Define(auths *tpm.Auths) error {
	for slot := range Count {
		_, err := s.state(slot)
		if err == nil {
			continue
		}
		if !errors.Is(err, tpm.ErrCleared) {
			return err
		}
		pub, err := s.Public(slot)
		if err != nil {
			return err
		}
		if err := s.TPM.NVDefine(pub, auths.Owner, s.SRKPublic); err != nil {
			return fmt.Errorf("NV slot %d: %w", slot, err)
		}
	}
	return nil
}

// Prepare does what needs no network: it has the TPM verify the policy's
// signature, opens a session and satisfies it, in five commands. The one read
// that the release asks for is then one command. Extend no PCR in between.
func (s *Slots) Prepare(policy *pcrpolicy.Policy) error {
	if s.approval == nil || s.policy != policy {
		area, err := pcrpolicy.KeyPublic(s.PolicyKey)
		if err != nil {
			return err
		}
		s.Close()
		if s.approval, err = s.TPM.Approve(area, policy); err != nil {
			return err
		}
		s.policy = policy
	}
	return s.satisfy(tpm.EncryptResponse)
}

// satisfy makes a session ready to authorize one command.
func (s *Slots) satisfy(enc tpm.Encrypt) error {
	if s.session != nil && s.encrypt != enc {
		s.drop()
	}
	if s.satisfied {
		return nil
	}
	if s.approval == nil {
		return errors.New("NV slots: Prepare was not called, or failed")
	}
	if s.session == nil {
		session, err := s.TPM.StartPolicy(s.SRKPublic, enc)
		if err != nil {
			s.drop()
			return err
		}
		s.session, s.encrypt = session, enc
	}
	if err := s.session.Satisfy(s.approval, measure.ImagePCRs()); err != nil {
		s.drop()
		return err
	}
	s.satisfied = true
	return nil
}

// drop ends the session, whose policy digest is of no use after a failed
// command, and leaves nothing of ours loaded in the TPM.
func (s *Slots) drop() {
	if s.session != nil {
		s.session.Close()
	}
	if s.approval != nil {
		s.approval.Release()
	}
	s.session, s.satisfied = nil, false
}

// Close leaves nothing of ours loaded in the TPM. Prepare may follow.
func (s *Slots) Close() {
	s.drop()
	s.approval, s.policy = nil, nil
}

// use runs one NV command in a satisfied session. A session that was satisfied
// earlier may have died meanwhile, by a PCR that moved: then once more with a
// fresh one.
func (s *Slots) use(enc tpm.Encrypt, command func() error) error {
	fresh := !s.satisfied || s.encrypt != enc
	for {
		if err := s.satisfy(enc); err != nil {
			return err
		}
		err := command()
		if err == nil {
			s.satisfied = false // the TPM has reset the session's policy digest
			return nil
		}
		s.drop()
		if fresh || !errors.Is(err, tpm.ErrPolicy) {
			return err
		}
		fresh = true
	}
}

// Read returns the record of a slot, keyblob.Size bytes, as one command where
// Prepare was called. The index's name, with all its guards, is computed and not
// asked for: a slot with other guards does not read.
func (s *Slots) Read(slot int) ([]byte, error) {
	pub, err := s.Public(slot)
	if err != nil {
		return nil, err
	}
	pub.Attributes.Written = true
	var record []byte
	err = s.use(tpm.EncryptResponse, func() (err error) {
		record, err = s.session.NVRead(pub)
		return err
	})
	if err != nil {
		return nil, s.explain(slot, err)
	}
	if len(record) != keyblob.Size {
		return nil, fmt.Errorf("NV slot %d: %d bytes, expected %d", slot, len(record), keyblob.Size)
	}
	return record, nil
}

// explain asks, after a failed read, what state the slot is in.
func (s *Slots) explain(slot int, failure error) error {
	pub, err := s.state(slot)
	switch {
	case err != nil:
		return err
	case pub.Attributes.ReadLocked:
		return fmt.Errorf("NV slot %d: %w", slot, tpm.ErrNVLocked)
	case !pub.Attributes.Written:
		return fmt.Errorf("NV slot %d: %w", slot, tpm.ErrNVBlank)
	case errors.Is(failure, tpm.ErrAuth):
		// The session's salt went to another SRK than the slice's.
		return fmt.Errorf("NV slot %d: %w: %w", slot, tpm.ErrOtherTPM, failure)
	}
	return fmt.Errorf("NV slot %d: %w", slot, failure)
}

// Written tells whether a slot was ever written.
func (s *Slots) Written(slot int) (bool, error) {
	pub, err := s.state(slot)
	if err != nil {
		return false, err
	}
	return pub.Attributes.Written, nil
}

// Write writes a record into the slot of its generation. Read it back before
// relying on it.
func (s *Slots) Write(record []byte) error {
	h, err := keyblob.Parse(record)
	if err != nil {
		return fmt.Errorf("write NV slot: %w", err)
	}
	pub, err := s.state(h.Slot)
	if err != nil {
		return err
	}
	err = s.use(tpm.EncryptCommand, func() error { return s.session.NVWrite(pub, record) })
	if err != nil {
		return fmt.Errorf("NV slot %d: %w", h.Slot, err)
	}
	return nil
}

// LockBoth locks both slots against reading until the TPM restarts. kexec does
// not restart it. Extend the cap only afterwards: locking needs the policy.
func (s *Slots) LockBoth() error {
	for slot := range Count {
		pub, err := s.state(slot)
		if err != nil {
			return err
		}
		if pub.Attributes.ReadLocked {
			continue
		}
		if err := s.use(tpm.EncryptNone, func() error { return s.session.NVReadLock(pub) }); err != nil {
			return fmt.Errorf("NV slot %d: %w", slot, err)
		}
	}
	return nil
}

// Package provision prepares a device's TPM in the factory, and makes the key
// that its disks will be encrypted with. Every step may be cut at any TPM
// command and run again; nothing may be encrypted before SealKeys returned.
package provision

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/tpm"
)

// Fleet is what provisioning asks of the key servers. *kekclient.Client is one.
type Fleet interface {
	Enroll(ctx context.Context, e kekclient.Evidence, activate kekclient.Activate) (*kekproto.Enrolled, error)
	Auths(ctx context.Context, q kekclient.Quoter) (owner, lockout *secret.Bytes, err error)
	CreateKEK(ctx context.Context, q kekclient.Quoter, generation uint32) (*kekclient.KEK, error)
}

// FirstGeneration is the KEK generation that a device is sealed under first.
const FirstGeneration = 1

// ErrInUse: disks are encrypted already, but the slot does not give their key.
// Sealing with a new key would lose them: use the other slot or the recovery
// key.
var ErrInUse = errors.New("disks are encrypted with a key that this TPM does not hold: no new key is made")

// Device is a device in the factory.
type Device struct {
	TPM       *tpm.TPM
	Fleet     Fleet
	PolicyKey *rsa.PublicKey // from the image
	Logf      func(format string, args ...any)
}

func (d *Device) logf(format string, args ...any) {
	if d.Logf != nil {
		d.Logf(format, args...)
	}
}

// Quoter quotes with the TPM's own current PCR values.
func Quoter(t *tpm.TPM) kekclient.Quoter {
	return kekclient.QuoterFunc(func(qualifying []byte) (kekproto.Quote, error) {
		pcrs, err := t.ReadPCRs()
		if err != nil {
			return kekproto.Quote{}, err
		}
		return t.Quote(qualifying, pcrs)
	})
}

// Provision makes the keys, defines both slots, enrols the device with a one-use
// token, sets the TPM's authorizations and disables Clear. It may be run
// again, then with a used token or none. A TPM that cannot do is refused before
// anything is made in it. Its errors are *report.Problem.
func (d *Device) Provision(ctx context.Context, token *secret.Bytes) (*tpm.Keys, error) {
	keys, err := d.provision(ctx, token)
	return keys, Problem(d.TPM, err)
}

func (d *Device) provision(ctx context.Context, token *secret.Bytes) (*tpm.Keys, error) {
	if err := d.TPM.Flush(); err != nil {
		return nil, err
	}
	if err := d.TPM.CheckBanks(); err != nil {
		return nil, err
	}
	d.logf("TPM: making keys")
	keys, err := d.TPM.CreateKeys()
	if err != nil {
		return nil, err
	}
	// Before the fleet has a say: an operator who must approve this device reads
	// the name here, and not from whoever asks for the approval.
	ek, err := attest.Name(keys.EK)
	if err != nil {
		return nil, fmt.Errorf("name of the EK: %w", err)
	}
	d.logf("EK name %s", ek)
	// Before the fleet has a say, too: a TPM without room uses up no token, and
	// its owner can still make some.
	if err := d.defineUnowned(keys); err != nil {
		return nil, err
	}
	auths, err := d.enrol(ctx, keys, token)
	if err != nil {
		return nil, err
	}
	defer auths.Wipe()
	d.logf("TPM: setting authorizations")
	if err := d.TPM.SetAuths(auths, keys.SRK); err != nil {
		return nil, err
	}
	return keys, d.slots(keys).Define(auths) // on a TPM that was owned before
}

// defineUnowned defines the slots where the owner's authorization is empty yet.
func (d *Device) defineUnowned(keys *tpm.Keys) error {
	state, err := d.TPM.State()
	if err != nil || state.OwnerAuth {
		return err
	}
	d.logf("TPM: defining NV slots")
	return d.slots(keys).Define(&tpm.Auths{Owner: secret.New(0)})
}

func (d *Device) slots(keys *tpm.Keys) *nvslot.Slots {
	return &nvslot.Slots{TPM: d.TPM, SRKPublic: keys.SRK, PolicyKey: d.PolicyKey}
}

// enrol makes the fleet know the device and returns the authorizations, which
// are durable there by then. The power may have been cut after the fleet took
// the token: a device that is known already gets its authorizations.
func (d *Device) enrol(ctx context.Context, keys *tpm.Keys, token *secret.Bytes) (*tpm.Auths, error) {
	cert, err := d.TPM.EKCertificate()
	if err != nil {
		return nil, err
	}
	d.logf("fleet: enrolling")
	_, refused := d.Fleet.Enroll(ctx, kekclient.Evidence{
		Token: token, EKPublic: keys.EK, EKCert: cert, AKPublic: keys.AK, SRKPublic: keys.SRK,
	}, func(credential, encrypted []byte) ([]byte, error) {
		return d.TPM.ActivateCredential(credential, encrypted, keys.SRK)
	})
	owner, lockout, err := d.Fleet.Auths(ctx, Quoter(d.TPM))
	switch {
	case err == nil:
		return &tpm.Auths{Owner: owner, Lockout: lockout}, nil
	case refused == nil:
		return nil, fmt.Errorf("fetch the TPM's authorizations: %w", err)
	case unknown(err):
		return nil, fmt.Errorf("enrol: %w", refused)
	}
	return nil, fmt.Errorf("enrol: %w; fetch the TPM's authorizations: %w", refused, err)
}

// unknown tells whether the fleet itself said that it does not know the device,
// which is no news about one that it would not enrol.
func unknown(err error) bool {
	var p *report.Problem
	return errors.As(err, &p) && (p.Code == report.KeyUnknown || p.Code == report.KeyEnroll)
}

// Key is a DEK that is safe in NV. The receiver wipes DEK.
type Key struct {
	DEK        *secret.Bytes
	KEKID      [keyblob.IDSize]byte
	Generation uint32
}

// SealKeys returns the device's DEK once it is wrapped under the KEK of a
// generation, written, read back and unwrapped again; the KEK is durable at the
// fleet before. Run again, it returns the DEK that is there. slots must be
// prepared. inUse says that some disk is encrypted already: then no new DEK is
// ever made, but ErrInUse returned. Its errors are *report.Problem.
func (d *Device) SealKeys(ctx context.Context, slots *nvslot.Slots, device string, generation uint32, inUse bool) (*Key, error) {
	key, err := d.sealKeys(ctx, slots, device, generation, inUse)
	return key, Problem(d.TPM, err)
}

func (d *Device) sealKeys(ctx context.Context, slots *nvslot.Slots, device string, generation uint32, inUse bool) (*Key, error) {
	d.logf("fleet: making KEK generation %d durable", generation)
	kek, err := d.Fleet.CreateKEK(ctx, Quoter(d.TPM), generation)
	if err != nil {
		return nil, fmt.Errorf("create KEK: %w", err)
	}
	defer kek.Key.Wipe()
	id := keyblob.Ident{Device: device, KEKID: kek.ID, Generation: kek.Generation}
	if kek.Generation != generation {
		return nil, fmt.Errorf("create KEK: the fleet sent generation %d, asked for %d", kek.Generation, generation)
	}
	dek, err := existing(slots, kek.Key, id)
	if err != nil {
		if inUse {
			return nil, fmt.Errorf("%w: %w", ErrInUse, err)
		}
		if !errors.Is(err, tpm.ErrNVBlank) && !errors.Is(err, keyblob.ErrBlank) && !errors.Is(err, keyblob.ErrCorrupt) {
			return nil, err
		}
		d.logf("TPM: writing a new wrapped key: %v", err)
		if dek, err = d.fresh(slots, kek.Key, id); err != nil {
			return nil, err
		}
	}
	return &Key{DEK: dek, KEKID: kek.ID, Generation: generation}, nil
}

// existing opens the record that is there.
func existing(slots *nvslot.Slots, kek *secret.Bytes, id keyblob.Ident) (*secret.Bytes, error) {
	record, err := slots.Read(keyblob.Slot(id.Generation))
	if err != nil {
		return nil, err
	}
	return keyblob.Unwrap(kek, record, id)
}

// fresh makes a DEK and writes it, then opens what the TPM gives back.
func (d *Device) fresh(slots *nvslot.Slots, kek *secret.Bytes, id keyblob.Ident) (*secret.Bytes, error) {
	made := secret.Random(keyblob.KeySize)
	defer made.Wipe()
	record, err := keyblob.Wrap(kek, made, id)
	if err != nil {
		return nil, err
	}
	if err := slots.Write(record); err != nil {
		return nil, err
	}
	dek, err := existing(slots, kek, id)
	if err != nil {
		return nil, fmt.Errorf("read back the wrapped key: %w", err)
	}
	if !dek.Equal(made) {
		dek.Wipe()
		return nil, fmt.Errorf("read back the wrapped key: it is another one: %w", keyblob.ErrCorrupt)
	}
	return dek, nil
}

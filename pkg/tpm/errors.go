package tpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Troubles that a caller tells apart, each with cause and repair. The TPM's own
// response code is wrapped beside them.
var (
	// ErrDevice: the TPM does not answer at all. Power-cycle the machine; if it
	// stays, the TPM or its bus is broken.
	ErrDevice = errors.New("TPM does not answer")
	// ErrBusy: another program holds the raw device. Stop it.
	ErrBusy = errors.New("TPM device is in use by another program")
	// ErrLockout: dictionary-attack lockout after failed authorizations. Leave
	// the machine powered until it recovers by itself, or clear the counter with
	// the lockout authorization that the fleet holds. Booting does not need it.
	ErrLockout = errors.New("TPM is in dictionary-attack lockout")
	// ErrCleared: the keys or slots that seal made are gone. The TPM was cleared
	// or replaced: use the recovery key, then provision and seal again.
	ErrCleared = errors.New("TPM holds none of this device's keys: it was cleared or never provisioned")
	// ErrOtherTPM: keys are there, but not the ones of the slice. The board, its
	// TPM or the boot disk was swapped: put them back, or amend the slice.
	ErrOtherTPM = errors.New("TPM is not the one this device was sealed with")
	// ErrNVFull: no room for two slots of 128 bytes. Undefine NV indices that
	// nothing uses, or clear the TPM in the firmware's setup before provisioning.
	ErrNVFull = errors.New("TPM has no NV space left")
	// ErrBanks: the TPM does not keep the PCRs in SHA-256. Switch that bank on in
	// the firmware's setup; a TPM without it must be replaced.
	ErrBanks = errors.New("TPM keeps no PCRs in SHA-256")
	// ErrNVLocked: the slot was read-locked since the last restart, as uinit
	// does before it leaves. Restart the machine; kexec is not enough.
	ErrNVLocked = errors.New("NV slot is locked until the machine restarts")
	// ErrNVBlank: the slot was defined, but never written. Seal the device.
	ErrNVBlank = errors.New("NV slot was never written")
	// ErrPolicy: PCR values are not those of an approved image, or moved while
	// in use. Boot the right image; if it is right, bring its signed policy.
	ErrPolicy = errors.New("TPM refuses: the measured boot fits no approved policy")
	// ErrAuth: an authorization is not the one the fleet escrowed. Clear the TPM
	// in the firmware's setup, then provision again.
	ErrAuth = errors.New("TPM refuses the authorization")
	// ErrState: the TPM holds something that provisioning did not make. Clear it
	// in the firmware's setup, then provision again.
	ErrState = errors.New("TPM is in a state that provisioning cannot continue from")
)

// wrap names what was attempted and classifies the response code
// (TPM 2.0 Part 2, 6.6.3).
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	for _, c := range []struct {
		rc   tpm2.TPMRC
		kind error
	}{
		{tpm2.TPMRCLockout, ErrLockout},
		{tpm2.TPMRCNVSpace, ErrNVFull},
		{tpm2.TPMRCNVLocked, ErrNVLocked},
		{tpm2.TPMRCNVUninitialized, ErrNVBlank},
		{tpm2.TPMRCPolicyFail, ErrPolicy},
		{tpm2.TPMRCPCRChanged, ErrPolicy},
		{tpm2.TPMRCHandle, ErrCleared},
		{tpm2.TPMRCBadAuth, ErrAuth},
		{tpm2.TPMRCAuthFail, ErrAuth},
	} {
		if errors.Is(err, c.rc) {
			return fmt.Errorf("%s: %w: %w", what, c.kind, err)
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

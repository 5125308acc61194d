package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/secret"
)

// The recovery keyslot (docs/spec/recovery.md). Its key has 256 bits of entropy,
// so the costs protect nothing: they are what people expect of a LUKS2 keyslot,
// and small enough for a rescue system.
const (
	recoverySlot   = 1
	recoveryPasses = 4
	recoveryMemory = 64 << 10 // KiB
)

// recovery makes keyslot 1 what the plan says: a keyslot that the recovery key
// opens, or none. Without m.Recovery, the keyslot stays as it is.
func (m *Maker) recovery(ctx context.Context, dek *secret.Bytes, job *Job) error {
	if !job.Spec.Factory.Recovers() {
		return m.dropRecovery(ctx, job)
	}
	if m.Recovery == nil {
		return nil
	}
	text, err := keyblob.RecoveryText(m.Recovery)
	if err != nil {
		return err
	}
	defer text.Wipe()
	if ok, err := recoveryOpens(ctx, job, text); ok || err != nil {
		return err
	}
	// Cut off while it was written, or of a key that the fleet does not have.
	if err := m.dropRecovery(ctx, job); err != nil {
		return err
	}
	if err := m.addRecovery(ctx, dek, job, text); err != nil {
		return err
	}
	ok, err := recoveryOpens(ctx, job, text)
	if err == nil && !ok {
		err = errors.New("the recovery key does not open the volume that it was just put into")
	}
	if err == nil {
		m.logf("%s: has its recovery key: safe to power off", job.Spec.Name)
	}
	return err
}

// recoveryOpens opens keyslot 1 with our own code, which no cryptsetup and no
// header of the disk can talk into another keyslot.
func recoveryOpens(ctx context.Context, job *Job, text *secret.Bytes) (bool, error) {
	h, err := readHeader(job.Device)
	if err != nil {
		return false, err
	}
	if !hasRecovery(h) {
		return false, nil
	}
	file, err := os.Open(job.Device.Path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	key, err := h.Unlock(ctx, file, text, luks2.UnlockOptions{Keyslots: []int{recoverySlot}, MaxMemory: recoveryMemory})
	var kind *luks2.HeaderError // a keyslot that we never write
	if errors.Is(err, luks2.ErrNoKeyslot) || errors.Is(err, luks2.ErrBudget) || errors.As(err, &kind) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	key.Wipe()
	return true, nil
}

func hasRecovery(h *luks2.Header) bool {
	return slices.ContainsFunc(h.Keyslots, func(k luks2.Keyslot) bool { return k.ID == recoverySlot })
}

// dropRecovery removes keyslot 1. The DEK's own keyslot must open first: without
// it, keyslot 1 may be the only way to the data.
func (m *Maker) dropRecovery(ctx context.Context, job *Job) error {
	h, err := readHeader(job.Device)
	if err != nil || !hasRecovery(h) {
		return err
	}
	_, err = m.tools().run(ctx, command{name: "cryptsetup",
		args: []string{"luksKillSlot", "--batch-mode", job.Device.Path, strconv.Itoa(recoverySlot)}})
	if err != nil {
		return fmt.Errorf("remove keyslot %d: %w", recoverySlot, err)
	}
	return nil
}

// addRecovery writes keyslot 1.
func (m *Maker) addRecovery(ctx context.Context, dek *secret.Bytes, job *Job, text *secret.Bytes) error {
	pass, err := luks2.Passphrase(dek, job.Spec.UUID)
	if err != nil {
		return err
	}
	defer pass.Wipe()
	_, err = m.tools().run(ctx, command{name: "cryptsetup", args: []string{"luksAddKey", "--batch-mode",
		"--key-file", "-", "--key-slot", strconv.Itoa(recoverySlot), "--pbkdf", luks2.KDFArgon2id,
		"--pbkdf-force-iterations", strconv.Itoa(recoveryPasses), "--pbkdf-memory", strconv.Itoa(recoveryMemory), "--pbkdf-parallel", "1",
		"--hash", "sha256", job.Device.Path, extraPath}, input: pass.Expose(), extra: text.Expose()})
	if err != nil {
		return fmt.Errorf("add the recovery key: %w", err)
	}
	return nil
}

package luks2

import (
	"context"
	"fmt"
	"io"

	"github.com/landfall-project/landfall/pkg/secret"
)

// OpenSealed does all that a boot must do before it maps a volume, in the order
// that cannot be got wrong: read and validate the header of dev (size bytes),
// compare its UUID with the slice's, unlock the token's keyslots with the
// passphrase that comes from the DEK, and verify the volume-key MAC.
//
// Besides Read's and Unlock's errors it returns ErrOtherVolume, ErrNoToken and
// ErrMAC. After ErrMAC or any *HeaderError another disk with the same UUID may
// still be the real one. opts.Keyslots is ignored. The result is the caller's
// to wipe.
func OpenSealed(ctx context.Context, dev io.ReaderAt, size int64, uuid string, dek *secret.Bytes, opts UnlockOptions) (*VolumeKey, error) {
	h, err := Read(dev, size)
	if err != nil {
		return nil, err
	}
	if h.UUID != uuid {
		return nil, fmt.Errorf("volume %s, want %s: %w", h.UUID, uuid, ErrOtherVolume)
	}
	token, err := FindToken(h)
	if err != nil {
		return nil, err
	}
	passphrase, err := Passphrase(dek, h.UUID)
	if err != nil {
		return nil, err
	}
	defer passphrase.Wipe()
	opts.Keyslots = token.Keyslots
	vk, err := h.Unlock(ctx, dev, passphrase, opts)
	if err != nil {
		return nil, err
	}
	if err := VerifyMAC(dek, vk, token.MAC); err != nil {
		vk.Wipe()
		return nil, err
	}
	return vk, nil
}

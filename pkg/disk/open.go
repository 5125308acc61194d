package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Why a volume does not open. Open wraps them together with pkg/luks2's errors.
var (
	// errMissing: no device carries the volume's UUID. Look at the disk and
	// its cable; a header that was refused is named.
	errMissing = errors.New("no disk with this volume was found")
	// ErrRefused: devices carry the UUID, none is the one that was sealed.
	// Put the right disk in.
	ErrRefused = errors.New("no disk with this UUID is the one that was sealed")
	// ErrTwins: two devices pass every check, so one is a copy of the other
	// and nobody knows which is newer. Take one out.
	ErrTwins = errors.New("two disks are the same sealed volume")
)

// The passphrase keyslot that seal makes is PBKDF2 at the minimum; a header
// that asks for more was edited and only wants to cost memory or time.
const (
	keyslotMaxMemory = 1 // KiB: no argon2
	keyslotMaxWork   = 1 << 20
)

// Volume is one opened volume: found, proved, not mapped yet.
type Volume struct {
	Spec   snapshot.Volume
	Device Device
	Key    *luks2.VolumeKey // the caller wipes it
	// Header is a detached header for whoever opens the volume next.
	Header []byte

	// Ignored names other devices with the same UUID and why they were left
	// out: worth a line on the console.
	Ignored []error
}

// Open opens the volume v of a device with the given DEK. Of all candidates
// the only one is taken whose passphrase, token and volume-key MAC hold; there
// is no other way in. device is the device's ID, as recorded in the token.
func (f *Finder) Open(ctx context.Context, dek *secret.Bytes, device string, v snapshot.Volume) (*Volume, error) {
	f.mu.Lock()
	candidates := slices.Clone(f.found[v.UUID])
	f.mu.Unlock()
	if len(candidates) == 0 {
		return nil, fmt.Errorf("volume %s (%s): %w%s", v.Name, v.UUID, errMissing, f.refusals())
	}
	var good *Volume
	var bad []error
	for _, c := range candidates {
		key, header, err := openCandidate(ctx, c, dek, device, v)
		switch {
		case err != nil:
			bad = append(bad, fmt.Errorf("%s: %w", c.dev.Path, err))
		case good != nil && samePlace(good.Device, c.dev):
			key.Wipe() // the same drive by its other port
		case good != nil:
			key.Wipe()
			good.Key.Wipe()
			return nil, fmt.Errorf("volume %s: %s and %s: %w", v.Name, good.Device.Path, c.dev.Path, ErrTwins)
		default:
			good = &Volume{Spec: v, Device: c.dev, Key: key, Header: header}
		}
	}
	if good == nil {
		return nil, fmt.Errorf("volume %s (%s): %w: %w", v.Name, v.UUID, ErrRefused, errors.Join(bad...))
	}
	good.Ignored = bad
	return good, nil
}

// refusals names the devices whose LUKS header was refused or could not be
// read: one of them may be the missing volume.
func (f *Finder) refusals() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for _, err := range f.refused {
		lines = append(lines, err.Error())
	}
	if f.pending > 0 {
		lines = append(lines, fmt.Sprintf("%d devices have not answered yet", f.pending))
	}
	if len(lines) == 0 {
		return ""
	}
	slices.Sort(lines)
	return "; " + strings.Join(lines, "; ")
}

func openCandidate(ctx context.Context, c candidate, dek *secret.Bytes, device string, v snapshot.Volume) (*luks2.VolumeKey, []byte, error) {
	file, err := os.Open(c.dev.Path)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	key, err := unlock(ctx, file, c.header, dek)
	if err != nil {
		return nil, nil, err
	}
	token, err := luks2.FindToken(c.header)
	if err == nil {
		err = luks2.VerifyMAC(dek, key, token.MAC)
	}
	if err == nil && (token.Device != device || token.Volume != v.Name) {
		err = fmt.Errorf("%w: its token says volume %s of %s", luks2.ErrMAC, token.Volume, token.Device)
	}
	var header []byte
	if err == nil {
		header, err = c.header.Detached(file, key)
	}
	if err != nil {
		key.Wipe()
		return nil, nil, err
	}
	return key, header, nil
}

// unlock opens the volume with the passphrase that comes from the DEK.
func unlock(ctx context.Context, file *os.File, h *luks2.Header, dek *secret.Bytes) (*luks2.VolumeKey, error) {
	pass, err := luks2.Passphrase(dek, h.UUID)
	if err != nil {
		return nil, err
	}
	defer pass.Wipe()
	opts := luks2.UnlockOptions{MaxMemory: keyslotMaxMemory, MaxWork: keyslotMaxWork}
	if token, err := luks2.FindToken(h); err == nil {
		opts.Keyslots = token.Keyslots
	}
	return h.Unlock(ctx, file, pass, opts)
}

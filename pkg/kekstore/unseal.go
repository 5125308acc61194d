package kekstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/secret"
)

// Unsealer gives the barrier key to a starting member. Later forms (shares of
// agents, an upstream fleet, a cloud key service) fit in here.
type Unsealer interface {
	BarrierKey(ctx context.Context) (*secret.Bytes, error)
}

// exposed is what is true of a barrier key that others have read.
const exposed = "let nobody who may have read it come by the store or a backup of it, since it opens them all and no other key does: if somebody has both, make a new region and seal its devices anew"

// FileUnsealer reads the barrier key, 32 raw bytes, from a file that only its
// owner can read. The file belongs on a volume that is closed in transit.
type FileUnsealer struct{ Path string }

// BarrierKey implements Unsealer.
func (u FileUnsealer) BarrierKey(context.Context) (*secret.Bytes, error) {
	f, err := files.Open(u.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("barrier key %s is missing: bring the member's own key; a new one would not open its store: %w", u.Path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("barrier key: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("barrier key: %w", err)
	}
	if err := files.Private(f, exposed); err != nil {
		return nil, fmt.Errorf("barrier key: %w", err)
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("barrier key %s is not a regular file", u.Path)
	case info.Size() != BarrierKeySize:
		return nil, fmt.Errorf("barrier key %s has %d bytes, want %d: bring the member's own", u.Path, info.Size(), BarrierKeySize)
	}
	key, err := secret.Read(f, BarrierKeySize)
	if err != nil {
		return nil, fmt.Errorf("barrier key %s: %w", u.Path, err)
	}
	return key, nil
}

// CredentialUnsealer reads the barrier key from a systemd credential
// (LoadCredential= or LoadCredentialEncrypted=, systemd.exec(5)): Dir is
// $CREDENTIALS_DIRECTORY.
type CredentialUnsealer struct{ Dir, Name string }

// BarrierKey implements Unsealer.
func (u CredentialUnsealer) BarrierKey(ctx context.Context) (*secret.Bytes, error) {
	if u.Dir == "" {
		return nil, errors.New("barrier key from a systemd credential: CREDENTIALS_DIRECTORY is not set; start the member as a service with LoadCredentialEncrypted=" + u.Name)
	}
	return FileUnsealer{Path: filepath.Join(u.Dir, u.Name)}.BarrierKey(ctx)
}

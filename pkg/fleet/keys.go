package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/secret"
)

// kek is one generation of a device's key. Its user calls wipe.
type kek struct {
	id   [kekIDSize]byte
	key  *secret.Bytes
	pool chan *secret.Bytes
}

// wipe overwrites the key and keeps its locked memory for the next one: making
// and freeing locked pages is a fifteenth of what a release costs.
func (k *kek) wipe() {
	secret.Wipe(k.key.Expose())
	select {
	case k.pool <- k.key:
	default:
		k.key.Wipe()
	}
	k.key = nil
}

// keysInUse is how many wiped keys' memory is kept.
const keysInUse = 64

// parseKEK splits ID ‖ key and wipes data.
func (s *state) parseKEK(data []byte) (*kek, error) {
	defer secret.Wipe(data)
	if len(data) != kekIDSize+kekSize {
		return nil, fmt.Errorf("stored KEK of %d bytes", len(data))
	}
	k := &kek{pool: s.pool}
	select {
	case k.key = <-s.pool:
	default:
		k.key = secret.New(kekSize)
	}
	copy(k.id[:], data)
	copy(k.key.Expose(), data[kekIDSize:])
	return k, nil
}

func (s *state) kek(ctx context.Context, device string, generation uint32) (*kek, error) {
	v, err := s.store.Get(ctx, kekPath(device, generation))
	if err != nil {
		return nil, err
	}
	return s.parseKEK(v.Data)
}

// takeRecovery makes a stored value a key, and wipes it if it is none.
func takeRecovery(v kekstore.Value) (*secret.Bytes, error) {
	if len(v.Data) != kekproto.RecoverySize {
		secret.Wipe(v.Data)
		return nil, fmt.Errorf("stored recovery key of %d bytes", len(v.Data))
	}
	return secret.Take(v.Data), nil
}

func (s *state) recovery(ctx context.Context, device string) (*secret.Bytes, error) {
	v, err := s.store.Get(ctx, pathRecovery+device)
	if err != nil {
		return nil, err
	}
	return takeRecovery(v)
}

// escrowed says whether the device's recovery key is kept here.
func (s *state) escrowed(ctx context.Context, device string) (bool, error) {
	key, err := s.recovery(ctx, device)
	if errors.Is(err, kekstore.ErrNotFound) {
		return false, nil
	}
	if err == nil {
		key.Wipe()
	}
	return err == nil, err
}

// once returns the secret of n bytes at a path, which is the same for everybody
// who asks. If there is none it is made now, told of by the event; fresh says so.
// The caller wipes it.
func (m *Member) once(ctx context.Context, path string, n int, event func([]byte) audit.Record) (data []byte, fresh bool, err error) {
	v, err := m.state.store.Get(ctx, path)
	if errors.Is(err, kekstore.ErrNotFound) {
		random := secret.Random(n)
		defer random.Wipe()
		made := &change{[]audit.Record{event(random.Expose())}, []kekstore.Write{{Path: path, Data: random.Expose()}}}
		if err = m.commit(ctx, made); err == nil {
			return bytes.Clone(random.Expose()), true, nil
		}
		if errors.Is(err, kekstore.ErrConflict) { // somebody else was first
			v, err = m.state.store.Get(ctx, path)
		}
	}
	if err != nil {
		return nil, false, err
	}
	if len(v.Data) != n {
		secret.Wipe(v.Data)
		return nil, false, fmt.Errorf("%s holds %d bytes, not %d", path, len(v.Data), n)
	}
	return v.Data, false, nil
}

package kekserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// keys are the secrets of devices: each is made once, and told of.
type keys struct {
	*books
	state *state
}

// once returns the secret of n bytes at a path, which is the same for everybody
// who asks. If there is none it is made now, told of by the event; fresh says so.
// The caller wipes it.
func (k keys) once(ctx context.Context, path string, n int, event func([]byte) audit.Record) (data []byte, fresh bool, err error) {
	v, err := k.state.store.Get(ctx, path)
	if errors.Is(err, kekstore.ErrNotFound) {
		random := secret.Random(n)
		defer random.Wipe()
		err = k.commit(ctx, event(random.Expose()), kekstore.Write{Path: path, Data: random.Expose()})
		if err == nil {
			return bytes.Clone(random.Expose()), true, nil
		}
		if errors.Is(err, kekstore.ErrConflict) { // somebody else was first
			v, err = k.state.store.Get(ctx, path)
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

// ensure makes the KEK of the generation that the device asks for, unless there
// is one; fresh says that it did, and has recorded that the device gets it.
func (k keys) ensure(ctx context.Context, r *request) (fresh bool, err error) {
	if r.Generation > 1 {
		before, err := k.state.kek(ctx, r.Device, r.Generation-1)
		if err != nil {
			return false, fmt.Errorf("KEK generation %d before %d: %w", r.Generation, r.Generation-1, err)
		}
		before.wipe()
	}
	data, fresh, err := k.once(ctx, kekPath(r.Device, r.Generation), kekIDSize+kekSize, func(data []byte) audit.Record {
		return r.kekEvent("kek-created", data[:kekIDSize], r.Generation)
	})
	secret.Wipe(data)
	return fresh, err
}

func (r *request) kekEvent(name string, id []byte, generation uint32) audit.Record {
	rec := r.event(name)
	rec.KEK, rec.Generation, rec.Links = hexID(id), uint64(generation), linkCount(r.links)
	return rec
}

// auths returns owner ‖ lockout authorization, made now if there are none,
// and records that the device gets them. No byte is zero: an authorization's
// trailing zeros do not count (TPM 2.0 Part 1, 17.6.4.3), and go-tpm cuts it at its
// first one.
func (k keys) auths(ctx context.Context, r *request) (*secret.Bytes, error) {
	data, fresh, err := k.once(ctx, authsPath(r.Device, r.device.Life), authsSize, func([]byte) audit.Record { return r.event("auths") })
	if err != nil {
		return nil, err
	}
	for i, b := range data {
		data[i] = max(b, 1)
	}
	both := secret.Take(data)
	if !fresh {
		err = k.record(ctx, r.event("auths"))
	}
	if err != nil {
		both.Wipe()
		return nil, err
	}
	return both, nil
}

// sealed notes that the device's key is wrapped under a generation.
func (k keys) sealed(ctx context.Context, r *request) error {
	there, err := k.state.kek(ctx, r.Device, r.Generation)
	if errors.Is(err, kekstore.ErrNotFound) {
		return report.Errorf(report.KeyUnknown, "%s has no KEK of generation %d", r.Device, r.Generation)
	}
	if err != nil {
		return err
	}
	there.wipe()
	ev := r.event("sealed")
	ev.Generation = uint64(r.Generation)
	if r.device.Sealed == r.Generation {
		return k.record(ctx, ev)
	}
	rec := r.device.deviceRecord
	rec.Sealed = r.Generation
	return k.replace(ctx, ev, pathDevices+r.Device, r.device.version, &rec)
}

package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// give makes the answer to a request that passed every rule. What it gives away
// is recorded before it returns.
func (r *request) give(ctx context.Context) (*kekproto.Response, error) {
	switch r.Op {
	case kekproto.OpRelease:
		return r.release(ctx)
	case kekproto.OpKEK:
		return r.kek(ctx)
	case kekproto.OpAuths:
		return r.auths(ctx)
	case kekproto.OpRecovery:
		return r.escrow(ctx)
	case kekproto.OpSealed:
		return r.sealed(ctx)
	case kekproto.OpSlice:
		return r.news(ctx)
	case kekproto.OpCapture:
		return r.capture(ctx)
	case kekproto.OpProgress:
		return r.progress(ctx)
	}
	return nil, malformed(fmt.Errorf("no answer is known to %q", r.Op))
}

// release hands out the KEK of the generation under which the device is sealed.
func (r *request) release(ctx context.Context) (*kekproto.Response, error) {
	if r.device.Sealed == 0 {
		return nil, report.Errorf(report.KeyUnknown, "%s never reported to be sealed: there is no key for it yet; run `seal` to its end in the factory image", r.Device)
	}
	out, err := r.giveKEK(ctx, r.device.Sealed, audit.EventRelease)
	if err != nil {
		return nil, err
	}
	return &kekproto.Response{KEK: out, Policy: r.policy}, nil
}

// kek makes or returns the KEK of a generation, while the device is being
// sealed.
func (r *request) kek(ctx context.Context) (*kekproto.Response, error) {
	if r.Generation == 0 {
		return nil, report.Errorf(report.KeyProtocol, "KEK generations start at 1")
	}
	if next := uint64(r.device.Sealed) + 1; uint64(r.Generation) > next || uint64(r.Generation)+1 < next {
		return nil, report.Errorf(report.KeyProtocol, "%s is sealed under KEK generation %d: it gets that one or the next, not %d", r.Device, r.device.Sealed, r.Generation)
	}
	fresh, err := r.ensureKEK(ctx)
	if err != nil {
		return nil, err
	}
	event := audit.EventKEK
	if fresh {
		event = "" // it is recorded
	}
	out, err := r.giveKEK(ctx, r.Generation, event)
	if err != nil {
		return nil, err
	}
	return &kekproto.Response{KEK: out}, nil
}

// ensureKEK makes the KEK of the generation that the device asks for, unless there
// is one; fresh says that it did, and has recorded that the device gets it.
func (r *request) ensureKEK(ctx context.Context) (fresh bool, err error) {
	if r.Generation > 1 {
		before, err := r.member.state.kek(ctx, r.Device, r.Generation-1)
		if err != nil {
			return false, fmt.Errorf("KEK generation %d before %d: %w", r.Generation, r.Generation-1, err)
		}
		before.wipe()
	}
	data, fresh, err := r.member.once(ctx, kekPath(r.Device, r.Generation), kekIDSize+kekSize, func(data []byte) audit.Record {
		return r.kekEvent(audit.EventKEKCreated, data[:kekIDSize], r.Generation)
	})
	secret.Wipe(data)
	return fresh, err
}

// giveKEK seals a KEK to the request's key. The audit record is durable before
// it returns; without an event it was before.
func (r *request) giveKEK(ctx context.Context, generation uint32, event audit.Event) (*kekproto.KEK, error) {
	k, err := r.member.state.kek(ctx, r.Device, generation)
	if err != nil {
		return nil, err
	}
	defer k.wipe()
	sealed, err := r.sealTo(k.key)
	if err != nil {
		return nil, err
	}
	if event != "" {
		if err := r.member.ledger.Record(ctx, r.kekEvent(event, k.id[:], generation)); err != nil {
			return nil, err
		}
	}
	return &kekproto.KEK{ID: k.id[:], Generation: generation, Sealed: sealed}, nil
}

// auths hands out owner ‖ lockout authorization of the device's TPM, made now if
// there are none, durable here before the TPM has them. No byte is zero: an
// authorization's trailing zeros do not count (TPM 2.0 Part 1, 17.6.4.3), and
// go-tpm cuts it at its first one.
func (r *request) auths(ctx context.Context) (*kekproto.Response, error) {
	event := r.event(audit.EventAuths)
	data, fresh, err := r.member.once(ctx, authsPath(r.Device, r.device.Life), authsSize, func([]byte) audit.Record { return event })
	if err != nil {
		return nil, err
	}
	for i, b := range data {
		data[i] = max(b, 1)
	}
	sealed, err := r.giveSecret(ctx, data, fresh, event)
	if err != nil {
		return nil, err
	}
	return &kekproto.Response{Auths: sealed}, nil
}

// escrow makes or returns the key of the device's recovery keyslots.
func (r *request) escrow(ctx context.Context) (*kekproto.Response, error) {
	made := func([]byte) audit.Record { return r.event(audit.EventRecoveryEscrowed) }
	data, fresh, err := r.member.once(ctx, pathRecovery+r.Device, kekproto.RecoverySize, made)
	if err != nil {
		return nil, err
	}
	sealed, err := r.giveSecret(ctx, data, fresh, r.event(audit.EventRecovery))
	if err != nil {
		return nil, err
	}
	return &kekproto.Response{Recovery: sealed}, nil
}

// giveSecret seals a secret to the request's key, wipes it, and records that the
// device gets it, unless it was made for this request, which is recorded.
func (r *request) giveSecret(ctx context.Context, data []byte, fresh bool, event audit.Record) (*kekproto.Secrets, error) {
	plain := secret.Take(data)
	defer plain.Wipe()
	sealed, err := r.sealTo(plain)
	if err == nil && !fresh {
		err = r.member.ledger.Record(ctx, event)
	}
	if err != nil {
		return nil, err
	}
	return &kekproto.Secrets{Sealed: sealed}, nil
}

func (r *request) sealTo(plain *secret.Bytes) ([]byte, error) {
	sealed, err := kekproto.Seal(r.HPKEPublic, kekproto.Info(r.Op, r.raw), plain)
	if err != nil {
		return nil, report.Errorf(report.KeyProtocol, "%w", err)
	}
	return sealed, nil
}

// sealed notes that the device's key is wrapped under a generation. It only rises:
// a word of an earlier one came late, and with it the next release would give a KEK
// that opens nothing.
func (r *request) sealed(ctx context.Context) (*kekproto.Response, error) {
	if r.Generation < r.device.Sealed {
		return nil, report.Errorf(report.KeyProtocol, "%s is sealed under KEK generation %d: that it was under generation %d is over", r.Device, r.device.Sealed, r.Generation)
	}
	there, err := r.member.state.kek(ctx, r.Device, r.Generation)
	if errors.Is(err, kekstore.ErrNotFound) {
		return nil, report.Errorf(report.KeyUnknown, "%s has no KEK of generation %d", r.Device, r.Generation)
	}
	if err != nil {
		return nil, err
	}
	there.wipe()
	ev := r.event(audit.EventSealed)
	ev.Generation = uint64(r.Generation)
	if r.device.Sealed == r.Generation {
		return &kekproto.Response{}, r.member.ledger.Record(ctx, ev)
	}
	rec := r.device.deviceRecord
	rec.Sealed = r.Generation
	made, err := replace(ev, pathDevices+r.Device, r.device.version, &rec)
	if err != nil {
		return nil, err
	}
	return &kekproto.Response{}, r.member.commit(ctx, made)
}

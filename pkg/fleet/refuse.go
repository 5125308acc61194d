package fleet

import (
	"context"
	"errors"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/report"
)

// Refused is why a device gets nothing.
type Refused struct {
	kekproto.Refusal
	Device   string       // who asked, if it showed who it is; else ""
	Unproved bool         // it named an enrolled device, and showed no quote of it
	Why      *Unexplained // set if an event log would explain it
	Fault    error        // that this member failed, for its own log; nil if it decided
	Untold   error        // that the refusal is not in the audit log, though it should be
}

// unproved is why a request was refused that named a device and did not show
// that it comes from it. Anybody can send one, so it must cost nothing durable.
type unproved struct {
	device string
	error
}

func (u *unproved) Unwrap() error { return u.error }

// refuse puts an error into words for a device, and keeps it for status and
// explain. Only that of a device that proved who it is goes into the audit log and
// counts as the device's own: nobody fills or blurs them from outside. r is nil
// otherwise.
func (m *Member) refuse(ctx context.Context, op kekproto.Op, r *request, peer string, err error) *Refused {
	if r == nil {
		return m.Refuse(ctx, op, "", peer, err)
	}
	return m.Refuse(ctx, op, r.Device, peer, err)
}

// Refuse is what the member's planes refuse by themselves: a body that cannot be
// read, or what came on a connection that it may not come on. device is "" unless
// it showed who it is.
func (m *Member) Refuse(ctx context.Context, op kekproto.Op, device, peer string, err error) *Refused {
	out := Word(device, err)
	var claim *unproved
	switch {
	case device != "":
		out.Untold = m.keepRefusal(ctx, op, peer, out)
	case errors.As(err, &claim):
		out.Unproved = true
		m.seen.Impostor(claim.device, op, out.Refusal, m.now())
	default:
		m.seen.Stranger()
	}
	return out
}

// Word is a refusal that is kept nowhere: one that does not take the place of the
// refusal that it is about.
func Word(device string, err error) *Refused {
	out := &Refused{Device: device}
	problem := &report.Problem{}
	if !errors.As(err, &problem) {
		out.Fault = err
		problem = &report.Problem{Code: report.KeyFleet, What: "this key server cannot answer now: " + publicCause(err), Err: err}
	}
	var wrong *wrongImage
	if errors.As(err, &wrong) {
		out.Why = wrong.Unexplained
	}
	out.Refusal = kekproto.Refusal{Code: string(problem.Code), Message: problem.What, Repair: problem.Repair()}
	return out
}

func (m *Member) keepRefusal(ctx context.Context, op kekproto.Op, peer string, out *Refused) error {
	if !m.seen.Refused(out.Device, op, out.Refusal, m.now()) {
		return nil
	}
	return m.ledger.Record(ctx, audit.Record{Event: audit.EventRefuse, Op: string(op), Device: out.Device, Code: out.Code, Detail: out.Message, Peer: peer})
}

// publicCause names the kind of an internal fault without its paths.
func publicCause(err error) string {
	full := audit.DiskFull(err)
	switch {
	case errors.Is(err, audit.ErrBroken) && full:
		return "its audit log cannot be written, since its disk is full"
	case errors.Is(err, audit.ErrBroken):
		return "its audit log cannot be written"
	case errors.Is(err, kekstore.ErrUnsure):
		return "its store's last write failed"
	case full:
		return "its disk is full"
	case errors.Is(err, kekstore.ErrTampered):
		return "its store is damaged"
	case errors.Is(err, kekstore.ErrConflict):
		return "something else changed the same record; try again"
	default:
		return "internal fault, see its log"
	}
}

package kekserver

import (
	"bytes"
	"context"
	"errors"
	"net/http"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
)

// check verifies an attested request, in this order: form and version, a device
// that is known, its quote over this connection and these bytes, then what the
// fleet decides by: TPM history, suspension, region state, image, slice. It
// returns the device's ID as soon as the request is known to come from it.
func (s *Server) check(r *http.Request, op kekproto.Op, body []byte) (*request, string, error) {
	a, req, err := kekproto.ParseAttested(body, op)
	if err != nil {
		return nil, "", requestProblem(err)
	}
	ctx := r.Context()
	v, err := s.state.view(ctx)
	if err != nil {
		return nil, "", err
	}
	d, err := s.state.device(ctx, v, req.Device)
	if errors.Is(err, kekstore.ErrNotFound) || (err == nil && !d.enrolled()) {
		return nil, "", report.Errorf(report.KeyUnknown, "no device %s was enrolled here", req.Device)
	}
	if err != nil {
		return nil, "", err
	}
	out := &request{Request: req, raw: a.Request, device: d, peer: r.RemoteAddr}
	exp, err := exporter(r)
	if err != nil {
		return nil, "", err
	}
	evidence, err := attest.Verify(a.Quote, d.ak, attest.Qualify(op.Label(), exp, a.Request))
	if err != nil {
		return nil, "", &unproved{req.Device, report.Errorf(report.KeyQuote, "%w", err)}
	}
	return out, req.Device, s.decide(ctx, v, out, evidence)
}

// wrongImage is why a genuine device was refused for what it booted, and what
// an event log that it offers would be looked at with.
type wrongImage struct {
	error
	*offer
}

func (w *wrongImage) Unwrap() error { return w.error }

// unproved is why a request was refused that named a device and did not show
// that it comes from it. Anybody can send one, so it must cost nothing durable.
type unproved struct {
	device string
	error
}

func (u *unproved) Unwrap() error { return u.error }

// decide is what the fleet knows and wants; the device is genuine by now.
func (s *Server) decide(_ context.Context, v *view, r *request, e *attest.Evidence) error {
	r.reset = e.ResetCount
	var err error
	if r.jump, err = s.seen.reset(r.Device, e.ResetCount); err != nil {
		return err
	}
	if r.Op == kekproto.OpRelease {
		r.firmware = firmware(e.PCRs)
		r.changed = s.seen.changed(r.Device, r.firmware)
	}
	if !r.device.Approved {
		return report.Errorf(report.KeyEnroll, "%s waits for approval: its EK certificate proves nothing; compare EK name %s at the machine, then `kekctl device approve`", r.Device, r.device.EKName)
	}
	if r.device.Suspended {
		return report.Errorf(report.KeySuspended, "%s is suspended: %s", r.Device, r.device.Reason)
	}
	role := measure.RoleFactory
	if r.Op == kekproto.OpRelease {
		role = measure.RoleServer
	}
	if err := allowed(v.region.State, role); err != nil {
		return err
	}
	image, near, why := v.images.match(e.PCRs, role, s.cfg.AllowLab)
	if image == nil {
		problem := report.Errorf(report.KeyImage, "%s", why)
		if near == nil { // a known image that gets nothing, or none is accepted
			problem.Do = "boot a released image that the fleet accepts for this; `kekctl manifest list` shows which"
		}
		return &wrongImage{problem, &offer{device: r.Device, op: r.Op, pcrs: e.PCRs, near: near}}
	}
	r.image = image
	if r.NeedPolicy {
		r.policy = v.images.policyFor(e.PCRs)
	}
	return checkSlice(r, e.PCRs[measure.SlicePCR])
}

// allowed is what each state of a region lets a device do. A server image gets
// keys while building too: that is the acceptance test.
func allowed(state kekproto.RegionState, role measure.Role) error {
	switch state {
	case kekproto.StateLive:
		if role == measure.RoleServer {
			return nil
		}
		return report.Errorf(report.KeyState, "factory requests are answered only while the region is building; it is live")
	case kekproto.StateBuilding:
		return nil
	case kekproto.StateInTransit:
		return report.Errorf(report.KeyState, "the region is in transit: no key leaves")
	case kekproto.StateReceived:
		return report.Errorf(report.KeyState, "the region was received but is not live yet: no key leaves")
	default:
		return report.Errorf(report.KeyState, "the region is in an unknown state %q", state)
	}
}

// checkSlice compares the slice PCR with the recorded slice. TPM authorizations
// are asked for before there is a slice, so they need none.
func checkSlice(r *request, pcr []byte) error {
	d := r.device
	if d.slice == nil {
		if r.Op == kekproto.OpAuths {
			return nil
		}
		return report.Errorf(report.KeySliceNew, "no slice of %s was recorded here", r.Device)
	}
	switch {
	case bytes.Equal(pcr, d.slicePCR):
		return nil
	case r.Op == kekproto.OpAuths && bytes.Equal(pcr, make([]byte, measure.Size)):
		return nil
	case r.Slice < d.slice.Generation:
		return report.Errorf(report.KeySliceOld, "PCR %d: %s booted with its slice of generation %d, recorded is %d", measure.SlicePCR, r.Device, r.Slice, d.slice.Generation)
	default:
		return report.Errorf(report.KeySliceNew, "PCR %d: the slice that %s measured (generation %d by its own words) is not the recorded one (generation %d)", measure.SlicePCR, r.Device, r.Slice, d.slice.Generation)
	}
}

// requestProblem gives a malformed request its code.
func requestProblem(err error) error {
	return report.Errorf(report.KeyProtocol, "%w", err)
}

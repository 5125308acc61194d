package kekserver

import (
	"context"
	"errors"
	"fmt"
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
	v, d, err := s.state.look(ctx, req.Device)
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
	connectionOf(r).prove(req.Device)
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
func (s *Server) decide(ctx context.Context, v *view, r *request, e *attest.Evidence) error {
	r.reset = e.ResetCount
	if err := e.Fresh(); err != nil {
		return &report.Problem{Code: report.KeyQuote, What: fmt.Sprintf("%s: %v", r.Device, err), Err: err,
			Do: "power the machine off and on again; if it comes back, look for who resets its TPM, and treat it as an attack until explained"}
	}
	var err error
	if r.jump, err = s.seen.reset(r.Device, e.ResetCount); err != nil {
		return err
	}
	if r.Op == kekproto.OpRelease {
		r.firmware = firmware(e.PCRs)
		r.changed = s.seen.changed(r.Device, r.firmware)
	}
	if !r.device.Approved {
		problem := report.Errorf(report.KeyEnroll, "%s waits for approval: its EK certificate proves nothing, and an operator has not compared its EK name %s yet", r.Device, r.device.EKName)
		problem.Do = fmt.Sprintf("compare the EK name at the machine with the fleet's, then `kekctl device approve %s --ek-name %s`", r.Device, r.device.EKName)
		return problem
	}
	if r.device.Suspended {
		return suspended(r.Device, r.device)
	}
	roles := rolesFor(r.Op)
	if err := allowed(v.region.State, r.Op, roles[0]); err != nil {
		return err
	}
	image, near, why := v.images.match(e.PCRs, roles, s.cfg.AllowLab)
	if image == nil {
		problem := report.Errorf(report.KeyImage, "%s", why)
		if near == nil { // a known image that gets nothing, or none is accepted
			problem.Do = "boot a released image that the fleet accepts for this; `kekctl manifest list` shows which"
		}
		return &wrongImage{problem, &offer{device: r.Device, op: r.Op, pcrs: e.PCRs, near: near}}
	}
	r.image = image
	if err := allowed(v.region.State, r.Op, image.Role); err != nil {
		return err
	}
	if r.NeedPolicy {
		r.policy = v.images.policyFor(e.PCRs)
	}
	if err := s.hearLinks(ctx, r); err != nil {
		return err
	}
	if err := checkSlice(r, e.PCRs[measure.SlicePCR]); err != nil {
		return err
	}
	if err := checkLinks(v.region.LinkReport, r); err != nil {
		return err
	}
	return s.checkFirmware(v.region.Firmware, r)
}

func suspended(id string, d *device) error {
	return report.Errorf(report.KeySuspended, "%s is suspended: %s", id, d.Reason)
}

// rolesFor lists the roles of images that get something for an operation. A key
// server's image gets slices and never a KEK.
func rolesFor(op kekproto.Op) []measure.Role {
	switch op {
	case kekproto.OpRelease:
		return []measure.Role{measure.RoleServer}
	case kekproto.OpSlice:
		return []measure.Role{measure.RoleServer, measure.RoleKeyserver, measure.RoleFactory}
	default:
		return []measure.Role{measure.RoleFactory}
	}
}

// allowed is what each state of a region lets a device do. A server image gets
// keys while building too: that is the acceptance test. A slice is no key, so a
// region that was received may be amended before it is live.
func allowed(state kekproto.RegionState, op kekproto.Op, role measure.Role) error {
	switch state {
	case kekproto.StateBuilding:
		return nil
	case kekproto.StateInTransit:
		return report.Errorf(report.KeyState, "the region is in transit: no key leaves")
	case kekproto.StateReceived:
		if op == kekproto.OpSlice && role != measure.RoleFactory {
			return nil
		}
		return report.Errorf(report.KeyState, "the region was received but is not live yet: no key leaves")
	case kekproto.StateLive:
		if role != measure.RoleFactory {
			return nil
		}
		return report.Errorf(report.KeyState, "factory requests are answered only while the region is building; it is live")
	default:
		return report.Errorf(report.KeyState, "the region is in an unknown state %q", state)
	}
}

// requestProblem gives a malformed request its code.
func requestProblem(err error) error {
	return report.Errorf(report.KeyProtocol, "%w", err)
}

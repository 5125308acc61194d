package fleet

import (
	"context"
	"fmt"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
)

// decide is all that stands between a device that proved who it is and what it
// asks for, in this order. Each rule refuses, or leaves behind what later ones
// and the answer need.
func (r *request) decide(ctx context.Context) error {
	for _, rule := range [...]func(*request, context.Context) error{
		(*request).machineStartedCold,
		(*request).tpmIsNoOlderCopy,
		(*request).tpmIsApproved,
		(*request).deviceIsNotSuspended,
		(*request).regionLetsAsk,
		(*request).imageIsAccepted,
		(*request).regionLetsImageAsk,
		(*request).hearLinks,
		(*request).sliceIsRecorded,
		(*request).linksAreClean,
		(*request).firmwareIsKnown, // last: only a boot that is right otherwise is one to accept
	} {
		if err := rule(r, ctx); err != nil {
			return err
		}
	}
	return nil
}

// machineStartedCold: a TPM Restart zeroes PCRs and keeps resetCount, so whatever
// it measured before is gone from the quote.
func (r *request) machineStartedCold(_ context.Context) error {
	if err := r.quoted.Fresh(); err != nil {
		return &report.Problem{Code: report.KeyQuote, What: fmt.Sprintf("%s: %v", r.Device, err), Err: err,
			Do: "power the machine off and on again; if it comes back, look for who resets its TPM, and treat it as an attack until explained"}
	}
	return nil
}

func (r *request) tpmIsNoOlderCopy(_ context.Context) (err error) {
	if r.Op == kekproto.OpRelease {
		r.firmware = firmware(r.quoted.PCRs)
	}
	r.jump, r.changed, err = r.member.history.compare(r.device.AKName, r.Device, r.quoted.ResetCount, r.firmware)
	return err
}

func (r *request) tpmIsApproved(_ context.Context) error {
	if r.device.Approved {
		return nil
	}
	problem := report.Errorf(report.KeyEnroll, "%s waits for approval: its EK certificate proves nothing, and an operator has not compared its EK name %s yet", r.Device, r.device.EKName)
	problem.Do = fmt.Sprintf("compare the EK name at the machine with the fleet's, then `kekctl device approve %s --ek-name %s`", r.Device, r.device.EKName)
	return problem
}

func (r *request) deviceIsNotSuspended(_ context.Context) error {
	return suspended(r.Device, r.device)
}

func suspended(id string, d *device) error {
	if !d.Suspended {
		return nil
	}
	return report.Errorf(report.KeySuspended, "%s is suspended: %s", id, d.Reason)
}

// regionLetsAsk is before the image is known: so a wrong image is not explained to
// a device that would get nothing with the right one.
func (r *request) regionLetsAsk(_ context.Context) error {
	return allowed(r.view.region.State, r.Op, rolesFor(r.Op)[0])
}

func (r *request) imageIsAccepted(_ context.Context) error {
	image, near, why := r.view.images.Match(r.quoted.PCRs, rolesFor(r.Op))
	if image == nil {
		problem := report.Errorf(report.KeyImage, "%s", why)
		if near == nil { // a known image that gets nothing, or none is accepted
			problem.Do = "boot a released image that the fleet accepts for this; `kekctl manifest list` shows which"
		}
		return &wrongImage{problem, &Unexplained{Device: r.Device, op: r.Op, pcrs: r.quoted.PCRs, near: near}}
	}
	r.image = image
	if r.NeedPolicy {
		r.policy = r.view.images.PolicyFor(r.quoted.PCRs)
	}
	return nil
}

func (r *request) regionLetsImageAsk(_ context.Context) error {
	return allowed(r.view.region.State, r.Op, r.image.Role)
}

func (r *request) firmwareIsKnown(_ context.Context) error {
	if r.Op != kekproto.OpRelease || r.view.region.Firmware != kekproto.FirmwareHold || r.changed == "" || r.firmware == r.device.Firmware {
		return nil
	}
	r.member.history.hold(r.device.AKName, r.Device, r.changed, r.firmware, r.member.now())
	return report.Errorf(report.KeyFirmware, "PCR %s of %s (firmware, option ROMs, Secure Boot) changed since its last release", r.changed, r.Device)
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

// malformed gives a malformed request its code.
func malformed(err error) error {
	return report.Errorf(report.KeyProtocol, "%w", err)
}

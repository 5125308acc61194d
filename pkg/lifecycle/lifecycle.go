// Package lifecycle says where a device is on its way from the pallet to a region
// that lives: one stage, what is to come, and who has to do it. All who show,
// count or judge devices ask it. docs/spec/lifecycle.md is the same as tables.
package lifecycle

import "github.com/landfall-project/landfall/pkg/kekproto"

// Facts is what a member's record says of a device, as far as its stage follows
// from it.
type Facts struct {
	Enrolling bool // it was given a credential and has not proved yet that it opens it
	Enrolled  bool
	Approved  bool // by a valid EK certificate or an operator
	Suspended bool
	Slice     uint64 // generation of the recorded slice; 0 is none
	Stays     bool   // by that slice it has no volumes
	Sealed    uint32 // generation of the KEK under which it is sealed; 0 is none
	Accepted  uint32 // generation with which it opened all its volumes
}

// FactsOf takes the facts from what a member answers about a device.
func FactsOf(d *kekproto.DeviceInfo) Facts {
	return Facts{
		Enrolling: d.Enrolling, Enrolled: d.Enrolled, Approved: d.Approved, Suspended: d.Suspended,
		Slice: d.Slice, Stays: d.Stays, Sealed: d.Sealed, Accepted: d.Accepted,
	}
}

// Stage is where a device is. All but Suspended are in the order of its way.
type Stage int

// The stages.
const (
	Expected Stage = iota
	Enrolling
	Unapproved
	Provisioned
	Sliced
	Staying
	Sealed
	Accepted
	Suspended
)

// String is the stage's word on all screens.
func (s Stage) String() string {
	switch s {
	case Expected:
		return "expected"
	case Enrolling:
		return "enrolling"
	case Unapproved:
		return "wants approval"
	case Provisioned:
		return "provisioned"
	case Sliced:
		return "slice"
	case Staying:
		return "no volumes"
	case Sealed:
		return "sealed"
	case Accepted:
		return "accepted"
	default:
		return "SUSPENDED"
	}
}

// Way is how far a device has come, whether it is suspended or not.
//
// A device without volumes stays, even if it was sealed before: its newer slice
// took the volumes away, so it can never open them all and be accepted. Nothing
// that came later counts without the step before: no request for a key is
// answered without approval and a recorded slice.
func (f Facts) Way() Stage {
	switch {
	case !f.Enrolled && f.Enrolling:
		return Enrolling
	case !f.Enrolled:
		return Expected
	case !f.Approved:
		return Unapproved
	case f.Slice == 0:
		return Provisioned
	case f.Stays:
		return Staying
	case f.Sealed == 0:
		return Sliced
	case f.Accepted != f.Sealed:
		return Sealed
	default:
		return Accepted
	}
}

// Stage is Way, unless the device is suspended: then that is what counts.
func (f Facts) Stage() Stage {
	if f.Suspended {
		return Suspended
	}
	return f.Way()
}

// Actor is who has to do the next thing about a device.
type Actor string

// The actors.
const (
	Nobody   Actor = "nobody"
	Device   Actor = "the device"
	Factory  Actor = "the factory" // who stands at the machine there
	Server   Actor = "who starts the server"
	Operator Actor = "an operator"
	Agents   Actor = "agents"
)

// State is a stage in a region, with what is to come.
type State struct {
	Stage Stage
	What  string // one line: what it does or waits for; empty if there is nothing to say
	Who   Actor
}

// Of judges a device of a region.
func Of(f Facts, region kekproto.RegionState) State {
	s := State{Stage: f.Stage()}
	s.What, s.Who = s.Stage.next(region)
	return s
}

// next is what is to come. What was shipped is not enrolled or sealed any more
// (factory requests are answered while the region is building), and no image gets
// a key before it is live.
func (s Stage) next(region kekproto.RegionState) (what string, who Actor) {
	building := region == kekproto.StateBuilding
	switch {
	case s == Suspended:
		return "`kekctl resume` ends it", Operator
	case s == Staying:
		return "there is nothing to seal", Nobody
	case s == Accepted:
		return "", Nobody
	case s == Sealed && (building || region == kekproto.StateLive):
		return "boot the server image once", Server
	case s == Sealed && region == kekproto.StateReceived:
		return "no key leaves before `kekctl live`", Operator
	case s == Sealed:
		return "no key leaves before agents sign `kekctl receive`", Agents
	case !building:
		return "the region was shipped without it: seal it in another one", Operator
	case s == Enrolling:
		return "its TPM proves itself", Device
	case s == Unapproved:
		return "compare its EK name, `kekctl device approve`", Operator
	case s == Provisioned:
		return "waits for its slice: `kekctl slice add`", Operator
	default: // Expected, Sliced
		return "boot the factory image", Factory
	}
}

package fleet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/signed"
)

// maxReceived bounds one received statement, in bytes.
const maxReceived = 16 << 10

// Ship ends the building: from then on no key leaves.
type Ship struct{}

func (Ship) decide(ctx context.Context, d *desk) (*change, None, error) {
	return d.move(ctx, kekproto.StateInTransit, "")
}

// Receive says that the region has arrived, by statements that agents signed.
type Receive struct{ Notes [][]byte }

func (c Receive) decide(ctx context.Context, d *desk) (*change, None, error) {
	names, err := d.signers(ctx, c.Notes)
	if err != nil {
		return nil, None{}, err
	}
	return d.move(ctx, kekproto.StateReceived, "signed by "+strings.Join(names, ", "))
}

// GoLive lets servers have their keys.
type GoLive struct{}

func (GoLive) decide(ctx context.Context, d *desk) (*change, None, error) {
	return d.move(ctx, kekproto.StateLive, "")
}

// move takes the region from one state to the next. There is no other order and
// no way back.
func (d *desk) move(ctx context.Context, to kekproto.RegionState, detail string) (*change, None, error) {
	from, ok := map[kekproto.RegionState]kekproto.RegionState{
		kekproto.StateInTransit: kekproto.StateBuilding,
		kekproto.StateReceived:  kekproto.StateInTransit,
		kekproto.StateLive:      kekproto.StateReceived,
	}[to]
	ev := d.by.event(audit.EventRegion)
	ev.State, ev.Detail = string(to), detail
	return d.editRegion(ctx, ev, func(rec *regionRecord) error {
		if is := rec.State; !ok || is != from {
			return fmt.Errorf("%w: a region becomes %s from %s; it is %s: %s", ErrConflict, to, from, is, nextStep(is))
		}
		rec.State = to
		if to == kekproto.StateInTransit {
			rec.Shipment = newShipment()
		}
		return nil
	})
}

func newShipment() string {
	shipment := make([]byte, 16)
	_, _ = rand.Read(shipment) // never fails: it ends the process instead
	return hex.EncodeToString(shipment)
}

// editRegion is the change of the region's record.
func (d *desk) editRegion(ctx context.Context, ev audit.Record, edit func(*regionRecord) error) (*change, None, error) {
	var rec regionRecord
	version, err := d.state.load(ctx, pathRegion, &rec)
	if err != nil {
		return nil, None{}, err
	}
	if err := edit(&rec); err != nil {
		return nil, None{}, err
	}
	made, err := replace(ev, pathRegion, version, &rec)
	return made, None{}, err
}

// nextStep is what leads on from a state.
func nextStep(is kekproto.RegionState) string {
	switch is {
	case kekproto.StateBuilding:
		return "next is `kekctl ship`, when it leaves"
	case kekproto.StateInTransit:
		return "next, agents sign that it arrived (`kekctl receive sign`), and one of them submits that (`kekctl receive submit`)"
	case kekproto.StateReceived:
		return "next is `kekctl live`"
	}
	return "no step is left"
}

// DemandLinks changes what a release takes of a device's links.
type DemandLinks struct{ Demand kekproto.LinkDemand }

func (c DemandLinks) decide(ctx context.Context, d *desk) (*change, None, error) {
	if c.Demand != kekproto.DemandNone && c.Demand != kekproto.DemandClean {
		return nil, None{}, fmt.Errorf("%w: a demand %q: want %s or %s", ErrRequest, c.Demand, kekproto.DemandClean, kekproto.DemandNone)
	}
	ev := d.by.event(audit.EventLinkDemand)
	ev.Detail = string(c.Demand)
	return d.editRegion(ctx, ev, func(rec *regionRecord) error {
		rec.LinkReport = c.Demand
		return nil
	})
}

// DemandFirmware changes what changed firmware does.
type DemandFirmware struct{ Demand kekproto.FirmwareDemand }

func (c DemandFirmware) decide(ctx context.Context, d *desk) (*change, None, error) {
	if c.Demand != kekproto.FirmwareRecord && c.Demand != kekproto.FirmwareHold {
		return nil, None{}, fmt.Errorf("%w: a demand %q: want %s or %s", ErrRequest, c.Demand, kekproto.FirmwareHold, kekproto.FirmwareRecord)
	}
	ev := d.by.event(audit.EventFirmwareDemand)
	ev.Detail = string(c.Demand)
	return d.editRegion(ctx, ev, func(rec *regionRecord) error {
		rec.Firmware = c.Demand
		return nil
	})
}

// signers verifies received statements of this region and shipment, and returns
// the agents who signed, each once; enough of them, or an error. A statement
// that does not hold is named and refuses the bundle, not only itself.
func (d *desk) signers(ctx context.Context, notes [][]byte) ([]string, error) {
	if len(notes) == 0 || len(notes) > 2*len(d.rules.Agents) {
		return nil, fmt.Errorf("%w: a bundle of %d statements", ErrRequest, len(notes))
	}
	var keys []note.Verifier
	names := map[string]string{} // key name to agent
	for _, a := range d.rules.Agents {
		if a.Key != nil {
			keys = append(keys, a.Key)
			names[a.Key.Name()] = a.Name
		}
	}
	v, err := d.look(ctx)
	if err != nil {
		return nil, err
	}
	want := kekproto.Received{Type: kekproto.ReceivedType, Region: d.rules.Region, Shipment: v.region.Shipment}
	signed, err := distinctSigners(notes, keys, want)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, key := range signed {
		out = append(out, names[key])
	}
	if len(out) < d.rules.Threshold {
		return nil, fmt.Errorf("%w: signed by %s only; %d agents are needed", ErrConflict, strings.Join(out, ", "), d.rules.Threshold)
	}
	return out, nil
}

func distinctSigners(notes [][]byte, keys []note.Verifier, want kekproto.Received) ([]string, error) {
	var out []string
	seen := map[string]bool{}
	for i, n := range notes {
		var got kekproto.Received
		doc, err := signed.Open(n, maxReceived, kekproto.ReceivedType, &got, keys...)
		if err != nil {
			return nil, fmt.Errorf("%w: statement %d: %w", ErrRequest, i+1, err)
		}
		if got != want {
			return nil, fmt.Errorf("%w: statement %d is about region %q, shipment %q; this is region %q, shipment %q",
				ErrConflict, i+1, got.Region, got.Shipment, want.Region, want.Shipment)
		}
		for _, name := range doc.Signers {
			if !seen[name] {
				seen[name] = true
				out = append(out, name)
			}
		}
	}
	return out, nil
}

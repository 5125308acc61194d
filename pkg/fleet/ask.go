package fleet

import (
	"context"
	"encoding/hex"
	"errors"
	"sync"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/imageset"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/sightings"
)

// Ask is what a device asks, as it came.
type Ask struct {
	Op       kekproto.Op
	Body     []byte // kekproto.Attested
	Exporter []byte // keying material of the connection, which the quote is bound to
	Peer     string // address
}

// Answer is what a device gets.
type Answer struct {
	*kekproto.Response
	Device  string
	Sealed  uint32 // KEK generation under which the device is sealed
	Jump    bool   // of a release: the TPM was reset more than once since the last one
	Changed bool   // of a release: the firmware differs from the last one's
}

// Answer decides what a device asked, and has deliver carry what it gets. It
// returns why it gets nothing; nil if deliver was called. No record changes from
// the look at them until deliver returns. Only a slice is delivered when that is
// over: it is none of the secrets which that matters for, and may take long.
func (m *Member) Answer(ctx context.Context, ask *Ask, deliver func(*Answer)) *Refused {
	m.deciding.RLock()
	unlock := sync.OnceFunc(m.deciding.RUnlock)
	defer unlock()
	r, err := m.prove(ctx, ask)
	if err == nil {
		err = r.decide(ctx)
	}
	var got *kekproto.Response
	if err == nil {
		got, err = r.give(ctx)
	}
	if err != nil {
		unlock()
		return m.refuse(ctx, ask.Op, r, ask.Peer, err)
	}
	got.Protocol = r.Protocol
	if ask.Op == kekproto.OpRelease {
		r.remember()
	}
	if ask.Op == kekproto.OpSlice {
		unlock()
	}
	deliver(&Answer{Response: got, Device: r.Device, Sealed: r.device.Sealed, Jump: r.jump > 0, Changed: r.changed != ""})
	return nil
}

// request is what a device asks, and what is found out about it on the way.
type request struct {
	*kekproto.Request
	member *Member
	raw    []byte // what was quoted over
	view   *view
	device *device
	peer   string

	quoted *attest.Evidence
	image  *imageset.Image
	policy []byte             // of the image, if the device asks for it
	jump   int64              // TPM resets since the last release, if more than one
	links  *report.LinkReport // nil if none came
	slices []measuredSlice    // what made the slice PCR; nil if nothing was measured

	firmware string // of a release: PCR 0, 2 and 7
	changed  string // which of them differ from the last release
}

// event is a line about the request.
func (r *request) event(name audit.Event) audit.Record {
	return audit.Record{Event: name, Device: r.Device, Image: r.image.Image + " " + r.image.Version,
		Reset: r.quoted.ResetCount, ResetJump: r.jump, Firmware: r.firmware, Changed: r.changed, Peer: r.peer}
}

// kekEvent is a line about a KEK that the request gets.
func (r *request) kekEvent(name audit.Event, id []byte, generation uint32) audit.Record {
	rec := r.event(name)
	rec.KEK, rec.Generation, rec.Links = hex.EncodeToString(id), uint64(generation), sightings.LinkCount(r.links)
	return rec
}

// prove finds out who asks: form and version, a device that is known, and its quote
// over this connection and these bytes. The request is nil unless it comes from it.
func (m *Member) prove(ctx context.Context, ask *Ask) (*request, error) {
	a, req, err := kekproto.ParseAttested(ask.Body, ask.Op)
	if err != nil {
		return nil, malformed(err)
	}
	v, d, err := m.state.look(ctx, req.Device)
	if errors.Is(err, kekstore.ErrNotFound) || (err == nil && !d.enrolled()) {
		return nil, report.Errorf(report.KeyUnknown, "no device %s was enrolled here", req.Device)
	}
	if err != nil {
		return nil, err
	}
	quoted, err := attest.Verify(a.Quote, d.ak, attest.Qualify(ask.Op.Label(), ask.Exporter, a.Request))
	if err != nil {
		return nil, &unproved{req.Device, report.Errorf(report.KeyQuote, "%w", err)}
	}
	return &request{Request: req, member: m, raw: a.Request, view: v, device: d, peer: ask.Peer, quoted: quoted}, nil
}

// remember keeps a release that is about to be delivered.
func (r *request) remember() {
	now := r.member.now()
	r.member.history.released(r.device.AKName, r.quoted.ResetCount, r.firmware, now)
	r.member.seen.Released(r.Device, &kekproto.Seen{Time: now, Image: r.image.Image + " " + r.image.Version,
		ResetCount: r.quoted.ResetCount, Firmware: r.firmware})
}

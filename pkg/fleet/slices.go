package fleet

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// maxEarlier bounds the slices before the recorded one that a device may still
// boot with, to be given that one.
const maxEarlier = 32

// maxChain bounds the slices that a device measures in one boot: the one it
// carries, and amendments that came while it held.
const maxChain = 3

// measuredSlice is a slice as far as PCR 8 shows it.
type measuredSlice struct {
	Generation uint64 `json:"generation"`
	Digest     []byte `json:"sha256"` // of the slice's text
}

// sliceRecord is stored as JSON below pathSlices.
type sliceRecord struct {
	measuredSlice
	Rack    string          `json:"rack,omitempty"`
	Unit    string          `json:"unit,omitempty"`
	Stays   bool            `json:"stays,omitempty"`   // no volumes: there is nothing to seal
	Earlier []measuredSlice `json:"earlier,omitempty"` // the recorded ones before, oldest first
}

// follow makes the record of the slice that takes this one's place; none before
// is nil.
func (r *sliceRecord) follow(slice *snapshot.Slice, digest [32]byte) *sliceRecord {
	next := &sliceRecord{measuredSlice: measuredSlice{slice.Generation, digest[:]}, Rack: slice.Device.Rack, Unit: slice.Device.Unit, Stays: len(slice.Volumes) == 0}
	if r != nil {
		next.Earlier = append(next.Earlier, r.Earlier...)
		next.Earlier = append(next.Earlier, r.measuredSlice)
		next.Earlier = next.Earlier[max(0, len(next.Earlier)-maxEarlier):]
	}
	return next
}

// chain returns the recorded slices that were extended, in this order, into a
// value of the slice PCR, at most maxChain and each newer than the one before;
// nil if there are none such.
func (r *sliceRecord) chain(pcr []byte) []measuredSlice {
	all := append(append([]measuredSlice{}, r.Earlier...), r.measuredSlice)
	return chainFrom(make([]byte, measure.Size), all, pcr, maxChain)
}

func chainFrom(value []byte, all []measuredSlice, pcr []byte, most int) []measuredSlice {
	if most == 0 {
		return nil
	}
	for i := len(all) - 1; i >= 0; i-- {
		next := measure.Extend(value, all[i].Digest)
		if bytes.Equal(next, pcr) {
			return all[i : i+1]
		}
		if rest := chainFrom(next, all[i+1:], pcr, most-1); rest != nil {
			return append([]measuredSlice{all[i]}, rest...)
		}
	}
	return nil
}

// sliceIsRecorded compares the slice PCR with the recorded slices: the last one
// that was measured must be the recorded one, except for who asks for that. TPM
// authorizations, captures, progress and slices come before there is a slice, so
// they need none.
func (r *request) sliceIsRecorded(_ context.Context) error {
	d, pcr := r.device, r.quoted.PCRs[measure.SlicePCR]
	unmeasured := bytes.Equal(pcr, make([]byte, measure.Size)) && r.image.Role == measure.RoleFactory
	switch {
	case r.Op == kekproto.OpCapture, r.Op == kekproto.OpProgress, d.slice == nil && r.Op == kekproto.OpAuths:
		return nil
	case d.slice == nil:
		return report.Errorf(report.KeySliceNew, "no slice of %s was recorded here", r.Device)
	case bytes.Equal(pcr, d.slicePCR):
		r.slices = []measuredSlice{d.slice.measuredSlice}
		return nil
	case unmeasured && (r.Op == kekproto.OpAuths || r.Op == kekproto.OpSlice):
		return nil
	}
	r.slices = d.slice.chain(pcr)
	if n := len(r.slices); n > 0 {
		last := r.slices[n-1].Generation
		if r.Op == kekproto.OpSlice || last == d.slice.Generation {
			return nil
		}
		return report.Errorf(report.KeySliceOld, "PCR %d: %s uses its slice of generation %d, recorded is %d", measure.SlicePCR, r.Device, last, d.slice.Generation)
	}
	if r.Slice < d.slice.Generation {
		return report.Errorf(report.KeySliceOld, "PCR %d: %s booted with its slice of generation %d, recorded is %d", measure.SlicePCR, r.Device, r.Slice, d.slice.Generation)
	}
	return report.Errorf(report.KeySliceNew, "PCR %d: the slice that %s measured (generation %d by its own words) is not the recorded one (generation %d)", measure.SlicePCR, r.Device, r.Slice, d.slice.Generation)
}

// news answers with the recorded slice, if the device uses an older one.
func (r *request) news(ctx context.Context) (*kekproto.Response, error) {
	recorded := r.device.slice
	inUse := r.Slice
	if n := len(r.slices); n > 0 {
		inUse = r.slices[n-1].Generation
	}
	// A device that stays measures one amendment and uses them all; no key
	// depends on its word.
	if r.image.Role == measure.RoleKeyserver {
		inUse = max(inUse, r.Slice)
	}
	if inUse >= recorded.Generation {
		return &kekproto.Response{}, nil
	}
	if len(r.slices) >= maxChain {
		return nil, report.Errorf(report.SliceAmendment, "%s has taken %d slices since it was switched on, and the fleet has one more (generation %d): restart it", r.Device, len(r.slices), recorded.Generation)
	}
	text, err := r.member.state.store.Get(ctx, notePath(r.Device, recorded.Generation))
	if err != nil {
		return nil, err
	}
	if r.member.seen.Once(r.Device, kekproto.OpSlice, fmt.Sprint(inUse, recorded.Generation), r.member.now()) {
		rec := r.event(audit.EventSliceSent)
		rec.Generation, rec.Digest = recorded.Generation, hex.EncodeToString(recorded.Digest)
		if err := r.member.ledger.Record(ctx, rec); err != nil {
			return nil, err
		}
	}
	return &kekproto.Response{Slice: text.Data}, nil
}

// RecordSlice says which slice a device must have measured from now on. The same
// one again is no error; an older one, or another one of the same generation, is.
type RecordSlice struct {
	Note []byte

	slice  *snapshot.Slice
	digest [32]byte
}

// verify is all that needs no record: a slice may be of 3 MiB.
func (c *RecordSlice) verify(rules *Rules) (err error) {
	c.slice, c.digest, err = snapshot.OpenSlice(c.Note, rules.RootKey)
	if err == nil && c.slice.Amendment != nil && len(rules.AmendKeys) > 0 {
		err = snapshot.Countersigned(c.Note, rules.RootKey, rules.AmendKeys)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return nil
}

func (c *RecordSlice) decide(ctx context.Context, d *desk) (*change, None, error) {
	slice, digest := c.slice, c.digest
	id := slice.Device.ID
	device, err := d.device(ctx, id)
	if err != nil {
		return nil, None{}, err
	}
	if err := fits(slice, device, d.rules.Region); err != nil {
		return nil, None{}, err
	}
	if device.slice != nil && device.slice.Generation == slice.Generation && bytes.Equal(device.slice.Digest, digest[:]) {
		return nil, None{}, nil
	}
	if err := device.slice.replaceable(slice); err != nil {
		return nil, None{}, err
	}
	writes, err := d.state.recordSlice(ctx, device, slice, digest, c.Note)
	if err != nil {
		return nil, None{}, err
	}
	ev := d.by.event(audit.EventSlice)
	ev.Device, ev.Generation, ev.Digest = id, slice.Generation, hex.EncodeToString(digest[:])
	if slice.Amendment != nil {
		ev.Detail = "amendment: " + slice.Amendment.Reason
	}
	return &change{[]audit.Record{ev}, writes}, None{}, nil
}

// recordSlice is what the recording of a slice writes: its text, its record, and
// that the device is accepted no more, if it has other volumes.
func (s *state) recordSlice(ctx context.Context, d *device, slice *snapshot.Slice, digest [32]byte, text []byte) ([]kekstore.Write, error) {
	id := slice.Device.ID
	stays, err := s.staysAccepted(ctx, d, slice)
	if err != nil {
		return nil, err
	}
	note, err := s.over(ctx, notePath(id, slice.Generation), text)
	if err != nil {
		return nil, err
	}
	recorded, err := write(pathSlices+id, d.sliceVersion, d.slice.follow(slice, digest))
	if err != nil {
		return nil, err
	}
	writes := []kekstore.Write{note, recorded}
	if !stays {
		rec := d.deviceRecord
		rec.Accepted = 0
		w, err := write(pathDevices+id, d.version, &rec)
		if err != nil {
			return nil, err
		}
		writes = append(writes, w)
	}
	return writes, nil
}

// replaceable says whether a slice may take the place of the recorded one: its
// generation is higher, and an amendment was made from the recorded one and not
// from another, whose changes it would undo.
func (r *sliceRecord) replaceable(slice *snapshot.Slice) error {
	id := slice.Device.ID
	switch {
	case r == nil && slice.Amendment != nil:
		return fmt.Errorf("%w: no slice of %s was recorded, so there is none to amend; record the one that this replaces first", ErrConflict, id)
	case r == nil:
		return nil
	case r.Generation >= slice.Generation:
		return fmt.Errorf("%w: %s has a slice of generation %d; a new one needs a higher generation than that, not %d",
			ErrConflict, id, r.Generation, slice.Generation)
	case slice.Amendment != nil && !strings.EqualFold(slice.Amendment.Replaces, hex.EncodeToString(r.Digest)):
		return fmt.Errorf("%w: this amends another slice of %s (%.16s…) than the recorded one (%.16s…, generation %d); `kekctl slice get %s`, and amend that one",
			ErrConflict, id, slice.Amendment.Replaces, hex.EncodeToString(r.Digest), r.Generation, id)
	}
	return nil
}

// fits compares a slice with what the device enrolled with.
func fits(slice *snapshot.Slice, d *device, region string) error {
	switch {
	case slice.Region != region:
		return fmt.Errorf("%w: the slice is of region %q, this is %q", ErrConflict, slice.Region, region)
	case !d.enrolled():
		return fmt.Errorf("%w: %s has not enrolled yet, so its TPM is not known", ErrConflict, slice.Device.ID)
	case slice.Device.EKName != d.EKName || slice.Device.AKName != d.AKName || slice.Device.SRKName != d.SRKName:
		return fmt.Errorf("%w: the slice names another TPM than the one that %s enrolled with", ErrConflict, slice.Device.ID)
	}
	return nil
}

// Slice is the recorded slice of a device, as it was signed.
func (m *Member) Slice(ctx context.Context, id string) ([]byte, error) {
	v, err := m.state.view(ctx)
	if err != nil {
		return nil, err
	}
	d, err := m.state.device(ctx, v, id)
	if err != nil {
		return nil, err
	}
	if d.slice == nil {
		return nil, fmt.Errorf("slice of %s: %w", id, kekstore.ErrNotFound)
	}
	text, err := m.state.store.Get(ctx, notePath(id, d.slice.Generation))
	return text.Data, err
}

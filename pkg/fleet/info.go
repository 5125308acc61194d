package fleet

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/lifecycle"
)

// maxRefused is how many refused devices a status lists: one screen.
const maxRefused = 20

// Status sums up the region as this member, of that ID, sees it.
func (m *Member) Status(ctx context.Context, member string) (*kekproto.Status, error) {
	v, err := m.state.view(ctx)
	if err != nil {
		return nil, err
	}
	head, broken := m.ledger.Head()
	st := &kekproto.Status{
		Member: member, Region: v.region.Region, State: v.region.State, Shipment: v.region.Shipment,
		AllowLab: m.rules.AllowLab, Since: m.since.UTC(), StoreEpoch: v.epoch,
		AuditLines: head.Number, AuditHead: hex.EncodeToString(head.Hash[:]),
	}
	if broken != nil {
		st.AuditError = broken.Error()
	}
	st.LinkReport = cmp.Or(v.region.LinkReport, kekproto.DemandNone)
	st.Firmware = cmp.Or(v.region.Firmware, kekproto.FirmwareRecord)
	st.LinksBroken = m.seen.Broken()
	st.Images = v.images.Info()
	all, err := m.Devices(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[string]*kekproto.DeviceInfo{}
	for i := range all {
		count(st, &all[i])
		byID[all[i].Device] = &all[i]
	}
	released, strangers, refused, unproved := m.seen.Summary()
	st.Released, st.RefusedOthers = released, strangers
	st.Unproved = unproved[:min(len(unproved), maxRefused)]
	for _, id := range refused {
		if info := byID[id]; info != nil && len(st.Refused) < maxRefused {
			st.Refused = append(st.Refused, Brief(*info))
		}
	}
	return st, nil
}

// Brief is a device without what is long.
func Brief(d kekproto.DeviceInfo) kekproto.DeviceInfo {
	d.EKPublic, d.AKPublic, d.SRKPublic, d.EKCert, d.Report, d.Links = nil, nil, nil, nil, "", nil
	return d
}

func count(st *kekproto.Status, d *kekproto.DeviceInfo) {
	st.Devices++
	way := lifecycle.FactsOf(d).Way()
	for _, c := range []struct {
		is bool
		n  *int
	}{
		{d.Enrolled, &st.Enrolled},
		{d.Slice > 0, &st.WithSlice},
		{way == lifecycle.Sealed || way == lifecycle.Accepted, &st.Sealed},
		{way == lifecycle.Accepted, &st.Accepted},
		{d.Suspended, &st.Suspended},
	} {
		if c.is {
			*c.n++
		}
	}
}

// Known fails with kekstore.ErrNotFound unless there is a device of that ID.
func (m *Member) Known(ctx context.Context, id string) error {
	_, _, err := m.state.look(ctx, id)
	return err
}

// Device is all that is known of a device.
func (m *Member) Device(ctx context.Context, id string) (*kekproto.DeviceInfo, error) {
	v, err := m.state.view(ctx)
	if err != nil {
		return nil, err
	}
	info, err := m.info(ctx, v, id)
	if err != nil {
		return nil, err
	}
	return info, m.putCapture(ctx, info)
}

// Captured is Devices, with what the devices said about themselves in the factory.
func (m *Member) Captured(ctx context.Context) ([]kekproto.DeviceInfo, error) {
	all, err := m.Devices(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if err := m.putCapture(ctx, &all[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Devices is all that is known of all devices, by ID, but for what they said about
// themselves in the factory.
func (m *Member) Devices(ctx context.Context) ([]kekproto.DeviceInfo, error) {
	v, err := m.state.view(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := m.state.living(ctx, v)
	if err != nil {
		return nil, err
	}
	out := make([]kekproto.DeviceInfo, 0, len(ids))
	for _, id := range ids {
		info, err := m.info(ctx, v, id)
		if err != nil {
			return nil, err
		}
		out = append(out, *info)
	}
	return out, nil
}

func (m *Member) info(ctx context.Context, v *view, id string) (*kekproto.DeviceInfo, error) {
	d, err := m.state.device(ctx, v, id)
	if err != nil {
		return nil, err
	}
	info := &kekproto.DeviceInfo{
		Device: id, Enrolled: d.enrolled(), Approved: d.Approved, Suspended: d.Suspended, Reason: d.Reason,
		EKName: d.EKName, AKName: d.AKName, SRKName: d.SRKName,
		EKPublic: d.EKPublic, AKPublic: d.AKPublic, SRKPublic: d.SRKPublic, EKCert: d.EKCert, Sealed: d.Sealed, Accepted: d.Accepted, Enrolling: m.enrol.pending(id),
	}
	if d.slice != nil {
		info.Slice, info.SliceHash, info.Stays = d.slice.Generation, hex.EncodeToString(d.slice.Digest), d.slice.Stays
		info.Rack, info.Unit = d.slice.Rack, d.slice.Unit
	}
	for generation := uint32(1); ; generation++ {
		k, err := m.state.kek(ctx, id, generation)
		if errors.Is(err, kekstore.ErrNotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		k.wipe()
		info.Generation = generation
	}
	if info.Recovery, err = m.state.escrowed(ctx, id); err != nil {
		return nil, err
	}
	info.Drift, info.Held = m.history.drifts(d.AKName, id)
	m.seen.Put(info)
	return info, nil
}

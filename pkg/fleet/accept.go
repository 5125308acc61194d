package fleet

import (
	"context"
	"slices"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// volumes lists the volumes of a recorded slice by name, sorted.
func (s *state) volumes(ctx context.Context, device string, generation uint64) ([]string, error) {
	text, err := s.store.Get(ctx, notePath(device, generation))
	if err != nil {
		return nil, err
	}
	slice, _, err := snapshot.OpenSlice(text.Data, s.rules.RootKey)
	if err != nil {
		return nil, err
	}
	return volumeNames(slice), nil
}

func volumeNames(slice *snapshot.Slice) []string {
	names := make([]string, 0, len(slice.Volumes))
	for _, v := range slice.Volumes {
		names = append(names, v.Name)
	}
	slices.Sort(names)
	return names
}

// HearBoot takes the report of a boot, on the connection on which the KEK of a
// generation was released to the device, and says whether the device may be
// shipped now. One for which there is no room in the audit log is heard all the
// same.
func (m *Member) HearBoot(ctx context.Context, req *kekproto.Request, generation uint32, peer string) (accepted bool, err error) {
	v, err := m.state.view(ctx)
	if err != nil {
		return false, err
	}
	d, err := m.state.device(ctx, v, req.Device)
	if err != nil {
		return false, err
	}
	if err := suspended(req.Device, d); err != nil { // it could not have booted now
		return false, err
	}
	if err := allowed(v.region.State, kekproto.OpRelease, measure.RoleServer); err != nil {
		return false, err
	}
	text := printable.Text(string(req.Body))
	if m.seen.Reported(req.Device, text, m.now()) {
		if err := m.ledger.Record(ctx, audit.Record{Event: audit.EventReport, Device: req.Device, Detail: text, Peer: peer}); err != nil {
			return false, err
		}
	}
	return m.heardBoot(ctx, req.Device, generation, req.Body, peer)
}

// heardBoot takes the word of an image that a key was just released to, and says
// whether the device may be shipped: the image opened each volume of the recorded
// slice, needed or not, with the key under which the device is sealed, and the
// region is still building. A report that is of no known form accepts nothing.
func (m *Member) heardBoot(ctx context.Context, id string, generation uint32, text []byte, peer string) (bool, error) {
	boot, err := report.ParseBootReport(text)
	if err != nil {
		boot = new(report.BootReport)
	}
	accepted, err := m.counts(ctx, id, generation, boot, peer)
	if err != nil || !accepted {
		return false, err
	}
	// What was accepted and then shipped is not told at its destination, at each
	// boot, that it may be shipped.
	v, err := m.state.view(ctx)
	return err == nil && v.region.State == kekproto.StateBuilding, err
}

// counts keeps it of a device when it becomes accepted, and says whether it is.
func (m *Member) counts(ctx context.Context, id string, generation uint32, boot *report.BootReport, peer string) (bool, error) {
	// Only what changes a record waits for the answers under way: a rack that
	// was accepted long ago reports by the hundreds while others are released to.
	d, accepts, err := m.weighBoot(ctx, id, generation, boot)
	if err != nil || !accepts {
		return err == nil && d.accepted(), err
	}
	m.deciding.Lock()
	defer m.deciding.Unlock()
	d, accepts, err = m.weighBoot(ctx, id, generation, boot)
	if err != nil || !accepts {
		return err == nil && d.accepted(), err
	}
	rec := d.deviceRecord
	rec.Accepted = generation
	made, err := replace(audit.Record{Event: audit.EventAccepted, Device: id, Generation: uint64(generation), Peer: peer}, pathDevices+id, d.version, &rec)
	if err == nil {
		err = m.commit(ctx, made)
	}
	return err == nil, err
}

// weighBoot says whether a report makes a device accepted that is not yet.
func (m *Member) weighBoot(ctx context.Context, id string, generation uint32, boot *report.BootReport) (d *device, accepts bool, err error) {
	v, err := m.state.view(ctx)
	if err != nil {
		return nil, false, err
	}
	d, err = m.state.device(ctx, v, id)
	if err != nil || d.accepted() || d.slice == nil || boot.Device != id || boot.Slice != d.slice.Generation || generation != d.Sealed {
		return d, false, err
	}
	want, err := m.state.volumes(ctx, id, d.slice.Generation)
	return d, len(want) > 0 && boot.Opened(want...), err
}

// staysAccepted says whether a device stays accepted with a slice that takes the
// place of the recorded one: only if that names the same volumes.
func (s *state) staysAccepted(ctx context.Context, d *device, slice *snapshot.Slice) (bool, error) {
	if d.Accepted == 0 || d.slice == nil {
		return true, nil
	}
	before, err := s.volumes(ctx, slice.Device.ID, d.slice.Generation)
	return slices.Equal(before, volumeNames(slice)), err
}

package fleet

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/printable"
)

// AddDevice makes a one-use token for a device, which it answers. Only its SHA-256
// is stored; the token itself has 128 bits of randomness.
type AddDevice struct {
	Device string
	Again  bool // a further token of the same machine
}

func (c AddDevice) decide(ctx context.Context, d *desk) (*change, string, error) {
	if !kekproto.ValidDeviceID(c.Device) {
		return nil, "", fmt.Errorf("%w: device ID %q: want 1 to 63 of [a-z0-9-]", ErrRequest, c.Device)
	}
	v, err := d.look(ctx)
	if err != nil {
		return nil, "", err
	}
	if v.region.State != kekproto.StateBuilding {
		return nil, "", fmt.Errorf("%w: devices are added while the region is building; it is %s", ErrConflict, v.region.State)
	}
	var rec deviceRecord
	version, err := d.state.load(ctx, pathDevices+c.Device, &rec)
	if err == nil && rec.Removed {
		err = errRemoved(c.Device)
	}
	rec.beginAnew()
	switch {
	case err == nil && !c.Again:
		return nil, "", fmt.Errorf("%w: %s was added already; for a further token of the same machine use --again", ErrConflict, c.Device)
	case errors.Is(err, kekstore.ErrNotFound) && c.Again:
		return nil, "", fmt.Errorf("a further token of %s, which was never added: %w", c.Device, err)
	case err != nil && !errors.Is(err, kekstore.ErrNotFound):
		return nil, "", err
	}
	token := rand.Text()
	sum := sha256.Sum256([]byte(token))
	rec.TokenHash, rec.TokenUsed = sum[:], false
	ev := d.by.event(audit.EventDeviceAdded)
	ev.Device = c.Device
	if c.Again {
		ev.Detail = "a further token"
	}
	made, err := replace(ev, pathDevices+c.Device, version, &rec)
	return made, token, err
}

// device is a device, or kekstore.ErrNotFound.
func (d *desk) device(ctx context.Context, id string) (*device, error) {
	v, err := d.look(ctx)
	if err != nil {
		return nil, err
	}
	return d.state.device(ctx, v, id)
}

// edit is the change of a device's record.
func (d *desk) edit(ctx context.Context, id string, ev audit.Record, edit func(*deviceRecord) error) (*change, None, error) {
	device, err := d.device(ctx, id)
	if err != nil {
		return nil, None{}, err
	}
	rec := device.deviceRecord
	if err := edit(&rec); err != nil {
		return nil, None{}, err
	}
	ev.Device = id
	made, err := replace(ev, pathDevices+id, device.version, &rec)
	return made, None{}, err
}

// Approve says that an operator compared a TPM's EK name at the machine.
type Approve struct{ Device, EKName string }

func (c Approve) decide(ctx context.Context, d *desk) (*change, None, error) {
	ev := d.by.event(audit.EventDeviceApproved)
	ev.Detail = "ek " + c.EKName
	return d.edit(ctx, c.Device, ev, func(rec *deviceRecord) error {
		if !rec.enrolled() {
			return fmt.Errorf("%w: the device has not enrolled yet", ErrConflict)
		}
		if rec.EKName != c.EKName {
			return fmt.Errorf("%w: the device enrolled with EK %s, not %s", ErrConflict, rec.EKName, c.EKName)
		}
		rec.Approved = true
		return nil
	})
}

// Suspend stops all that a device gets.
type Suspend struct{ Device, Reason string }

func (c Suspend) decide(ctx context.Context, d *desk) (*change, None, error) {
	if err := oneLine("suspension", c.Reason); err != nil {
		return nil, None{}, err
	}
	ev := d.by.event(audit.EventSuspend)
	ev.Detail = c.Reason
	return d.edit(ctx, c.Device, ev, func(rec *deviceRecord) error {
		rec.Suspended, rec.Reason = true, c.Reason
		return nil
	})
}

// Resume ends a suspension.
type Resume struct{ Device string }

func (c Resume) decide(ctx context.Context, d *desk) (*change, None, error) {
	return d.edit(ctx, c.Device, d.by.event(audit.EventResume), func(rec *deviceRecord) error {
		if !rec.Suspended {
			return fmt.Errorf("%w: the device is not suspended", ErrConflict)
		}
		rec.Suspended, rec.Reason = false, ""
		return nil
	})
}

// AcceptFirmware lets a device with changed firmware have its key. The operator
// names the values that were shown: others may have come since.
type AcceptFirmware struct{ Device, Firmware string }

func (c AcceptFirmware) decide(ctx context.Context, d *desk) (*change, None, error) {
	ev := d.by.event(audit.EventFirmwareAccepted)
	ev.Firmware = c.Firmware
	return d.edit(ctx, c.Device, ev, func(rec *deviceRecord) error {
		_, held := d.history.drifts(rec.AKName, c.Device)
		switch {
		case held == nil:
			return fmt.Errorf("%w: no release is held for the firmware of %s", ErrConflict, c.Device)
		case held.To != c.Firmware:
			return fmt.Errorf("%w: %s has shown other firmware since: look again", ErrConflict, c.Device)
		}
		rec.Firmware = c.Firmware
		return nil
	})
}

// RemoveDevice takes back an ID under which nothing was sealed, such as one that
// was mistyped. The store deletes nothing: the record says that it is removed,
// and adding the ID again begins anew. A device that was given a KEK stays: what
// is sealed next under that ID would be under the same one, and whoever got it
// may have kept it; so does one that was given its recovery key.
type RemoveDevice struct{ Device string }

func (c RemoveDevice) decide(ctx context.Context, d *desk) (*change, None, error) {
	device, err := d.device(ctx, c.Device)
	if err != nil {
		return nil, None{}, err
	}
	if err := d.state.removable(ctx, c.Device); err != nil {
		return nil, None{}, err
	}
	writes, err := d.state.remove(ctx, c.Device, &device.deviceRecord, device.version)
	if err != nil {
		return nil, None{}, err
	}
	ev := d.by.event(audit.EventDeviceRemoved)
	ev.Device = c.Device
	if device.enrolled() {
		ev.Detail = "it had enrolled with ek " + device.EKName
	}
	return &change{[]audit.Record{ev}, writes}, None{}, nil
}

// remove is what the removal of a device writes: its record, and nothing in the
// place of slice and capture, if there are some.
func (s *state) remove(ctx context.Context, id string, d *deviceRecord, version uint64) ([]kekstore.Write, error) {
	gone, err := write(pathDevices+id, version, &deviceRecord{Removed: true, Life: d.Life + 1})
	if err != nil {
		return nil, err
	}
	writes := []kekstore.Write{gone}
	none, err := json.Marshal(&sliceRecord{})
	if err != nil {
		return nil, err
	}
	for path, empty := range map[string][]byte{pathSlices + id: none, pathCaptures + id: nil} {
		w, err := s.over(ctx, path, empty)
		if err != nil {
			return nil, err
		}
		if w.Old > 0 {
			writes = append(writes, w)
		}
	}
	return writes, nil
}

func (s *state) removable(ctx context.Context, id string) error {
	k, err := s.kek(ctx, id, 1)
	switch {
	case err == nil:
		k.wipe()
		return fmt.Errorf("%w: %s was given a key: its seal has begun, and may have ended without a word; it stays, and `kekctl ship --unsealed-too %s` leaves it behind", ErrConflict, id, id)
	case !errors.Is(err, kekstore.ErrNotFound):
		return err
	}
	there, err := s.escrowed(ctx, id)
	if err == nil && there {
		err = fmt.Errorf("%w: %s was given its recovery key, which opens every disk that is sealed under that ID; it stays, and `kekctl ship --unsealed-too %s` leaves it behind", ErrConflict, id, id)
	}
	return err
}

// oneLine checks a reason that is shown on consoles.
func oneLine(what, text string) error {
	if text == "" || len(text) > 200 || !printable.IsLine(text) {
		return fmt.Errorf("%w: a %s needs a reason of one line, at most 200 bytes", ErrRequest, what)
	}
	return nil
}

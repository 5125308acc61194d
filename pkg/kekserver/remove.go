package kekserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/landfall-project/landfall/pkg/kekstore"
)

// removeDevice takes back an ID under which nothing was sealed, such as one that
// was mistyped. The store deletes nothing: the record says that it is removed,
// and adding the ID again begins anew. A device that was given a KEK stays: what
// is sealed next under that ID would be under the same one, and whoever got it
// may have kept it; so does one that was given its recovery key.
func (s *Server) removeDevice(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	s.deciding.Lock()
	defer s.deciding.Unlock()
	ctx, id := r.Context(), r.PathValue("device")
	v, err := s.state.view(ctx)
	if err != nil {
		return err
	}
	d, err := s.state.device(ctx, v, id)
	if err != nil {
		return err
	}
	if err := s.state.removable(ctx, id, d); err != nil {
		return err
	}
	writes, err := s.state.remove(ctx, id, &d.deviceRecord, d.version)
	if err != nil {
		return err
	}
	ev := auditBy(agent, "device-removed")
	ev.Device = id
	if d.enrolled() {
		ev.Detail = "it had enrolled with ek " + d.EKName
	}
	if err := s.commit(ctx, ev, writes...); err != nil {
		return err
	}
	return done(w, s.logs.forget(id))
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

func (s *state) removable(ctx context.Context, id string, d *device) error {
	k, err := s.kek(ctx, id, 1)
	switch {
	case err == nil:
		k.wipe()
		return fmt.Errorf("%w: %s was given a key: its seal has begun, and may have ended without a word; it stays, and `kekctl ship --unsealed-too %s` leaves it behind", errConflict, id, id)
	case !errors.Is(err, kekstore.ErrNotFound):
		return err
	}
	there, err := s.escrowed(ctx, id)
	if err == nil && there {
		err = fmt.Errorf("%w: %s was given its recovery key, which opens every disk that is sealed under that ID; it stays, and `kekctl ship --unsealed-too %s` leaves it behind", errConflict, id, id)
	}
	return err
}

// authsPath is where the authorizations of a device's TPM are: of each life of
// an ID, its own.
func authsPath(id string, life uint32) string {
	if life == 0 {
		return pathAuths + id
	}
	return fmt.Sprintf("%s%s/%d", pathAuths, id, life)
}

// remove drops all that was seen of a device.
func (s *sightings) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.devices, id)
}

// living are the IDs of all devices that were added and not removed.
func (s *state) living(ctx context.Context, v *view) ([]string, error) {
	list, err := s.store.List(ctx, pathDevices)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range list {
		id := e.Path[len(pathDevices):]
		switch _, err := s.device(ctx, v, id); {
		case errors.Is(err, kekstore.ErrNotFound):
		case err != nil:
			return nil, err
		default:
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// again is the record of an ID that is added: of one that was removed, nothing
// is kept but how often.
func (d *deviceRecord) again() {
	if d.Removed {
		*d = deviceRecord{Life: d.Life}
	}
}

// errRemoved is what a removed device is to everything but its own record.
func errRemoved(id string) error {
	return fmt.Errorf("%s was removed: %w", id, kekstore.ErrNotFound)
}

package kekserver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
)

func auditBy(a *Agent, event string) audit.Record {
	return audit.Record{Event: event, Agent: a.Name}
}

// change edits a device's record and records who did it.
func (s *Server) change(ctx context.Context, id string, rec audit.Record, edit func(*deviceRecord) error) error {
	s.deciding.Lock()
	defer s.deciding.Unlock()
	v, err := s.state.view(ctx)
	if err != nil {
		return err
	}
	d, err := s.state.device(ctx, v, id)
	if err != nil {
		return err
	}
	r := d.deviceRecord
	if err := edit(&r); err != nil {
		return err
	}
	rec.Device = id
	return s.replace(ctx, rec, pathDevices+id, d.version, &r)
}

// addDevice makes a one-use token for a device. Only its SHA-256 is stored; the
// token itself has 128 bits of randomness.
func (s *Server) addDevice(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	var m kekproto.NewDevice
	if err := readJSON(w, r, &m); err != nil {
		return err
	}
	if !kekproto.ValidDeviceID(m.Device) {
		return fmt.Errorf("%w: device ID %q: want 1 to 63 of [a-z0-9-]", errRequest, m.Device)
	}
	token, err := s.expect(r.Context(), agent, &m)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, &kekproto.NewToken{Device: m.Device, Token: token})
	return nil
}

// expect stores a new token of a device and returns it.
func (s *Server) expect(ctx context.Context, agent *Agent, m *kekproto.NewDevice) (string, error) {
	s.deciding.Lock()
	defer s.deciding.Unlock()
	v, err := s.state.view(ctx)
	if err != nil {
		return "", err
	}
	if v.region.State != kekproto.StateBuilding {
		return "", fmt.Errorf("%w: devices are added while the region is building; it is %s", errConflict, v.region.State)
	}
	token := rand.Text()
	sum := sha256.Sum256([]byte(token))
	var rec deviceRecord
	version, err := s.state.load(ctx, pathDevices+m.Device, &rec)
	if err == nil && rec.Removed {
		err = errRemoved(m.Device)
	}
	rec.again()
	switch {
	case err == nil && !m.Again:
		return "", fmt.Errorf("%w: %s was added already; for a further token of the same machine use --again", errConflict, m.Device)
	case errors.Is(err, kekstore.ErrNotFound) && m.Again:
		return "", fmt.Errorf("a further token of %s, which was never added: %w", m.Device, err)
	case err != nil && !errors.Is(err, kekstore.ErrNotFound):
		return "", err
	}
	rec.TokenHash, rec.TokenUsed = sum[:], false
	ev := auditBy(agent, "device-added")
	ev.Device = m.Device
	if m.Again {
		ev.Detail = "a further token"
	}
	if err := s.replace(ctx, ev, pathDevices+m.Device, version, &rec); err != nil {
		return "", err
	}
	return token, nil
}

func (s *Server) approveDevice(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	var m kekproto.Approval
	if err := readJSON(w, r, &m); err != nil {
		return err
	}
	ev := auditBy(agent, "device-approved")
	ev.Detail = "ek " + m.EKName
	err := s.change(r.Context(), r.PathValue("device"), ev, func(d *deviceRecord) error {
		if !d.enrolled() {
			return fmt.Errorf("%w: the device has not enrolled yet", errConflict)
		}
		if d.EKName != m.EKName {
			return fmt.Errorf("%w: the device enrolled with EK %s, not %s", errConflict, d.EKName, m.EKName)
		}
		d.Approved = true
		return nil
	})
	return done(w, err)
}

func (s *Server) suspendDevice(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	var m kekproto.Reason
	if err := readJSON(w, r, &m); err != nil {
		return err
	}
	if err := oneLine("suspension", m.Reason); err != nil {
		return err
	}
	ev := auditBy(agent, "suspend")
	ev.Detail = m.Reason
	err := s.change(r.Context(), r.PathValue("device"), ev, func(d *deviceRecord) error {
		d.Suspended, d.Reason = true, m.Reason
		return nil
	})
	return done(w, err)
}

func (s *Server) resumeDevice(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	err := s.change(r.Context(), r.PathValue("device"), auditBy(agent, "resume"), func(d *deviceRecord) error {
		if !d.Suspended {
			return fmt.Errorf("%w: the device is not suspended", errConflict)
		}
		d.Suspended, d.Reason = false, ""
		return nil
	})
	return done(w, err)
}

func done(w http.ResponseWriter, err error) error {
	if err == nil {
		writeJSON(w, http.StatusOK, struct{}{})
	}
	return err
}

func (s *Server) getDevice(w http.ResponseWriter, r *http.Request, _ *Agent) error {
	v, err := s.state.view(r.Context())
	if err != nil {
		return err
	}
	info, err := s.info(r.Context(), v, r.PathValue("device"))
	if err != nil {
		return err
	}
	if err := s.putCapture(r.Context(), info); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, info)
	return nil
}

// getDevices lists without what is long, unless the query has full=1: then with
// all that `snapshot assemble` reads.
func (s *Server) getDevices(w http.ResponseWriter, r *http.Request, _ *Agent) error {
	all, err := s.infos(r.Context())
	if err != nil {
		return err
	}
	full := r.URL.Query().Get("full") == "1"
	for i := range all {
		d := &all[i]
		if full {
			err = s.putCapture(r.Context(), d)
		} else {
			*d = brief(*d)
		}
		if err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, all)
	return nil
}

func (s *Server) infos(ctx context.Context) ([]kekproto.DeviceInfo, error) {
	v, err := s.state.view(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := s.state.living(ctx, v)
	if err != nil {
		return nil, err
	}
	out := make([]kekproto.DeviceInfo, 0, len(ids))
	for _, id := range ids {
		info, err := s.info(ctx, v, id)
		if err != nil {
			return nil, err
		}
		out = append(out, *info)
	}
	return out, nil
}

func (s *Server) info(ctx context.Context, v *view, id string) (*kekproto.DeviceInfo, error) {
	d, err := s.state.device(ctx, v, id)
	if err != nil {
		return nil, err
	}
	info := &kekproto.DeviceInfo{
		Device: id, Enrolled: d.enrolled(), Approved: d.Approved, Suspended: d.Suspended, Reason: d.Reason,
		EKName: d.EKName, AKName: d.AKName, SRKName: d.SRKName,
		EKPublic: d.EKPublic, AKPublic: d.AKPublic, SRKPublic: d.SRKPublic, EKCert: d.EKCert, Sealed: d.Sealed, Accepted: d.Accepted, Enrolling: s.enrol.pending(id),
	}
	if d.slice != nil {
		info.Slice, info.SliceHash, info.Stays = d.slice.Generation, hex.EncodeToString(d.slice.Digest), d.slice.Stays
		info.Rack, info.Unit = d.slice.Rack, d.slice.Unit
	}
	for generation := uint32(1); ; generation++ {
		k, err := s.state.kek(ctx, id, generation)
		if errors.Is(err, kekstore.ErrNotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		k.wipe()
		info.Generation = generation
	}
	if info.Recovery, err = s.state.escrowed(ctx, id); err != nil {
		return nil, err
	}
	s.seen.put(info)
	return info, nil
}

package kekserver

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// firmwareBytes is how much of a PCR is kept, of its 32 bytes: enough that
// nobody finds other firmware with the same.
const firmwareBytes = 16

// firmware writes PCR 0, 2 and 7 as "0=… 2=… 7=…", hex. Firmware updates, other
// cards and Secure Boot databases change them, so they decide nothing
// unless the region says so; but a change that nobody made on purpose must not go
// unseen.
func firmware(pcrs map[int][]byte) string {
	const each = len("0=") + 2*firmwareBytes
	b := make([]byte, 0, 3*each+2)
	for i, n := range [...]int{0, 2, 7} {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, '0'+byte(n), '=')
		b = hex.AppendEncode(b, pcrs[n][:firmwareBytes])
	}
	return string(b)
}

// changedPCRs lists which values of firmware differ, as in "0,7". Before the
// first release there is nothing to differ from.
func changedPCRs(from, to string) string {
	if from == "" || to == "" || from == to {
		return ""
	}
	old := strings.Fields(from)
	var out []string
	for i, v := range strings.Fields(to) {
		if i >= len(old) || old[i] != v {
			n, _, _ := strings.Cut(v, "=")
			out = append(out, n)
		}
	}
	return strings.Join(out, ",")
}

// changed compares a device's firmware with that of its last release.
func (s *sightings) changed(id, now string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.devices[id]; ok && d.seen != nil {
		return changedPCRs(d.seen.Firmware, now)
	}
	return ""
}

// checkFirmware refuses a release to a device whose firmware is neither that of its
// last release nor what an operator accepted, where the region holds that against
// it. It comes last: only a boot that is right otherwise is one to accept.
func (s *Server) checkFirmware(demand kekproto.FirmwareDemand, r *request) error {
	if r.Op != kekproto.OpRelease || demand != kekproto.FirmwareHold || r.changed == "" || r.firmware == r.device.Firmware {
		return nil
	}
	s.seen.hold(r.Device, r.changed, r.firmware, s.now())
	return report.Errorf(report.KeyFirmware, "PCR %s of %s (firmware, option ROMs, Secure Boot) changed since its last release", r.changed, r.Device)
}

// hold keeps what a release was refused for.
func (s *sightings) hold(id, pcrs, now string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.of(id)
	d.held = &kekproto.Drift{Time: at.UTC(), PCRs: pcrs, From: d.seen.Firmware, To: now}
}

// heldOf returns what a device's last release was refused for; nil if it was not.
func (s *sightings) heldOf(id string) *kekproto.Drift {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.devices[id]; ok {
		return d.held
	}
	return nil
}

// acceptFirmware lets a device with changed firmware have its key. The operator
// names the values that were shown: others may have come since.
func (s *Server) acceptFirmware(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	var m kekproto.AcceptFirmware
	if err := readJSON(w, r, &m); err != nil {
		return err
	}
	id := r.PathValue("device")
	ev := auditBy(agent, "firmware-accepted")
	ev.Firmware = m.Firmware
	err := s.change(r.Context(), id, ev, func(d *deviceRecord) error {
		held := s.seen.heldOf(id)
		switch {
		case held == nil:
			return fmt.Errorf("%w: no release is held for the firmware of %s", errConflict, id)
		case held.To != m.Firmware:
			return fmt.Errorf("%w: %s has shown other firmware since: look again", errConflict, id)
		}
		d.Firmware = m.Firmware
		return nil
	})
	return done(w, err)
}

// setFirmwareDemand changes what changed firmware does.
func (s *Server) setFirmwareDemand(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	var m kekproto.SetFirmwareDemand
	if err := readJSON(w, r, &m); err != nil {
		return err
	}
	if m.Demand != kekproto.FirmwareRecord && m.Demand != kekproto.FirmwareHold {
		return fmt.Errorf("%w: a demand %q: want %s or %s", errRequest, m.Demand, kekproto.FirmwareHold, kekproto.FirmwareRecord)
	}
	ev := auditBy(agent, "firmware-demand")
	ev.Detail = string(m.Demand)
	if err := s.demand(r.Context(), ev, func(rec *regionRecord) { rec.Firmware = m.Demand }); err != nil {
		return err
	}
	return s.getStatus(w, r, agent)
}

// demand changes the region's record.
func (s *Server) demand(ctx context.Context, ev audit.Record, edit func(*regionRecord)) error {
	s.deciding.Lock()
	defer s.deciding.Unlock()
	var rec regionRecord
	version, err := s.state.load(ctx, pathRegion, &rec)
	if err != nil {
		return err
	}
	edit(&rec)
	return s.replace(ctx, ev, pathRegion, version, &rec)
}

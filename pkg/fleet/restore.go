package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
)

// Restored is what came of a restore.
type Restored struct {
	State kekproto.RegionState `json:"state"`
	From  uint64               `json:"from_epoch"` // of the backup
	To    uint64               `json:"epoch"`
	// Again are decisions that were made after the backup and hold again.
	Again []string `json:"again"`
	// Lost is what was recorded after the backup and is not in it: what is done
	// with it is for people.
	Lost []string `json:"lost"`
	// Lines are what the audit log gets; the store has them already.
	Lines []audit.Record `json:"-"`
}

// maxOvertaken bounds how far a log may be ahead of a backup, in changes: each costs
// a write.
const maxOvertaken = 1 << 20

// restoring writes a store of which no member runs, without a log: the line of the
// restore tells of all of it.
type restoring struct {
	*state
	to kekstore.Store
}

// Restore makes a backup that was opened fit to go on. log is the member's audit
// log, nil if that is lost too.
//
// With the log, what takes something away holds again: the region's state,
// suspensions, revocations, removals. Everything else that came after the backup
// is named.
// Without the log nobody knows what came after, so no key leaves until agents
// have signed for the region once more; only a region that is being built, and
// is said to be, goes on so.
func Restore(ctx context.Context, store kekstore.Store, log []audit.Record, building bool) (*Restored, error) {
	s := &restoring{newState(store, new(Rules)), store}
	owed, err := Owed(ctx, store, log)
	if err != nil {
		return nil, err
	}
	from, err := store.Epoch(ctx)
	if err != nil {
		return nil, err
	}
	out := &Restored{From: from}
	var region regionRecord
	version, err := s.load(ctx, pathRegion, &region)
	if err != nil {
		return nil, err
	}
	was := region.State
	var seen uint64
	for _, r := range log {
		if seen = max(seen, r.Epoch); seen > out.From+maxOvertaken {
			return nil, fmt.Errorf("line %d of the audit log is of epoch %d, and the backup of %d: that is no log of this store", r.Number, r.Epoch, out.From)
		}
		if inBackup(&r, out.From) {
			continue
		}
		if r.Event == audit.EventRegion {
			region.State = kekproto.RegionState(r.State)
			out.Again = append(out.Again, "the region became "+r.State)
			continue
		}
		if err := s.again(ctx, out, &r); err != nil {
			return nil, err
		}
	}
	if log == nil && !(building && was == kekproto.StateBuilding) {
		region.State = kekproto.StateInTransit
	}
	if region.State == kekproto.StateInTransit && (was != kekproto.StateInTransit || log == nil) {
		region.Shipment = newShipment()
	}
	if err := s.save(ctx, pathRegion, version, &region); err != nil {
		return nil, err
	}
	out.State = region.State
	if log == nil {
		owed = nil // it is lost with all the others
	}
	out.Lines = append(owed, audit.Record{Event: audit.EventRestored, State: string(out.State),
		Detail: fmt.Sprintf("a backup of epoch %d took the store's place", out.From)})
	out.To, err = s.overtake(ctx, seen, out)
	for i := range out.Lines {
		out.Lines[i].Epoch = out.To
	}
	return out, err
}

// inBackup says whether a line tells of what a backup of that epoch has: it has the
// epoch of its change.
func inBackup(r *audit.Record, epoch uint64) bool { return r.Epoch <= epoch }

// again makes one decision that came after the backup hold again, or names what
// is lost.
func (s *restoring) again(ctx context.Context, out *Restored, r *audit.Record) error {
	switch r.Event {
	case audit.EventSuspend, audit.EventResume:
		var d deviceRecord
		version, err := s.load(ctx, pathDevices+r.Device, &d)
		if errors.Is(err, kekstore.ErrNotFound) || err == nil && d.Removed {
			return nil // its adding is named
		}
		if err != nil {
			return err
		}
		d.Suspended, d.Reason = r.Event == audit.EventSuspend, ""
		if d.Suspended {
			d.Reason = r.Detail
		}
		out.Again = append(out.Again, r.Device+": "+string(r.Event))
		return s.save(ctx, pathDevices+r.Device, version, &d)
	case audit.EventRevoke:
		_, reason, _ := strings.Cut(r.Detail, ": ")
		err := s.save(ctx, pathRevoked+r.Digest, 0, &revokedRecord{Reason: reason, Agent: r.Agent})
		if errors.Is(err, kekstore.ErrConflict) {
			return nil
		}
		out.Again = append(out.Again, r.Image+" is revoked")
		return err
	case audit.EventMinimum:
		return s.minimumAgain(ctx, out, r)
	case audit.EventDeviceRemoved:
		return s.removedAgain(ctx, out, r.Device)
	case audit.EventFirmwareDemand, audit.EventLinkDemand:
		out.Lost = append(out.Lost, string(r.Event)+" "+r.Detail+": set it again")
	case audit.EventRecoveryEscrowed:
		out.Lost = append(out.Lost, string(r.Event)+" "+r.Device+": the recovery key that its disks were given is not in the backup")
	case audit.EventDeviceAdded, audit.EventEnrol, audit.EventDeviceApproved, audit.EventSlice, audit.EventManifest, audit.EventKEKCreated, audit.EventSealed, audit.EventAccepted, audit.EventAcceptedNoMore, audit.EventCapture, audit.EventAuths,
		audit.EventRecoveryRequested, audit.EventRecoveryApproved, audit.EventFirmwareAccepted:
		what := strings.TrimSpace(strings.Join([]string{string(r.Event), r.Device, r.Image, r.Detail}, " "))
		out.Lost = append(out.Lost, strings.Join(strings.Fields(what), " "))
	}
	return nil
}

// removedAgain takes back a device of the backup.
func (s *restoring) removedAgain(ctx context.Context, out *Restored, id string) error {
	var d deviceRecord
	version, err := s.load(ctx, pathDevices+id, &d)
	switch {
	case errors.Is(err, kekstore.ErrNotFound), err == nil && d.Removed:
		// It was added after the backup too, which is named. Its authorizations are
		// lost with it: the next life of the ID cannot meet them.
		return nil
	case err != nil:
		return err
	}
	writes, err := s.remove(ctx, id, &d, version)
	if err != nil {
		return err
	}
	out.Again = append(out.Again, id+": removed")
	_, err = s.to.Commit(ctx, nil, writes...)
	return err
}

// save replaces a record that is still at a version.
func (s *restoring) save(ctx context.Context, path string, old uint64, v any) error {
	w, err := write(path, old, v)
	if err == nil {
		_, err = s.to.Commit(ctx, nil, w)
	}
	return err
}

// minimumAgain sets a minimum by its line.
func (s *restoring) minimumAgain(ctx context.Context, out *Restored, r *audit.Record) error {
	role, least, err := parseMinimum(r.Detail)
	if err != nil {
		return fmt.Errorf("audit log, line %d: %w", r.Number, err)
	}
	var old minimumRecord
	version, err := s.load(ctx, pathMinimum+role, &old)
	if err != nil && !errors.Is(err, kekstore.ErrNotFound) {
		return err
	}
	out.Again = append(out.Again, "images of role "+role+" older than "+least+" get nothing")
	return s.save(ctx, pathMinimum+role, version, &minimumRecord{Version: least, Agent: r.Agent})
}

// overtake writes until the store is newer than all that the audit log has seen:
// a member refuses it otherwise, as one that somebody put back.
func (s *restoring) overtake(ctx context.Context, seen uint64, out *Restored) (uint64, error) {
	happened, err := json.Marshal(out.Lines)
	if err != nil {
		return 0, err
	}
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		w, err := s.over(ctx, pathRestored, fmt.Appendf(nil, `{"from_epoch":%d}`, out.From))
		if err != nil {
			return 0, err
		}
		if at, err := s.to.Commit(ctx, happened, w); err != nil || at > seen {
			return at, err
		}
	}
}

package fleet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/printable"
)

// maxRefusal bounds what a refused agent's line says, in bytes.
const maxRefusal = 1 << 10

// recoveryRecord is stored as JSON below pathRequests. Times are the member's
// clock: who sets it back prolongs an hour, who sets it forward ends it.
type recoveryRecord struct {
	Agent        string    `json:"agent"`
	Key          string    `json:"key"` // SHA-256 of the public key of its certificate, hex
	Reason       string    `json:"reason"`
	Time         time.Time `json:"time"`
	ApprovedBy   string    `json:"approved_by,omitempty"`
	ApprovedCert string    `json:"approved_cert,omitempty"` // SHA-256 of the certificate of who approved, hex
	Approved     time.Time `json:"approved,omitzero"`
	Reads        int       `json:"reads,omitempty"`
}

// state says where a request is in its life, and when it is over. A clock that
// runs before the times of the record ends it.
func (r *recoveryRecord) state(now time.Time) (kekproto.RecoveryState, time.Time) {
	from, most, state := r.Time, kekproto.RecoveryWait, kekproto.RecoveryWaits
	if r.ApprovedBy != "" {
		from, most, state = r.Approved, kekproto.RecoveryTime, kekproto.RecoveryApproved
	}
	if age := now.Sub(from); age < 0 || age > most {
		state = kekproto.RecoveryOver
	}
	return state, from.Add(most)
}

func (r *recoveryRecord) info(device, id string, now time.Time) *kekproto.RecoveryRequest {
	out := &kekproto.RecoveryRequest{Device: device, ID: id, Agent: r.Agent, Reason: r.Reason, Time: r.Time,
		ApprovedBy: r.ApprovedBy, Reads: r.Reads}
	if r.ApprovedBy != "" {
		out.Approved = &r.Approved
	}
	out.State, out.Until = r.state(now)
	return out
}

// RequestRecovery asks for a device's recovery key. Another agent approves it, and
// then who asked reads it.
type RequestRecovery struct{ Device, Reason string }

func (c RequestRecovery) decide(ctx context.Context, d *desk) (*change, *kekproto.RecoveryRequest, error) {
	if err := oneLine("recovery request", c.Reason); err != nil {
		return nil, nil, err
	}
	v, err := d.look(ctx)
	if err == nil {
		err = d.recoverable(ctx, v, c.Device)
	}
	if err != nil {
		return nil, nil, err
	}
	agent := d.by.Agent
	if !slices.ContainsFunc(d.rules.Agents, func(a Agent) bool { return a.Name != agent.Name && slices.Contains(TwoOf(), a.Role) }) {
		return nil, nil, fmt.Errorf("%w: a recovery key takes two agents, and nobody but %s has the role operator or agent here, so nobody can approve: name a second one in this member's kekd.json, and start kekd again", ErrConflict, agent.Name)
	}
	rec := &recoveryRecord{Agent: agent.Name, Key: d.by.Key, Reason: c.Reason, Time: d.now().UTC()}
	id := strings.ToLower(rand.Text()[:10])
	ev := d.by.event(audit.EventRecoveryRequested)
	ev.Device, ev.Peer, ev.Detail = c.Device, d.by.Peer, id+": "+c.Reason
	made, err := replace(ev, requestPath(c.Device, id), 0, rec)
	return made, rec.info(c.Device, id, rec.Time), err
}

// ApproveRecovery is the second agent's consent.
type ApproveRecovery struct{ Device, ID string }

func (c ApproveRecovery) decide(ctx context.Context, d *desk) (*change, *kekproto.RecoveryRequest, error) {
	v, err := d.look(ctx)
	if err != nil {
		return nil, nil, err
	}
	rec, version, err := d.loadRecovery(ctx, v, c.Device, c.ID)
	if err != nil {
		return nil, nil, err
	}
	agent, now := d.by.Agent, d.now().UTC()
	switch state, until := rec.state(now); {
	case rec.Agent == agent.Name, rec.Key == d.by.Key:
		return nil, nil, fmt.Errorf("%w: %s asked for this, so another agent must approve it", ErrForbidden, rec.Agent)
	case rec.ApprovedBy != "":
		return nil, nil, fmt.Errorf("%w: %s approved it already; it is over at %s", ErrConflict, rec.ApprovedBy, until.Format(time.RFC3339))
	case state == kekproto.RecoveryOver:
		return nil, nil, fmt.Errorf("%w: nobody approved it until %s; ask again", ErrConflict, until.Format(time.RFC3339))
	}
	ev := d.by.event(audit.EventRecoveryApproved)
	ev.Device, ev.Peer, ev.Detail = c.Device, d.by.Peer, fmt.Sprintf("%s: %s asked: %s", c.ID, rec.Agent, rec.Reason)
	rec.ApprovedBy, rec.ApprovedCert, rec.Approved = agent.Name, hex.EncodeToString(agent.Certificate[:]), now
	made, err := replace(ev, requestPath(c.Device, c.ID), version, rec)
	return made, rec.info(c.Device, c.ID, now), err
}

// ReadRecovery hands a recovery key to the agent who asked for it, after another
// one's consent.
type ReadRecovery struct {
	Device, ID string
	HPKEPublic []byte // that the key is sealed to
}

// ReadRecovery is no Do: as with a release, no record changes until deliver
// returns, and nothing that is given away waits for it.
func (m *Member) ReadRecovery(ctx context.Context, by By, c ReadRecovery, deliver func(*kekproto.Secrets)) error {
	m.deciding.RLock()
	defer m.deciding.RUnlock()
	v, err := m.state.view(ctx)
	if err != nil {
		return err
	}
	rec, version, err := m.loadRecovery(ctx, v, c.Device, c.ID)
	if err == nil {
		err = rec.readable(by.Agent, by.Key, m.now())
	}
	if err == nil {
		err = rec.stands(m.rules.Agents)
	}
	if err != nil {
		return err
	}
	key, err := m.state.recovery(ctx, c.Device)
	if err != nil {
		return err
	}
	defer key.Wipe()
	sealed, err := kekproto.Seal(c.HPKEPublic, kekproto.RecoveryInfo(c.Device, c.ID), key)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRequest, err)
	}
	rec.Reads++
	ev := by.event(audit.EventRecoveryRead)
	ev.Device, ev.Peer, ev.Detail = c.Device, by.Peer, fmt.Sprintf("%s: %s approved: %s", c.ID, rec.ApprovedBy, rec.Reason)
	made, err := replace(ev, requestPath(c.Device, c.ID), version, rec)
	if err == nil {
		err = m.commit(ctx, made)
	}
	if err != nil {
		return err
	}
	deliver(&kekproto.Secrets{Sealed: sealed})
	return nil
}

// RecoveryRefused records what an agent was refused about a device's recovery key,
// and returns why, with the error of recording it if there is one.
func (m *Member) RecoveryRefused(ctx context.Context, by By, device string, why error) error {
	if !errors.Is(why, ErrConflict) && !errors.Is(why, ErrForbidden) && !errors.Is(why, kekstore.ErrNotFound) {
		return why
	}
	ev := by.event(audit.EventRecoveryRefused)
	ev.Peer, ev.Detail = by.Peer, printable.Cut(why.Error(), maxRefusal)
	if kekproto.ValidDeviceID(device) {
		ev.Device = device
	}
	return errors.Join(why, m.ledger.Record(ctx, ev))
}

// recoverable refuses what no agent may do about a device's recovery key now.
func (m *Member) recoverable(ctx context.Context, v *view, id string) error {
	if _, err := m.state.device(ctx, v, id); err != nil {
		return err
	}
	if v.region.State == kekproto.StateInTransit {
		return fmt.Errorf("%w: the region is in transit: no key leaves until agents have signed that it arrived (`kekctl receive`)", ErrConflict)
	}
	there, err := m.state.escrowed(ctx, id)
	if err == nil && !there {
		err = fmt.Errorf("%w: no recovery key of %s is kept here: it was sealed without one, or at another member", ErrConflict, id)
	}
	return err
}

// loadRecovery finds a request of this device, and of no other.
func (m *Member) loadRecovery(ctx context.Context, v *view, device, id string) (*recoveryRecord, uint64, error) {
	if err := m.recoverable(ctx, v, device); err != nil {
		return nil, 0, err
	}
	unknown := fmt.Errorf("recovery request %.40q of %s: %w", id, device, kekstore.ErrNotFound)
	if !kekproto.ValidDeviceID(id) {
		return nil, 0, unknown
	}
	rec := new(recoveryRecord)
	version, err := m.state.load(ctx, requestPath(device, id), rec)
	if errors.Is(err, kekstore.ErrNotFound) {
		err = unknown
	}
	return rec, version, err
}

// stands refuses a consent of somebody who could not give it any more.
func (r *recoveryRecord) stands(agents []Agent) error {
	for i := range agents {
		if a := &agents[i]; hex.EncodeToString(a.Certificate[:]) == r.ApprovedCert && slices.Contains(TwoOf(), a.Role) {
			return nil
		}
	}
	return fmt.Errorf("%w: %s, who approved it, is no agent any more; make a new request", ErrForbidden, r.ApprovedBy)
}

// readable says whether an agent may read the key now.
func (r *recoveryRecord) readable(agent *Agent, key string, now time.Time) error {
	switch state, until := r.state(now); {
	case r.Agent != agent.Name || r.Key != key:
		return fmt.Errorf("%w: %s asked for this and alone may read it; make a request of your own", ErrForbidden, r.Agent)
	case r.ApprovedBy == "":
		return fmt.Errorf("%w: no other agent has approved it; `kekctl recovery approve`", ErrConflict)
	case state != kekproto.RecoveryApproved:
		return fmt.Errorf("%w: it was over at %s; ask again", ErrConflict, until.Format(time.RFC3339))
	}
	return nil
}

// Recoveries lists all requests, newest first.
func (m *Member) Recoveries(ctx context.Context) ([]kekproto.RecoveryRequest, error) {
	list, err := m.state.store.List(ctx, pathRequests)
	if err != nil {
		return nil, err
	}
	now, out := m.now(), []kekproto.RecoveryRequest{}
	for _, e := range list {
		var rec recoveryRecord
		if _, err := m.state.load(ctx, e.Path, &rec); err != nil {
			return nil, err
		}
		device, id, _ := strings.Cut(strings.TrimPrefix(e.Path, pathRequests), "/")
		out = append(out, *rec.info(device, id, now))
	}
	slices.SortStableFunc(out, func(a, b kekproto.RecoveryRequest) int { return b.Time.Compare(a.Time) })
	return out, nil
}

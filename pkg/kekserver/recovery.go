package kekserver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/secret"
)

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

func requestPath(device, id string) string { return pathRequests + device + "/" + id }

// errForbidden: this agent may not do it, whatever the time.
var errForbidden = errors.New("not allowed")

// recovery makes or returns the key of the device's recovery keyslots.
func (s *Server) recovery(ctx context.Context, r *request) (*kekproto.Response, error) {
	data, fresh, err := s.keys.once(ctx, pathRecovery+r.Device, kekproto.RecoverySize, func([]byte) audit.Record { return r.event("recovery-escrowed") })
	if err != nil {
		return nil, err
	}
	key := secret.Take(data)
	defer key.Wipe()
	sealed, err := sealTo(r, key)
	if err == nil && !fresh {
		err = s.record(ctx, r.event("recovery"))
	}
	if err != nil {
		return nil, err
	}
	return &kekproto.Response{Recovery: &kekproto.Secrets{Sealed: sealed}}, nil
}

// takeRecovery makes a stored value a key, and wipes it if it is none.
func takeRecovery(v kekstore.Value) (*secret.Bytes, error) {
	if len(v.Data) != kekproto.RecoverySize {
		secret.Wipe(v.Data)
		return nil, fmt.Errorf("stored recovery key of %d bytes", len(v.Data))
	}
	return secret.Take(v.Data), nil
}

func (s *state) recovery(ctx context.Context, device string) (*secret.Bytes, error) {
	v, err := s.store.Get(ctx, pathRecovery+device)
	if err != nil {
		return nil, err
	}
	return takeRecovery(v)
}

// escrowed says whether the device's recovery key is kept here.
func (s *state) escrowed(ctx context.Context, device string) (bool, error) {
	key, err := s.recovery(ctx, device)
	if errors.Is(err, kekstore.ErrNotFound) {
		return false, nil
	}
	if err == nil {
		key.Wipe()
	}
	return err == nil, err
}

// recoverable refuses what no agent may do about a device's recovery key now.
func (s *Server) recoverable(ctx context.Context, id string) error {
	v, err := s.state.view(ctx)
	if err != nil {
		return err
	}
	if _, err := s.state.device(ctx, v, id); err != nil {
		return err
	}
	if v.region.State == kekproto.StateInTransit {
		return fmt.Errorf("%w: the region is in transit: no key leaves until agents have signed that it arrived (`kekctl receive`)", errConflict)
	}
	there, err := s.state.escrowed(ctx, id)
	if err == nil && !there {
		err = fmt.Errorf("%w: no recovery key of %s is kept here: it was sealed without one, or at another member", errConflict, id)
	}
	return err
}

// clientKey is the SHA-256 of the public key of a connection's certificate: two
// certificates of one key are one person's.
func clientKey(r *http.Request) string {
	sum := sha256.Sum256(r.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// recoveryRefused records what an agent was refused, and returns why.
func (s *Server) recoveryRefused(r *http.Request, agent *Agent, why error) error {
	if !errors.Is(why, errConflict) && !errors.Is(why, errForbidden) && !errors.Is(why, kekstore.ErrNotFound) {
		return why
	}
	ev := auditBy(agent, "recovery-refused")
	ev.Peer, ev.Detail = r.RemoteAddr, cut(why.Error(), maxWrong)
	if id := r.PathValue("device"); kekproto.ValidDeviceID(id) {
		ev.Device = id
	}
	return errors.Join(why, s.record(r.Context(), ev))
}

func (s *Server) requestRecovery(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	var m kekproto.NewRecovery
	if err := readJSON(w, r, &m); err != nil {
		return err
	}
	if err := oneLine("recovery request", m.Reason); err != nil {
		return err
	}
	info, err := s.newRecovery(r, agent, m.Reason)
	if err != nil {
		return s.recoveryRefused(r, agent, err)
	}
	writeJSON(w, http.StatusOK, info)
	return nil
}

func (s *Server) newRecovery(r *http.Request, agent *Agent, reason string) (*kekproto.RecoveryRequest, error) {
	s.deciding.Lock()
	defer s.deciding.Unlock()
	ctx, device := r.Context(), r.PathValue("device")
	if err := s.recoverable(ctx, device); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(s.cfg.Agents, func(a Agent) bool { return a.Name != agent.Name && slices.Contains(twoOf(), a.Role) }) {
		return nil, fmt.Errorf("%w: a recovery key takes two agents, and nobody but %s has the role operator or agent here, so nobody can approve: name a second one in this member's kekd.json, and start kekd again", errConflict, agent.Name)
	}
	rec := &recoveryRecord{Agent: agent.Name, Key: clientKey(r), Reason: reason, Time: s.now().UTC()}
	id := strings.ToLower(rand.Text()[:10])
	ev := auditBy(agent, "recovery-requested")
	ev.Device, ev.Peer, ev.Detail = device, r.RemoteAddr, id+": "+reason
	return rec.info(device, id, rec.Time), s.replace(ctx, ev, requestPath(device, id), 0, rec)
}

// loadRecovery finds the request that a path names: of this device, and no other.
func (s *Server) loadRecovery(r *http.Request) (*recoveryRecord, uint64, error) {
	device, id := r.PathValue("device"), r.PathValue("id")
	if err := s.recoverable(r.Context(), device); err != nil {
		return nil, 0, err
	}
	unknown := fmt.Errorf("recovery request %.40q of %s: %w", id, device, kekstore.ErrNotFound)
	if !kekproto.ValidDeviceID(id) {
		return nil, 0, unknown
	}
	rec := new(recoveryRecord)
	version, err := s.state.load(r.Context(), requestPath(device, id), rec)
	if errors.Is(err, kekstore.ErrNotFound) {
		err = unknown
	}
	return rec, version, err
}

// approveRecovery is the second agent's consent.
func (s *Server) approveRecovery(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	info, err := s.consent(r, agent)
	if err != nil {
		return s.recoveryRefused(r, agent, err)
	}
	writeJSON(w, http.StatusOK, info)
	return nil
}

func (s *Server) consent(r *http.Request, agent *Agent) (*kekproto.RecoveryRequest, error) {
	s.deciding.Lock()
	defer s.deciding.Unlock()
	rec, version, err := s.loadRecovery(r)
	if err != nil {
		return nil, err
	}
	ctx, device, id, now := r.Context(), r.PathValue("device"), r.PathValue("id"), s.now().UTC()
	switch state, until := rec.state(now); {
	case rec.Agent == agent.Name, rec.Key == clientKey(r):
		return nil, fmt.Errorf("%w: %s asked for this, so another agent must approve it", errForbidden, rec.Agent)
	case rec.ApprovedBy != "":
		return nil, fmt.Errorf("%w: %s approved it already; it is over at %s", errConflict, rec.ApprovedBy, until.Format(time.RFC3339))
	case state == kekproto.RecoveryOver:
		return nil, fmt.Errorf("%w: nobody approved it until %s; ask again", errConflict, until.Format(time.RFC3339))
	}
	ev := auditBy(agent, "recovery-approved")
	ev.Device, ev.Peer, ev.Detail = device, r.RemoteAddr, fmt.Sprintf("%s: %s asked: %s", id, rec.Agent, rec.Reason)
	rec.ApprovedBy, rec.ApprovedCert, rec.Approved = agent.Name, hex.EncodeToString(agent.Certificate[:]), now
	return rec.info(device, id, now), s.replace(ctx, ev, requestPath(device, id), version, rec)
}

// readRecovery hands the key to the agent who asked, after another one's
// consent. As with a release, no record changes until the answer was written.
func (s *Server) readRecovery(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	var m kekproto.ReadRecovery
	if err := readJSON(w, r, &m); err != nil {
		return err
	}
	s.deciding.RLock()
	defer s.deciding.RUnlock()
	rec, version, err := s.loadRecovery(r)
	if err == nil {
		err = rec.readable(agent, clientKey(r), s.now())
	}
	if err == nil {
		err = rec.stands(s.cfg.Agents)
	}
	if err != nil {
		return s.recoveryRefused(r, agent, err)
	}
	ctx, device, id := r.Context(), r.PathValue("device"), r.PathValue("id")
	key, err := s.state.recovery(ctx, device)
	if err != nil {
		return err
	}
	defer key.Wipe()
	sealed, err := kekproto.Seal(m.HPKEPublic, kekproto.RecoveryInfo(device, id), key)
	if err != nil {
		return fmt.Errorf("%w: %w", errRequest, err)
	}
	rec.Reads++
	ev := auditBy(agent, "recovery-read")
	ev.Device, ev.Peer, ev.Detail = device, r.RemoteAddr, fmt.Sprintf("%s: %s approved: %s", id, rec.ApprovedBy, rec.Reason)
	if err := s.replace(ctx, ev, requestPath(device, id), version, rec); err != nil {
		return err
	}
	c := http.NewResponseController(w)
	_ = c.SetWriteDeadline(time.Now().Add(answerTime)) // an agent that never reads delays nobody
	writeJSON(w, http.StatusOK, &kekproto.Secrets{Sealed: sealed})
	_ = c.Flush() // the asker is gone if this fails
	return nil
}

// stands refuses a consent of somebody who could not give it any more.
func (r *recoveryRecord) stands(agents []Agent) error {
	for i := range agents {
		if a := &agents[i]; hex.EncodeToString(a.Certificate[:]) == r.ApprovedCert && slices.Contains(twoOf(), a.Role) {
			return nil
		}
	}
	return fmt.Errorf("%w: %s, who approved it, is no agent any more; make a new request", errForbidden, r.ApprovedBy)
}

// readable says whether an agent may read the key now.
func (r *recoveryRecord) readable(agent *Agent, key string, now time.Time) error {
	switch state, until := r.state(now); {
	case r.Agent != agent.Name || r.Key != key:
		return fmt.Errorf("%w: %s asked for this and alone may read it; make a request of your own", errForbidden, r.Agent)
	case r.ApprovedBy == "":
		return fmt.Errorf("%w: no other agent has approved it; `kekctl recovery approve`", errConflict)
	case state != kekproto.RecoveryApproved:
		return fmt.Errorf("%w: it was over at %s; ask again", errConflict, until.Format(time.RFC3339))
	}
	return nil
}

// getRecovery lists all requests, newest first.
func (s *Server) getRecovery(w http.ResponseWriter, r *http.Request, _ *Agent) error {
	ctx := r.Context()
	list, err := s.state.store.List(ctx, pathRequests)
	if err != nil {
		return err
	}
	now, out := s.now(), []kekproto.RecoveryRequest{}
	for _, e := range list {
		var rec recoveryRecord
		if _, err := s.state.load(ctx, e.Path, &rec); err != nil {
			return err
		}
		device, id, _ := strings.Cut(strings.TrimPrefix(e.Path, pathRequests), "/")
		out = append(out, *rec.info(device, id, now))
	}
	slices.SortStableFunc(out, func(a, b kekproto.RecoveryRequest) int { return b.Time.Compare(a.Time) })
	writeJSON(w, http.StatusOK, out)
	return nil
}

package kekserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// opEnroll names enrolment in refusals, audit log and metrics.
const opEnroll = kekproto.Op("enroll")

// Bounds on enrolments under way. A TPM activates a credential in a second.
const (
	enrollTime = 2 * time.Minute
	enrollMax  = 1024
)

// enrolments are those who were given a credential and have not proved yet
// that they could open it. One for each device.
type enrolments struct {
	mu   sync.Mutex
	open map[string]*enrolment // by device
}

type enrolment struct {
	session string
	device  string
	record  deviceRecord // as it will be
	version uint64       // of the record that it replaces
	proof   *secret.Bytes
	until   time.Time
}

func newEnrolments() *enrolments { return &enrolments{open: map[string]*enrolment{}} }

func (e *enrolments) add(n *enrolment) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, old := range e.open {
		if id == n.device || time.Now().After(old.until) {
			old.proof.Wipe()
			delete(e.open, id)
		}
	}
	if len(e.open) >= enrollMax {
		return report.Errorf(report.KeyFleet, "%d enrolments are under way; try again in a minute", len(e.open))
	}
	e.open[n.device] = n
	return nil
}

// pending says whether a device was given a credential and may still prove that
// it opens it.
func (e *enrolments) pending(device string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, ok := e.open[device]
	return ok && time.Now().Before(n.until)
}

// take removes the enrolment of a session: each proof is tried once.
func (e *enrolments) take(session string) *enrolment {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, n := range e.open {
		if subtle.ConstantTimeCompare([]byte(n.session), []byte(session)) == 1 {
			delete(e.open, id)
			if time.Now().After(n.until) {
				n.proof.Wipe()
				return nil
			}
			return n
		}
	}
	return nil
}

func refuseEnroll(format string, args ...any) error {
	return report.Errorf(report.KeyEnroll, format, args...)
}

func (s *Server) enrollBegin(w http.ResponseWriter, r *http.Request) {
	var m kekproto.EnrollBegin
	id, err := "", s.readEnroll(w, r, &m)
	if err == nil {
		var c *kekproto.EnrollChallenge
		if c, id, err = s.beginEnrolment(r.Context(), &m); err == nil {
			connectionOf(r).prove(id) // by its token
			writeJSON(w, http.StatusOK, c)
			return
		}
	}
	s.refuse(w, r, opEnroll, id, err)
}

func (s *Server) readEnroll(w http.ResponseWriter, r *http.Request, m any) error {
	body, err := readBody(w, r)
	if err != nil {
		return requestProblem(err)
	}
	if err := kekproto.Decode(body, kekproto.MaxBody, m); err != nil {
		return requestProblem(err)
	}
	return nil
}

// beginEnrolment checks token and keys, and makes a credential that only the
// TPM with that EK and that AK can open. The ID comes back once the token was
// right.
func (s *Server) beginEnrolment(ctx context.Context, m *kekproto.EnrollBegin) (*kekproto.EnrollChallenge, string, error) {
	if !kekproto.Supported(m.Protocol) {
		return nil, "", report.Errorf(report.KeyProtocol, "protocol %d: %w", m.Protocol, kekproto.ErrVersion)
	}
	v, err := s.state.view(ctx)
	if err != nil {
		return nil, "", err
	}
	if v.region.State != kekproto.StateBuilding {
		return nil, "", refuseEnroll("enrolment is closed: the region is %s", v.region.State)
	}
	d, err := s.state.device(ctx, v, m.Device)
	if errors.Is(err, kekstore.ErrNotFound) {
		return nil, "", refuseEnroll("no such device is expected, or the token is not its own")
	} else if err != nil {
		return nil, "", err
	}
	if sum := sha256.Sum256([]byte(m.Token)); subtle.ConstantTimeCompare(sum[:], d.TokenHash) != 1 {
		return nil, "", refuseEnroll("no such device is expected, or the token is not its own")
	}
	if err := s.state.uniqueEK(ctx, v, m.Device, m.EKPublic); err != nil {
		return nil, m.Device, err
	}
	rec, err := s.enrolledRecord(d, m)
	if err != nil {
		return nil, m.Device, err
	}
	n := &enrolment{session: rand.Text(), device: m.Device, record: *rec, version: d.version,
		proof: secret.Random(attest.CredentialSize), until: time.Now().Add(enrollTime)}
	credential, encrypted, err := attest.MakeCredential(m.EKPublic, rec.AKName, n.proof.Expose())
	if err != nil {
		return nil, m.Device, refuseEnroll("%w", err)
	}
	if err := s.enrol.add(n); err != nil {
		return nil, m.Device, err
	}
	return &kekproto.EnrollChallenge{Session: n.session, Credential: credential, Secret: encrypted}, m.Device, nil
}

// enrolledRecord is what the device's record becomes. A used token only repeats
// what it was used for, and the EK never changes: so an approval, which only
// what has enrolled can have, stays that of its EK.
func (s *Server) enrolledRecord(d *device, m *kekproto.EnrollBegin) (*deviceRecord, error) {
	rec := d.deviceRecord
	same := bytes.Equal(rec.EKPublic, m.EKPublic)
	switch {
	case d.enrolled() && !same:
		return nil, refuseEnroll("%s is enrolled with another EK (%s); another TPM never takes its place", m.Device, rec.EKName)
	case rec.TokenUsed && !(same && bytes.Equal(rec.AKPublic, m.AKPublic) && bytes.Equal(rec.SRKPublic, m.SRKPublic)):
		return nil, refuseEnroll("this token was used already, for other keys")
	}
	_, err := attest.ParseAK(m.AKPublic)
	if err != nil {
		return nil, refuseEnroll("AK: %w", err)
	}
	if err := attest.CheckSRK(m.SRKPublic); err != nil {
		return nil, refuseEnroll("SRK: %w", err)
	}
	for _, k := range []struct {
		area []byte
		name *string
	}{{m.EKPublic, &rec.EKName}, {m.AKPublic, &rec.AKName}, {m.SRKPublic, &rec.SRKName}} {
		if *k.name, err = attest.Name(k.area); err != nil {
			return nil, refuseEnroll("%w", err)
		}
	}
	if err := s.checkEKCert(m, &rec); err != nil {
		return nil, err
	}
	rec.EKPublic, rec.EKCert, rec.AKPublic, rec.SRKPublic = m.EKPublic, m.EKCert, m.AKPublic, m.SRKPublic
	rec.TokenUsed = true
	return &rec, nil
}

func (s *Server) enrollFinish(w http.ResponseWriter, r *http.Request) {
	var m kekproto.EnrollFinish
	id, err := "", s.readEnroll(w, r, &m)
	if err == nil {
		var out *kekproto.Enrolled
		if out, id, err = s.finishEnrolment(r.Context(), &m, r.RemoteAddr); err == nil {
			writeJSON(w, http.StatusOK, out)
			return
		}
	}
	s.refuse(w, r, opEnroll, id, err)
}

func (s *Server) finishEnrolment(ctx context.Context, m *kekproto.EnrollFinish, peer string) (*kekproto.Enrolled, string, error) {
	n := s.enrol.take(m.Session)
	if n == nil {
		return nil, "", refuseEnroll("no such enrolment is under way; begin again")
	}
	defer n.proof.Wipe()
	if subtle.ConstantTimeCompare(n.proof.Expose(), m.Proof) != 1 {
		return nil, n.device, refuseEnroll("the credential was not opened: EK and AK are not in one TPM")
	}
	s.deciding.Lock()
	defer s.deciding.Unlock()
	v, err := s.state.view(ctx)
	if err != nil {
		return nil, n.device, err
	}
	if v.region.State != kekproto.StateBuilding {
		return nil, n.device, refuseEnroll("enrolment is closed: the region is %s", v.region.State)
	}
	d, err := s.state.device(ctx, v, n.device)
	if err == nil {
		err = s.state.uniqueEK(ctx, v, n.device, n.record.EKPublic)
	}
	if err != nil {
		return nil, n.device, err
	}
	ek := sha256.Sum256(n.record.EKCert)
	rec := audit.Record{Event: "enrol", Device: n.device, Peer: peer, Digest: hex.EncodeToString(ek[:]),
		Detail: "ek " + n.record.EKName + " ak " + n.record.AKName}
	if err := s.replace(ctx, rec, pathDevices+n.device, n.version, &n.record); err != nil {
		return nil, n.device, err
	}
	if d.enrolled() && !bytes.Equal(d.AKPublic, n.record.AKPublic) {
		if err := s.dropOld(n.device); err != nil {
			return nil, n.device, err
		}
	}
	s.metrics.count(opEnroll, "")
	return &kekproto.Enrolled{Device: n.device, EKName: n.record.EKName, AKName: n.record.AKName}, n.device, nil
}

// dropOld drops what a device quoted and said with the AK that it had before.
func (s *Server) dropOld(device string) error {
	s.seen.renew(device)
	return s.logs.forget(device)
}

// vouched says why nobody but an operator can approve the TPM, or nil: its maker
// vouches for it, and where the region has a delivery, that lists it.
func (s *Server) vouched(m *kekproto.EnrollBegin, rec *deviceRecord) error {
	switch {
	case len(m.EKCert) == 0:
		return errors.New("there is no EK certificate")
	case s.cfg.EKRoots == nil:
		return errors.New("this member knows no roots to check EK certificates with")
	}
	if err := attest.CheckEKCert(m.EKCert, m.EKPublic, s.cfg.EKRoots, s.cfg.EKIssuers...); err != nil {
		return err
	}
	if s.cfg.Delivery != nil && !s.cfg.Delivery.Has(rec.EKName, m.EKCert) {
		return errors.New("its maker vouches for it, but it is none of those in the list of delivered TPMs (ek_delivery)")
	}
	return nil
}

func (s *Server) checkEKCert(m *kekproto.EnrollBegin, rec *deviceRecord) error {
	err := s.vouched(m, rec)
	if err == nil {
		rec.Approved = true
		return nil
	}
	if s.cfg.EKPolicy == EKRequired {
		return &report.Problem{Code: report.TPMNoCert, Err: err,
			What: fmt.Sprintf("this region enrols TPMs with their maker's certificate only; that of %s, EK name %s: %v", m.Device, rec.EKName, err),
			Do: "look whether the EK certificate is in the TPM, the maker's roots are in --ek-roots and the TPM is in --ek-delivery, if there is one; to take such TPMs after an operator compared the EK name, set \"ek_certificates\": \"record\" in kekd.json " +
				"(kekctl init --ek-cert record), restart the member, provision again, and `kekctl device approve`; or replace the TPM"}
	}
	return nil // recorded; waits for approval
}

// uniqueEK refuses a TPM that is another device already. The caller of
// finishEnrolment's holds s.deciding, so that no two become one TPM at once.
func (s *state) uniqueEK(ctx context.Context, v *view, id string, ekPublic []byte) error {
	ids, err := s.living(ctx, v)
	if err != nil {
		return err
	}
	for _, other := range ids {
		if other == id {
			continue
		}
		d, err := s.device(ctx, v, other)
		if err != nil {
			return err
		}
		if d.enrolled() && attest.SameEK(d.EKPublic, ekPublic) {
			return refuseEnroll("this TPM is %s already (EK %s): a machine is one device; if that name was the mistake, take it back with `kekctl device remove %s`",
				other, d.EKName, other)
		}
	}
	return nil
}

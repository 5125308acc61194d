package fleet

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// Bounds on enrolments under way. A TPM activates a credential in a second.
const (
	enrollTime = 2 * time.Minute
	enrollMax  = 1024
)

// enrolments are those who were given a credential and have not proved yet
// that they could open it. One for each device.
type enrolments struct {
	now  func() time.Time
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

func newEnrolments(now func() time.Time) *enrolments {
	return &enrolments{now: now, open: map[string]*enrolment{}}
}

func (e *enrolments) add(n *enrolment) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, old := range e.open {
		if id == n.device || e.now().After(old.until) {
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
	return ok && e.now().Before(n.until)
}

// take removes the enrolment of a session: each proof is tried once.
func (e *enrolments) take(session string) *enrolment {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, n := range e.open {
		if subtle.ConstantTimeCompare([]byte(n.session), []byte(session)) == 1 {
			delete(e.open, id)
			if e.now().After(n.until) {
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

// BeginEnrolment checks token and keys, and makes a credential that only the
// TPM with that EK and that AK can open. The ID comes back once the token was
// right.
func (m *Member) BeginEnrolment(ctx context.Context, begin *kekproto.EnrollBegin) (*kekproto.EnrollChallenge, string, error) {
	if !kekproto.Supported(begin.Protocol) {
		return nil, "", report.Errorf(report.KeyProtocol, "protocol %d: %w", begin.Protocol, kekproto.ErrVersion)
	}
	v, err := m.state.view(ctx)
	if err != nil {
		return nil, "", err
	}
	if v.region.State != kekproto.StateBuilding {
		return nil, "", refuseEnroll("enrolment is closed: the region is %s", v.region.State)
	}
	d, err := m.state.device(ctx, v, begin.Device)
	if errors.Is(err, kekstore.ErrNotFound) {
		return nil, "", refuseEnroll("no such device is expected, or the token is not its own")
	} else if err != nil {
		return nil, "", err
	}
	if sum := sha256.Sum256([]byte(begin.Token)); subtle.ConstantTimeCompare(sum[:], d.TokenHash) != 1 {
		return nil, "", refuseEnroll("no such device is expected, or the token is not its own")
	}
	if err := m.state.uniqueEK(ctx, v, begin.Device, begin.EKPublic); err != nil {
		return nil, begin.Device, err
	}
	rec, err := m.rules.enrolledRecord(d, begin)
	if err != nil {
		return nil, begin.Device, err
	}
	n := &enrolment{session: rand.Text(), device: begin.Device, record: *rec, version: d.version,
		proof: secret.Random(attest.CredentialSize), until: m.now().Add(enrollTime)}
	credential, encrypted, err := attest.MakeCredential(begin.EKPublic, rec.AKName, n.proof.Expose())
	if err != nil {
		return nil, begin.Device, refuseEnroll("%w", err)
	}
	if err := m.enrol.add(n); err != nil {
		return nil, begin.Device, err
	}
	return &kekproto.EnrollChallenge{Session: n.session, Credential: credential, Secret: encrypted}, begin.Device, nil
}

// enrolledRecord is what the device's record becomes. A used token only repeats
// what it was used for, and the EK never changes: so an approval, which only
// what has enrolled can have, stays that of its EK.
func (rules *Rules) enrolledRecord(d *device, begin *kekproto.EnrollBegin) (*deviceRecord, error) {
	rec := d.deviceRecord
	same := bytes.Equal(rec.EKPublic, begin.EKPublic)
	switch {
	case d.enrolled() && !same:
		return nil, refuseEnroll("%s is enrolled with another EK (%s); another TPM never takes its place", begin.Device, rec.EKName)
	case rec.TokenUsed && !(same && bytes.Equal(rec.AKPublic, begin.AKPublic) && bytes.Equal(rec.SRKPublic, begin.SRKPublic)):
		return nil, refuseEnroll("this token was used already, for other keys")
	}
	_, err := attest.ParseAK(begin.AKPublic)
	if err != nil {
		return nil, refuseEnroll("AK: %w", err)
	}
	if err := attest.CheckSRK(begin.SRKPublic); err != nil {
		return nil, refuseEnroll("SRK: %w", err)
	}
	for _, k := range []struct {
		area []byte
		name *string
	}{{begin.EKPublic, &rec.EKName}, {begin.AKPublic, &rec.AKName}, {begin.SRKPublic, &rec.SRKName}} {
		if *k.name, err = attest.Name(k.area); err != nil {
			return nil, refuseEnroll("%w", err)
		}
	}
	if err := rules.checkEKCert(begin, &rec); err != nil {
		return nil, err
	}
	rec.EKPublic, rec.EKCert, rec.AKPublic, rec.SRKPublic = begin.EKPublic, begin.EKCert, begin.AKPublic, begin.SRKPublic
	rec.TokenUsed = true
	return &rec, nil
}

// Enrolled is what became of an enrolment.
type Enrolled struct {
	kekproto.Enrolled
	Renewed bool // with another AK than before: what the device quoted with that is not its own any more
}

// FinishEnrolment enrols the device whose TPM opened the credential. On an error,
// the ID comes back if the session is known.
func (m *Member) FinishEnrolment(ctx context.Context, finish *kekproto.EnrollFinish, peer string) (*Enrolled, string, error) {
	n := m.enrol.take(finish.Session)
	if n == nil {
		return nil, "", refuseEnroll("no such enrolment is under way; begin again")
	}
	defer n.proof.Wipe()
	if subtle.ConstantTimeCompare(n.proof.Expose(), finish.Proof) != 1 {
		return nil, n.device, refuseEnroll("the credential was not opened: EK and AK are not in one TPM")
	}
	m.deciding.Lock()
	defer m.deciding.Unlock()
	v, err := m.state.view(ctx)
	if err != nil {
		return nil, n.device, err
	}
	if v.region.State != kekproto.StateBuilding {
		return nil, n.device, refuseEnroll("enrolment is closed: the region is %s", v.region.State)
	}
	d, err := m.state.device(ctx, v, n.device)
	if err == nil {
		err = m.state.uniqueEK(ctx, v, n.device, n.record.EKPublic)
	}
	if err != nil {
		return nil, n.device, err
	}
	ek := sha256.Sum256(n.record.EKCert)
	ev := audit.Record{Event: audit.EventEnrol, Device: n.device, Peer: peer, Digest: hex.EncodeToString(ek[:]),
		Detail: "ek " + n.record.EKName + " ak " + n.record.AKName}
	made, err := replace(ev, pathDevices+n.device, n.version, &n.record)
	if err == nil {
		err = m.commit(ctx, made)
	}
	if err != nil {
		return nil, n.device, err
	}
	renewed := d.enrolled() && !bytes.Equal(d.AKPublic, n.record.AKPublic)
	if renewed {
		m.seen.Renew(n.device)
	}
	return &Enrolled{kekproto.Enrolled{Device: n.device, EKName: n.record.EKName, AKName: n.record.AKName}, renewed}, n.device, nil
}

// vouched says why nobody but an operator can approve the TPM, or nil: its maker
// vouches for it, and where the region has a delivery, that lists it.
func (rules *Rules) vouched(begin *kekproto.EnrollBegin, rec *deviceRecord) error {
	switch {
	case len(begin.EKCert) == 0:
		return errors.New("there is no EK certificate")
	case rules.EKRoots == nil:
		return errors.New("this member knows no roots to check EK certificates with")
	}
	if err := attest.CheckEKCert(begin.EKCert, begin.EKPublic, rules.EKRoots, rules.EKIssuers...); err != nil {
		return err
	}
	if rules.Delivery != nil && !rules.Delivery.Has(rec.EKName, begin.EKCert) {
		return errors.New("its maker vouches for it, but it is none of those in the list of delivered TPMs (ek_delivery)")
	}
	return nil
}

func (rules *Rules) checkEKCert(begin *kekproto.EnrollBegin, rec *deviceRecord) error {
	err := rules.vouched(begin, rec)
	if err == nil {
		rec.Approved = true
		return nil
	}
	if rules.EKPolicy == EKRequired {
		return &report.Problem{Code: report.TPMNoCert, Err: err,
			What: fmt.Sprintf("this region enrols TPMs with their maker's certificate only; that of %s, EK name %s: %v", begin.Device, rec.EKName, err),
			Do: "look whether the EK certificate is in the TPM, the maker's roots are in --ek-roots and the TPM is in --ek-delivery, if there is one; to take such TPMs after an operator compared the EK name, set \"ek_certificates\": \"record\" in kekd.json " +
				"(kekctl init --ek-cert record), restart the member, provision again, and `kekctl device approve`; or replace the TPM"}
	}
	return nil // recorded; waits for approval
}

// uniqueEK refuses a TPM that is another device already. The caller of
// FinishEnrolment's holds m.deciding, so that no two become one TPM at once.
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

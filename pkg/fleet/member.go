package fleet

import (
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/sightings"
)

// Role is what an agent may do on the operator plane.
type Role string

// The roles of agents. Each but RoleMetrics may read.
const (
	RoleOperator Role = "operator" // everything
	RoleAgent    Role = "agent"    // read; submit received statements
	RoleViewer   Role = "viewer"   // read
	RoleMetrics  Role = "metrics"  // metrics only
)

// TwoOf are the roles of which some things take two agents.
func TwoOf() []Role { return []Role{RoleOperator, RoleAgent} }

// Agent is a person or program on the operator plane.
type Agent struct {
	Name        string
	Role        Role
	Certificate [32]byte      // SHA-256 of the client certificate's DER
	Key         note.Verifier // of received statements; nil if the agent signs none
	PublicKey   []byte        // Key's Ed25519 key, 32 bytes; a note.Verifier does not tell it
}

// EKPolicy says what an EK certificate is needed for.
type EKPolicy string

// With EKRequired only a device whose EK certificate chains to EKRoots enrols.
// With EKRecord others enrol too, and wait for an operator's approval.
const (
	EKRequired EKPolicy = "required"
	EKRecord   EKPolicy = "record"
)

// Rules are what a member decides by, beside its records.
type Rules struct {
	Region      string
	ManifestKey note.Verifier   // signs image manifests
	RootKey     note.Verifier   // signs slices
	AmendKeys   []note.Verifier // one of them signs amendments too; empty: RootKey alone does
	PolicyKey   *rsa.PublicKey  // signs PCR policies; nil: those that come with manifests are not verified here
	Agents      []Agent
	Threshold   int // agents whose statements make a region received
	EKPolicy    EKPolicy
	EKRoots     *x509.CertPool
	EKIssuers   []*x509.Certificate // intermediates between EK certificates and EKRoots
	Delivery    attest.Delivery     // TPMs that were ordered: with it, a certificate alone approves none that is not in it; nil: none is demanded
	AllowLab    bool                // accept manifests of unmeasured boots: labs only
}

// Check names what is missing or contradicts itself.
func (c *Rules) Check() error {
	var errs []error
	need := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New(text))
		}
	}
	need(c.Region != "", "no region")
	need(c.ManifestKey != nil, "no manifest key")
	need(c.RootKey != nil, "no root key")
	need(c.EKPolicy == EKRequired || c.EKPolicy == EKRecord, "EK policy is neither required nor record")
	need(c.Delivery == nil || c.EKRoots != nil, "a delivery of TPMs is given, but no roots to check their certificates with")
	need(c.EKPolicy != EKRequired || c.EKRoots != nil, "EK certificates are required, but no roots are given")
	signers := c.checkAgents(&errs)
	need(c.Threshold >= 1 && c.Threshold <= signers,
		fmt.Sprintf("received needs %d agents, of %d who sign", c.Threshold, signers))
	return errors.Join(errs...)
}

// checkAgents refuses agents that cannot be told apart, and returns how many
// sign.
func (c *Rules) checkAgents(errs *[]error) int {
	bad := func(format string, args ...any) { *errs = append(*errs, fmt.Errorf(format, args...)) }
	signers, keys, certificates := map[string]bool{}, map[string]string{}, map[[32]byte]string{}
	for _, a := range c.Agents {
		switch a.Role {
		case RoleOperator, RoleAgent, RoleViewer, RoleMetrics:
		default:
			bad("agent %q has unknown role %q", a.Name, a.Role)
		}
		if other, taken := certificates[a.Certificate]; taken {
			bad("agents %q and %q have the same client certificate, so nobody can tell who asks; make one of its own for each", other, a.Name)
		}
		certificates[a.Certificate] = a.Name
		if a.Key == nil {
			continue
		}
		if signers[a.Key.Name()] {
			bad("two agents sign as %q", a.Key.Name())
		}
		signers[a.Key.Name()] = true
		if len(a.PublicKey) != ed25519.PublicKeySize {
			bad("agent %q has no public key of %d bytes", a.Name, ed25519.PublicKeySize)
		}
		if other, taken := keys[string(a.PublicKey)]; taken {
			bad("agents %q and %q sign with the same key, so they count as one; make a key of its own for each", other, a.Name)
		}
		keys[string(a.PublicKey)] = a.Name
	}
	return len(signers)
}

// Member decides what one member of the fleet does. It is told of what devices
// and agents ask, and tells what they get; its planes carry that. Safe for
// concurrent use.
type Member struct {
	rules   Rules
	ledger  *Ledger
	state   *state
	history *history
	seen    *sightings.Sightings
	enrol   *enrolments
	since   time.Time
	now     func() time.Time // when something was seen, asked for or written

	// deciding is held for reading from the look at the records until the answer
	// was delivered, and for writing while they change. So a suspension or a
	// shipment that was acknowledged is one that no key leaves after.
	deciding sync.RWMutex
}

// Open verifies store and audit log against each other and makes a member of
// them, which writes nothing until it is asked something. open opens the log, as
// for OpenLedger. The caller closes the member; the store stays the caller's.
func Open(ctx context.Context, rules Rules, store kekstore.Store, now func() time.Time,
	open func(known audit.Head, each func(audit.Record) error) (Log, error)) (*Member, error) {
	m := &Member{rules: rules, history: newHistory(), seen: sightings.New(), enrol: newEnrolments(now), since: now(), now: now}
	m.state = newState(store, &m.rules)
	heard := func(r *audit.Record) {
		m.history.heard(r)
		m.seen.Recorded(r, m.now())
	}
	replay := func(r audit.Record) error {
		m.history.replay(&r)
		return m.seen.Replay(r)
	}
	var err error
	if m.ledger, err = OpenLedger(ctx, store, now, heard, open, replay); err != nil {
		return nil, err
	}
	return m, nil
}

// Start records that the member serves from now on.
func (m *Member) Start(ctx context.Context) error {
	started := audit.Record{Event: audit.EventStart}
	if m.rules.AllowLab {
		started.Detail = "lab profile: unmeasured boots are accepted"
	}
	return m.ledger.Record(ctx, started)
}

// Ready lets a broken audit log go on, if it can, and returns why the member
// releases nothing now.
func (m *Member) Ready(ctx context.Context) error {
	if err := m.ledger.Settle(ctx); err != nil {
		return fmt.Errorf("audit log cannot be written: %w", err)
	}
	if _, err := m.state.store.Get(ctx, pathRegion); err != nil {
		return fmt.Errorf("store cannot be read: %w", err)
	}
	return nil
}

// Keep is Ledger.Keep.
func (m *Member) Keep(ctx context.Context) error { return m.ledger.Keep(ctx) }

// Epoch counts the writes to the store so far.
func (m *Member) Epoch(ctx context.Context) (uint64, error) { return m.state.store.Epoch(ctx) }

// Log is the durable end of the audit log, and why it cannot be written, if so.
func (m *Member) Log() (audit.Head, error) { return m.ledger.Head() }

// Seen is what was seen of the devices.
func (m *Member) Seen() *sightings.Sightings { return m.seen }

// Backup writes a snapshot of the store for an agent, and records that.
func (m *Member) Backup(ctx context.Context, by By, to io.Writer) error {
	if err := m.ledger.Record(ctx, by.event(audit.EventBackup)); err != nil {
		return err
	}
	return m.state.store.Snapshot(ctx, to)
}

// Close closes the audit log.
func (m *Member) Close() error { return m.ledger.Close() }

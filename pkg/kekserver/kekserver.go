// Package kekserver is one member of the fleet: it enrols devices in the
// factory, releases KEKs to attested devices, and answers operators.
//
// There are two planes on two listeners. On the device plane the only
// credential is a TPM quote bound to the TLS connection and the request (or,
// to enrol, a one-use token and the activation of a credential). On the
// operator plane it is the client certificate of an agent, pinned in the
// member's configuration, and the agent's role.
package kekserver

import (
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/fleet"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
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

// Config is what a member runs on.
type Config struct {
	Member      string // member ID, the DNS name in Certificate
	Region      string
	Store       kekstore.Store
	AuditPath   string
	EvidenceDir string // for event logs of refused images; made when the first one comes
	Certificate tls.Certificate
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
	Log         *slog.Logger
}

// Server is one member.
type Server struct {
	cfg Config
	*books
	keys    keys
	state   *state
	seen    *sightings
	enrol   *enrolments
	metrics *metrics
	since   time.Time
	logs    evidenceStore
	gates   [3]*gate         // of devices, operators, health
	now     func() time.Time // when something was seen, asked for or written

	// deciding is held for reading from the look at the records until the answer
	// was written, and for writing while they change. So a suspension or a
	// shipment that was acknowledged is one that no key leaves after.
	deciding sync.RWMutex
}

// New verifies store and audit log against each other and makes a member of
// them, which writes nothing until it serves. The caller closes it; the store
// stays the caller's.
func New(cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuration of member %q: %w", cfg.Member, err)
	}
	s := &Server{cfg: cfg, since: time.Now(), seen: newSightings(), enrol: newEnrolments(), now: time.Now}
	s.gates = [...]*gate{newGate(deviceBounds()), newGate(operatorBounds()), newGate(healthBounds())}
	s.state = newState(cfg.Store, cfg.ManifestKey)
	s.logs = evidenceStore{dir: cfg.EvidenceDir, slots: make(chan struct{}, evidenceAtOnce)}
	open := func(known audit.Head, each func(audit.Record) error) (fleet.Log, error) {
		return audit.Open(cfg.AuditPath, known, each)
	}
	heard := func(r *audit.Record) { s.seen.recorded(r, s.now()) }
	ledger, err := fleet.OpenLedger(context.Background(), cfg.Store, time.Now, heard, open, s.seen.replay)
	if err != nil {
		return nil, err
	}
	s.cfg.Store = nil // it is the ledger's
	s.books = &books{ledger: ledger}
	s.keys = keys{s.books, s.state}
	s.metrics = newMetrics(s)
	s.books.took = s.metrics.auditSeconds
	if cfg.AllowLab {
		cfg.Log.Warn("LAB PROFILE: manifests of unmeasured boots are accepted; anybody's image gets keys")
	}
	return s, nil
}

func labWarning(lab bool) string {
	if lab {
		return "lab profile: unmeasured boots are accepted"
	}
	return ""
}

func (c *Config) validate() error {
	var errs []error
	need := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New(text))
		}
	}
	need(c.Member != "", "no member ID")
	need(c.Region != "", "no region")
	need(c.Store != nil, "no store")
	need(c.EvidenceDir != "", "no folder for event logs")
	need(c.ManifestKey != nil, "no manifest key")
	need(c.RootKey != nil, "no root key")
	need(c.Log != nil, "no logger")
	need(len(c.Certificate.Certificate) > 0, "no TLS certificate")
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
func (c *Config) checkAgents(errs *[]error) int {
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

// Close closes the audit log.
func (s *Server) Close() error { return s.ledger.Close() }

// exporter is the keying material that binds a quote to the connection.
func exporter(r *http.Request) ([]byte, error) {
	if r.TLS == nil {
		return nil, errors.New("no TLS connection")
	}
	return r.TLS.ExportKeyingMaterial(kekproto.ExporterLabel, nil, kekproto.ExporterLength)
}

// Package kekserver is one member of the fleet on the network: it carries what
// devices and agents ask to pkg/fleet, which decides, and what they get back.
//
// There are two planes on two listeners. On the device plane the only
// credential is a TPM quote bound to the TLS connection and the request (or,
// to enrol, a one-use token and the activation of a credential). On the
// operator plane it is the client certificate of an agent, pinned in the
// member's configuration, and the agent's role.
package kekserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/fleet"
	"github.com/landfall-project/landfall/pkg/kekstore"
)

// Config is what a member runs on.
type Config struct {
	fleet.Rules
	Member      string // member ID, the DNS name in Certificate
	Store       kekstore.Store
	AuditPath   string
	EvidenceDir string // for event logs of refused images; made when the first one comes
	Certificate tls.Certificate
	Log         *slog.Logger
}

// Server is one member.
type Server struct {
	cfg     Config
	fleet   *fleet.Member
	metrics *metrics
	now     func() time.Time // when something was seen, asked for or written
	logs    evidenceStore
	gates   [3]*gate // of devices, operators, health
}

// New verifies store and audit log against each other and makes a member of
// them, which writes nothing until it serves. The caller closes it; the store
// stays the caller's.
func New(cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuration of member %q: %w", cfg.Member, err)
	}
	s := &Server{cfg: cfg, now: time.Now}
	s.gates = [...]*gate{newGate(deviceBounds()), newGate(operatorBounds()), newGate(healthBounds())}
	s.logs = evidenceStore{dir: cfg.EvidenceDir, slots: make(chan struct{}, evidenceAtOnce)}
	s.metrics = newMetrics(s)
	if err := s.open(cfg.Store); err != nil {
		return nil, err
	}
	if cfg.AllowLab {
		cfg.Log.Warn("LAB PROFILE: manifests of unmeasured boots are accepted; anybody's image gets keys")
	}
	return s, nil
}

// open has the fleet's rules decide on a store and the audit log.
func (s *Server) open(store kekstore.Store) (err error) {
	open := func(known audit.Head, each func(audit.Record) error) (fleet.Log, error) {
		log, err := audit.Open(s.cfg.AuditPath, known, each)
		if err != nil {
			return nil, err
		}
		return &timedLog{log, s.metrics}, nil
	}
	s.fleet, err = fleet.Open(context.Background(), s.cfg.Rules, store, func() time.Time { return s.now() }, open)
	return err
}

func (c *Config) validate() error {
	var errs []error
	need := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New(text))
		}
	}
	need(c.Member != "", "no member ID")
	need(c.Store != nil, "no store")
	need(c.EvidenceDir != "", "no folder for event logs")
	need(c.Log != nil, "no logger")
	need(len(c.Certificate.Certificate) > 0, "no TLS certificate")
	return errors.Join(append(errs, c.Rules.Check())...)
}

// Close closes the audit log.
func (s *Server) Close() error { return s.fleet.Close() }

// timedLog measures how long it takes until a line is durable.
type timedLog struct {
	fleet.Log
	metrics *metrics
}

// Append implements fleet.Log.
func (l *timedLog) Append(ctx context.Context, r audit.Record) error {
	start := time.Now()
	defer func() { l.metrics.auditSeconds.Observe(time.Since(start).Seconds()) }()
	return l.Log.Append(ctx, r)
}

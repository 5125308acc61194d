package kekserver

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
)

// MaxDocument bounds a body of the operator plane, in bytes: the slice of a DHCP
// device in base64.
const MaxDocument = 4 << 20

// route is one path of the operator plane and who may use it.
type route struct {
	method, path string
	roles        []Role
	handle       func(http.ResponseWriter, *http.Request, *Agent) error
}

// twoOf are the roles of which some things take two agents.
func twoOf() []Role { return []Role{RoleOperator, RoleAgent} }

// routes is the whole operator plane.
func (s *Server) routes() []route {
	read := []Role{RoleOperator, RoleAgent, RoleViewer}
	write := []Role{RoleOperator}
	two := twoOf()
	return []route{
		{"GET", "/v1/status", read, s.getStatus},
		{"GET", "/v1/devices", read, s.getDevices},
		{"GET", "/v1/devices/{device}", read, s.getDevice},
		{"POST", "/v1/devices", write, s.addDevice},
		{"POST", "/v1/devices/{device}/approve", write, s.approveDevice},
		{"POST", "/v1/devices/{device}/remove", write, s.removeDevice},
		{"POST", "/v1/devices/{device}/suspend", write, s.suspendDevice},
		{"POST", "/v1/devices/{device}/resume", write, s.resumeDevice},
		{"POST", "/v1/slices", write, s.addSlice},
		{"GET", "/v1/slices/{device}", read, s.getSlice},
		{"GET", "/v1/devices/{device}/evidence", read, s.getEvidence},
		{"GET", "/v1/manifests", read, s.getManifests},
		{"POST", "/v1/manifests", write, s.addManifest},
		{"POST", "/v1/manifests/revoke", write, s.revokeManifests},
		{"POST", "/v1/manifests/minimum", write, s.setMinimum},
		{"GET", "/v1/links", read, s.getLinks},
		{"POST", "/v1/region/links", write, s.setLinkDemand},
		{"POST", "/v1/region/firmware", write, s.setFirmwareDemand},
		{"POST", "/v1/devices/{device}/firmware", write, s.acceptFirmware},
		{"GET", "/v1/recovery", read, s.getRecovery},
		{"POST", "/v1/devices/{device}/recovery", two, s.requestRecovery},
		{"POST", "/v1/devices/{device}/recovery/{id}/approve", two, s.approveRecovery},
		{"POST", "/v1/devices/{device}/recovery/{id}/read", two, s.readRecovery},
		{"POST", "/v1/region/ship", write, s.ship},
		{"POST", "/v1/region/received", two, s.received},
		{"POST", "/v1/region/live", write, s.live},
		{"GET", "/v1/audit", read, s.getAudit},
		{"GET", "/v1/backup", write, s.getBackup},
		{"GET", "/metrics", []Role{RoleMetrics, RoleOperator, RoleAgent, RoleViewer}, s.getMetrics},
	}
}

func (s *Server) operatorMux() *http.ServeMux {
	mux := http.NewServeMux()
	for _, rt := range s.routes() {
		mux.HandleFunc(rt.method+" "+rt.path, func(w http.ResponseWriter, r *http.Request) {
			agent := s.agent(r)
			if agent != nil {
				connectionOf(r).prove(agent.Name)
			}
			switch {
			case agent == nil:
				fail(w, http.StatusUnauthorized, errors.New("your client certificate is not of an agent of this region; use the folder that `kekctl init` made for you"))
			case !slices.Contains(rt.roles, agent.Role):
				fail(w, http.StatusForbidden, fmt.Errorf("%s has role %s; this needs %v", agent.Name, agent.Role, rt.roles))
			default:
				if err := rt.handle(w, r, agent); err != nil {
					s.cfg.Log.Info("operator request failed", "agent", agent.Name, "path", r.URL.Path, "err", err)
					fail(w, statusOf(err), err)
				}
			}
		})
	}
	return mux
}

// agent is who the connection's client certificate belongs to. TLS has checked
// that the peer holds its key; pinning replaces chain and dates.
func (s *Server) agent(r *http.Request) *Agent {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
	for i := range s.cfg.Agents {
		if s.cfg.Agents[i].Certificate == sum {
			return &s.cfg.Agents[i]
		}
	}
	return nil
}

// errConflict and errRequest give an operator's mistake its HTTP status.
var (
	errConflict = errors.New("not possible now")
	errRequest  = errors.New("request not understood")
)

func statusOf(err error) int {
	switch {
	case errors.Is(err, kekstore.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, errConflict), errors.Is(err, kekstore.ErrConflict):
		return http.StatusConflict
	case errors.Is(err, errForbidden):
		return http.StatusForbidden
	case errors.Is(err, errRequest):
		return http.StatusBadRequest
	default:
		return http.StatusInternalServerError
	}
}

func fail(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, &kekproto.Refusal{Message: err.Error()})
}

// readJSON decodes a strict JSON body; no body is an empty one.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxDocument))
	if err != nil {
		return fmt.Errorf("%w: %w", errRequest, err)
	}
	if len(body) == 0 {
		return nil
	}
	if err := kekproto.Decode(body, MaxDocument, v); err != nil {
		return fmt.Errorf("%w: %w", errRequest, err)
	}
	return nil
}

func (s *Server) getAudit(w http.ResponseWriter, r *http.Request, _ *Agent) error {
	f, err := os.Open(s.cfg.AuditPath)
	if err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	defer func() { _ = f.Close() }() // opened for reading
	w.Header().Set("Content-Type", "application/jsonl")
	_, err = io.Copy(w, f)
	return err
}

func (s *Server) getBackup(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	if err := s.record(r.Context(), auditBy(agent, "backup")); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	return s.state.store.Snapshot(r.Context(), w)
}

func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request, _ *Agent) error {
	s.metrics.handler().ServeHTTP(w, r)
	return nil
}

package kekserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/landfall-project/landfall/pkg/fleet"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
)

// MaxDocument bounds a body of the operator plane, in bytes: the slice of a DHCP
// device in base64.
const MaxDocument = 4 << 20

// call is a request of an agent whose role allows it.
type call struct {
	*http.Request
	w  http.ResponseWriter
	by fleet.By
}

// route is one path of the operator plane and who may use it. What handle returns
// is the answer; nil if it has written one itself.
type route struct {
	method, path string
	roles        []fleet.Role
	handle       func(*call) (any, error)
}

// nothing is the body of a command that takes none: whatever comes is not read.
type nothing struct{}

// do carries a command: its body is a strict JSON In.
func do[In, Out any](m *fleet.Member, command func(*call, In) fleet.Command[Out]) func(*call) (any, error) {
	return func(c *call) (any, error) {
		var in In
		if _, none := any(in).(nothing); !none {
			if err := c.read(&in); err != nil {
				return nil, err
			}
		}
		return fleet.Do(c.Context(), m, c.by, command(c, in))
	}
}

// then answers a command that was done with what there is now.
func then(now, handle func(*call) (any, error)) func(*call) (any, error) {
	return func(c *call) (any, error) {
		if _, err := handle(c); err != nil {
			return nil, err
		}
		return now(c)
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
				out, err := rt.handle(&call{r, w, fleet.By{Agent: agent, Key: clientKey(r), Peer: r.RemoteAddr}})
				switch {
				case err != nil:
					s.cfg.Log.Info("operator request failed", "agent", agent.Name, "path", r.URL.Path, "err", err)
					fail(w, statusOf(err), err)
				case out != nil:
					writeJSON(w, http.StatusOK, out)
				}
			}
		})
	}
	return mux
}

// agent is who the connection's client certificate belongs to. TLS has checked
// that the peer holds its key; pinning replaces chain and dates.
func (s *Server) agent(r *http.Request) *fleet.Agent {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
	for i := range s.cfg.Rules.Agents {
		if s.cfg.Rules.Agents[i].Certificate == sum {
			return &s.cfg.Rules.Agents[i]
		}
	}
	return nil
}

// clientKey is the SHA-256 of the public key of a connection's certificate.
func clientKey(r *http.Request) string {
	sum := sha256.Sum256(r.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// statusOf gives an operator's mistake its HTTP status.
func statusOf(err error) int {
	switch {
	case errors.Is(err, kekstore.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, fleet.ErrConflict), errors.Is(err, kekstore.ErrConflict):
		return http.StatusConflict
	case errors.Is(err, fleet.ErrForbidden):
		return http.StatusForbidden
	case errors.Is(err, fleet.ErrRequest):
		return http.StatusBadRequest
	default:
		return http.StatusInternalServerError
	}
}

func fail(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, &kekproto.Refusal{Message: err.Error()})
}

// read decodes a strict JSON body; no body is an empty one.
func (c *call) read(v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.Body, MaxDocument))
	if err != nil {
		return fmt.Errorf("%w: %w", fleet.ErrRequest, err)
	}
	if len(body) == 0 {
		return nil
	}
	if err := kekproto.Decode(body, MaxDocument, v); err != nil {
		return fmt.Errorf("%w: %w", fleet.ErrRequest, err)
	}
	return nil
}

// Status sums up the region as this member sees it.
func (s *Server) Status(ctx context.Context) (*kekproto.Status, error) {
	return s.fleet.Status(ctx, s.cfg.Member)
}

func (s *Server) status(c *call) (any, error) { return s.Status(c.Context()) }

func (s *Server) images(c *call) (any, error) { return s.fleet.Images(c.Context()) }

// devices lists without what is long, unless the query has full=1: then with
// all that `snapshot assemble` reads.
func (s *Server) devices(c *call) (any, error) {
	if c.URL.Query().Get("full") == "1" {
		return s.fleet.Captured(c.Context())
	}
	all, err := s.fleet.Devices(c.Context())
	for i := range all {
		all[i] = fleet.Brief(all[i])
	}
	return all, err
}

func (s *Server) addDevice(c *call) (any, error) {
	var in kekproto.NewDevice
	if err := c.read(&in); err != nil {
		return nil, err
	}
	token, err := fleet.Do(c.Context(), s.fleet, c.by, fleet.AddDevice{Device: in.Device, Again: in.Again})
	return &kekproto.NewToken{Device: in.Device, Token: token}, err
}

func (s *Server) removeDevice(c *call) (any, error) {
	id := c.PathValue("device")
	done, err := fleet.Do(c.Context(), s.fleet, c.by, fleet.RemoveDevice{Device: id})
	if err == nil {
		err = s.logs.forget(id)
	}
	return done, err
}

func (s *Server) slice(c *call) (any, error) {
	text, err := s.fleet.Slice(c.Context(), c.PathValue("device"))
	return &kekproto.Document{Note: text}, err
}

// links answers what each device last said about its links. The query takes a
// rack, and leaves the reports themselves out unless reports=1.
func (s *Server) links(c *call) (any, error) {
	query := c.URL.Query()
	var rack *string
	if query.Has("rack") {
		rack = new(query.Get("rack"))
	}
	all, err := s.fleet.Links(c.Context(), rack)
	if query.Get("reports") != "1" {
		for i := range all {
			all[i].Report = nil
		}
	}
	return all, err
}

// recovery has what it is refused recorded.
func (s *Server) recovery(handle func(*call) (any, error)) func(*call) (any, error) {
	return func(c *call) (any, error) {
		out, err := handle(c)
		if err != nil {
			err = s.fleet.RecoveryRefused(c.Context(), c.by, c.PathValue("device"), err)
		}
		return out, err
	}
}

func (s *Server) readRecovery(c *call) (any, error) {
	var in kekproto.ReadRecovery
	if err := c.read(&in); err != nil {
		return nil, err
	}
	read := fleet.ReadRecovery{Device: c.PathValue("device"), ID: c.PathValue("id"), HPKEPublic: in.HPKEPublic}
	return nil, s.fleet.ReadRecovery(c.Context(), c.by, read, func(key *kekproto.Secrets) {
		control := http.NewResponseController(c.w)
		_ = control.SetWriteDeadline(time.Now().Add(answerTime)) // an agent that never reads delays nobody
		writeJSON(c.w, http.StatusOK, key)
		_ = control.Flush() // the asker is gone if this fails
	})
}

func (s *Server) audit(c *call) (any, error) {
	f, err := os.Open(s.cfg.AuditPath)
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	defer func() { _ = f.Close() }() // opened for reading
	c.w.Header().Set("Content-Type", "application/jsonl")
	_, err = io.Copy(c.w, f)
	return nil, err
}

func (s *Server) backup(c *call) (any, error) {
	c.w.Header().Set("Content-Type", "application/octet-stream") // an error before anything was written replaces it
	return nil, s.fleet.Backup(c.Context(), c.by, c.w)
}

func (s *Server) showMetrics(c *call) (any, error) {
	s.metrics.handler().ServeHTTP(c.w, c.Request)
	return nil, nil
}

package kekserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/landfall-project/landfall/pkg/fleet"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/sightings"
)

// deviceMux answers the device plane. Its routes carry their own credential:
// a quote, a token, or a connection that a quote has attested.
func (s *Server) deviceMux() *http.ServeMux {
	mux := http.NewServeMux()
	for _, op := range [...]kekproto.Op{kekproto.OpRelease, kekproto.OpAuths, kekproto.OpKEK, kekproto.OpSealed,
		kekproto.OpSlice, kekproto.OpCapture, kekproto.OpRecovery, kekproto.OpProgress} {
		mux.HandleFunc("POST "+op.Path(), s.attested(op))
	}
	mux.HandleFunc("POST "+kekproto.OpReport.Path(), s.report)
	mux.HandleFunc("POST "+kekproto.OpEvidence.Path(), s.evidence)
	mux.HandleFunc("POST "+kekproto.PathEnrollBegin, s.enrollBegin)
	mux.HandleFunc("POST "+kekproto.PathEnrollFinish, s.enrollFinish)
	return mux
}

// answerTime bounds writing an answer, which nothing can change meanwhile. It
// fits the socket's buffer, unless the peer asks and never reads. sliceTime
// bounds that of a slice.
const (
	answerTime = 2 * time.Second
	sliceTime  = 60 * time.Second // up to 3 MiB over a slow line, and nobody waits for it
)

// attested carries a quoted request of an operation.
func (s *Server) attested(op kekproto.Op) http.HandlerFunc {
	within := answerTime
	if op == kekproto.OpSlice {
		within = sliceTime
	}
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		body, err := readBody(w, r)
		if err != nil {
			s.refuse(w, r, op, "", report.Errorf(report.KeyQuote, "%w", err))
			return
		}
		exp, err := exporter(r)
		if err != nil {
			s.refuse(w, r, op, "", err)
			return
		}
		ask := &fleet.Ask{Op: op, Body: body, Exporter: exp, Peer: r.RemoteAddr}
		refused := s.fleet.Answer(r.Context(), ask, func(a *fleet.Answer) {
			c := connectionOf(r)
			c.prove(a.Device)
			if op == kekproto.OpRelease {
				c.attest(a.Device, a.Sealed)
				s.metrics.released(a)
			}
			defer c.within(within)()
			writeJSON(w, http.StatusOK, a.Response)
			_ = http.NewResponseController(w).Flush() // the asker is gone if this fails
		})
		if refused != nil {
			s.answerRefusal(w, r, op, refused)
			return
		}
		s.metrics.answered(op, "", start)
	}
}

// refuse answers what the plane refuses by itself. device is "" unless it showed
// who it is.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, op kekproto.Op, device string, err error) {
	s.answerRefusal(w, r, op, s.fleet.Refuse(r.Context(), op, device, r.RemoteAddr, err))
}

// answerRefusal counts a refusal, and carries it.
func (s *Server) answerRefusal(w http.ResponseWriter, r *http.Request, op kekproto.Op, refused *fleet.Refused) {
	log, c := s.cfg.Log, connectionOf(r)
	if refused.Device != "" {
		c.prove(refused.Device)
	}
	if refused.Why != nil {
		c.offerEvidence(refused.Why)
	}
	if refused.Fault != nil {
		log.Error("request failed", "op", op, "device", refused.Device, "err", refused.Fault)
	}
	if refused.Untold != nil {
		log.Error("refusal not recorded", "op", op, "device", refused.Device, "err", refused.Untold)
	}
	if refused.Unproved {
		s.metrics.unproved.Inc()
	}
	s.metrics.count(op, report.Code(refused.Code))
	log.Debug("refused", "op", op, "device", refused.Device, "code", refused.Code, "why", refused.Message, "peer", r.RemoteAddr)
	status := http.StatusForbidden
	if refused.Code == string(report.KeyFleet) {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, refused.Refusal)
}

// report carries a boot report, on a connection that released a key.
func (s *Server) report(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(w, r)
	var req *kekproto.Request
	if err == nil {
		req, err = kekproto.ParseRequest(body, kekproto.OpReport)
	}
	if err != nil {
		s.refuse(w, r, kekproto.OpReport, "", report.Errorf(report.KeyProtocol, "%w", err))
		return
	}
	id, kek := connectionOf(r).attested()
	if id == "" || id != req.Device {
		s.refuse(w, r, kekproto.OpReport, "", report.Errorf(report.KeyQuote, "a report is taken only on the connection that released a key to that device"))
		return
	}
	accepted, err := s.fleet.HearBoot(r.Context(), req, kek, r.RemoteAddr)
	if err != nil {
		s.refuse(w, r, kekproto.OpReport, id, err)
		return
	}
	writeJSON(w, http.StatusOK, &kekproto.Response{Protocol: req.Protocol, Accepted: accepted})
}

// enrollBegin carries a token and keys, and the credential for them.
func (s *Server) enrollBegin(w http.ResponseWriter, r *http.Request) {
	var begin kekproto.EnrollBegin
	id, err := "", readEnroll(w, r, &begin)
	if err == nil {
		var challenge *kekproto.EnrollChallenge
		if challenge, id, err = s.fleet.BeginEnrolment(r.Context(), &begin); err == nil {
			connectionOf(r).prove(id) // by its token
			writeJSON(w, http.StatusOK, challenge)
			return
		}
	}
	s.refuse(w, r, sightings.OpEnroll, id, err)
}

// enrollFinish carries what a TPM opened of the credential.
func (s *Server) enrollFinish(w http.ResponseWriter, r *http.Request) {
	var finish kekproto.EnrollFinish
	id, err := "", readEnroll(w, r, &finish)
	if err == nil {
		var out *fleet.Enrolled
		out, id, err = s.fleet.FinishEnrolment(r.Context(), &finish, r.RemoteAddr)
		if err == nil && out.Renewed {
			err = s.logs.forget(id)
		}
		if err == nil {
			s.metrics.count(sightings.OpEnroll, "")
			writeJSON(w, http.StatusOK, &out.Enrolled)
			return
		}
	}
	s.refuse(w, r, sightings.OpEnroll, id, err)
}

func readEnroll(w http.ResponseWriter, r *http.Request, m any) error {
	body, err := readBody(w, r)
	if err == nil {
		err = kekproto.Decode(body, kekproto.MaxBody, m)
	}
	if err != nil {
		return report.Errorf(report.KeyProtocol, "%w", err)
	}
	return nil
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, kekproto.MaxBody))
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	return body, nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "answer cannot be encoded", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data) // the asker is gone if this fails
}

// exporter is the keying material that binds a quote to the connection.
func exporter(r *http.Request) ([]byte, error) {
	if r.TLS == nil {
		return nil, errors.New("no TLS connection")
	}
	return r.TLS.ExportKeyingMaterial(kekproto.ExporterLabel, nil, kekproto.ExporterLength)
}

package kekserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// deviceMux answers the device plane. Its routes carry their own credential:
// a quote, a token, or a connection that a quote has attested.
func (s *Server) deviceMux() *http.ServeMux {
	mux := http.NewServeMux()
	for op, answer := range map[kekproto.Op]answerFunc{
		kekproto.OpRelease:  s.release,
		kekproto.OpAuths:    s.auths,
		kekproto.OpKEK:      s.kek,
		kekproto.OpSealed:   s.sealed,
		kekproto.OpSlice:    s.news,
		kekproto.OpCapture:  s.capture,
		kekproto.OpRecovery: s.recovery,
		kekproto.OpProgress: s.progress,
	} {
		mux.HandleFunc("POST "+op.Path(), s.attested(op, answer))
	}
	mux.HandleFunc("POST "+kekproto.OpReport.Path(), s.report)
	mux.HandleFunc("POST "+kekproto.OpEvidence.Path(), s.evidence)
	mux.HandleFunc("POST "+kekproto.PathEnrollBegin, s.enrollBegin)
	mux.HandleFunc("POST "+kekproto.PathEnrollFinish, s.enrollFinish)
	return mux
}

// request is an attested request that passed every check.
type request struct {
	*kekproto.Request
	raw    []byte // what was quoted over
	device *device
	image  *image
	policy []byte // of the image, if the device asks for it
	reset  uint32
	jump   int64 // TPM resets since the last release, if more than one
	peer   string

	measured []measuredSlice    // what made the slice PCR; nil if nothing was measured
	links    *report.LinkReport // nil if none came

	firmware string // of a release: PCR 0, 2 and 7
	changed  string // which of them differ from the last release
}

// answerFunc makes the answer to a checked request. It records what it gives
// away before it returns.
type answerFunc func(context.Context, *request) (*kekproto.Response, error)

func (s *Server) attested(op kekproto.Op, answer answerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		body, err := readBody(w, r)
		if err != nil {
			s.refuse(w, r, op, "", report.Errorf(report.KeyQuote, "%w", err))
			return
		}
		if id, err := s.decideAndAnswer(w, r, op, body, answer); err != nil {
			s.refuse(w, r, op, id, err)
			return
		}
		s.metrics.answered(op, "", start)
	}
}

// answerTime bounds writing an answer, which nothing can change meanwhile. It
// fits the socket's buffer, unless the peer asks and never reads. sliceTime
// bounds that of a slice.
const (
	answerTime = 2 * time.Second
	sliceTime  = 60 * time.Second // up to 3 MiB over a slow line, and nobody waits for it
)

// decideAndAnswer checks a request, and answers it unless it is refused. No
// record changes in between; a slice is none of the secrets that matters for, and
// may take long to write.
func (s *Server) decideAndAnswer(w http.ResponseWriter, r *http.Request, op kekproto.Op, body []byte, answer answerFunc) (string, error) {
	s.deciding.RLock()
	unlock := sync.OnceFunc(s.deciding.RUnlock)
	defer unlock()
	req, id, err := s.check(r, op, body)
	var wrong *wrongImage
	if errors.As(err, &wrong) {
		connectionOf(r).offerEvidence(wrong.offer)
	}
	if err != nil {
		return id, err
	}
	resp, err := answer(r.Context(), req)
	if err != nil {
		return id, err
	}
	resp.Protocol = req.Protocol
	if op == kekproto.OpRelease {
		s.released(r, req)
	}
	within := answerTime
	if op == kekproto.OpSlice {
		within = sliceTime
		unlock()
	}
	defer connectionOf(r).within(within)()
	writeJSON(w, http.StatusOK, resp)
	_ = http.NewResponseController(w).Flush() // the asker is gone if this fails
	return id, nil
}

// released notes a release that is about to be answered.
func (s *Server) released(r *http.Request, req *request) {
	if req.jump > 0 {
		s.metrics.resetJumps.Inc()
	}
	if req.changed != "" {
		s.metrics.drifts.Inc()
	}
	connectionOf(r).attest(req.Device, req.device.Sealed)
	s.seen.released(req.Device, &kekproto.Seen{Time: s.now(), Image: req.image.Image + " " + req.image.Version,
		ResetCount: req.reset, Firmware: req.firmware})
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

// refuse answers with a refusal, and keeps it for status and explain. Only that
// of a device that proved who it is goes into the audit log and counts as the
// device's own: nobody fills or blurs them from outside. id is empty otherwise.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, op kekproto.Op, id string, err error) {
	refusal := s.refusal(op, id, err)
	var claim *unproved
	switch {
	case id != "":
		s.keepRefusal(r, op, id, refusal)
	case errors.As(err, &claim):
		s.metrics.unproved.Inc()
		s.seen.impostor(claim.device, op, refusal, s.now())
	default:
		s.seen.stranger()
	}
	s.answerRefusal(w, r, op, id, refusal)
}

// refusal puts an error into words for a device, and counts it.
func (s *Server) refusal(op kekproto.Op, id string, err error) kekproto.Refusal {
	problem := &report.Problem{}
	if !errors.As(err, &problem) {
		s.cfg.Log.Error("request failed", "op", op, "device", id, "err", err)
		problem = &report.Problem{Code: report.KeyFleet, What: "this key server cannot answer now: " + publicCause(err), Err: err}
	}
	s.metrics.count(op, problem.Code)
	return kekproto.Refusal{Code: string(problem.Code), Message: problem.What, Repair: problem.Repair()}
}

func (s *Server) answerRefusal(w http.ResponseWriter, r *http.Request, op kekproto.Op, id string, refusal kekproto.Refusal) {
	s.cfg.Log.Debug("refused", "op", op, "device", id, "code", refusal.Code, "why", refusal.Message, "peer", r.RemoteAddr)
	status := http.StatusForbidden
	if refusal.Code == string(report.KeyFleet) {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, refusal)
}

func (s *Server) keepRefusal(r *http.Request, op kekproto.Op, id string, refusal kekproto.Refusal) {
	if !s.seen.refused(id, op, refusal, s.now()) {
		return
	}
	rec := audit.Record{Event: "refuse", Op: string(op), Device: id, Code: refusal.Code, Detail: refusal.Message, Peer: r.RemoteAddr}
	if err := s.record(r.Context(), rec); err != nil {
		s.cfg.Log.Error("refusal not recorded", "device", id, "err", err)
	}
}

// publicCause names the kind of an internal fault without its paths.
func publicCause(err error) string {
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	switch {
	case errors.Is(err, audit.ErrBroken) && full:
		return "its audit log cannot be written, since its disk is full"
	case errors.Is(err, audit.ErrBroken):
		return "its audit log cannot be written"
	case errors.Is(err, kekstore.ErrUnsure):
		return "its store's last write failed"
	case full:
		return "its disk is full"
	case errors.Is(err, kekstore.ErrTampered):
		return "its store is damaged"
	case errors.Is(err, kekstore.ErrConflict):
		return "something else changed the same record; try again"
	default:
		return "internal fault, see its log"
	}
}

// release hands out the KEK of the generation under which the device is sealed.
func (s *Server) release(ctx context.Context, r *request) (*kekproto.Response, error) {
	if r.device.Sealed == 0 {
		return nil, report.Errorf(report.KeyUnknown, "%s never reported to be sealed: there is no key for it yet; run `seal` to its end in the factory image", r.Device)
	}
	out, err := s.giveKEK(ctx, r, r.device.Sealed, "release")
	if err != nil {
		return nil, err
	}
	return &kekproto.Response{KEK: out, Policy: r.policy}, nil
}

// kek makes or returns the KEK of a generation, while the device is being
// sealed.
func (s *Server) kek(ctx context.Context, r *request) (*kekproto.Response, error) {
	if r.Generation == 0 {
		return nil, report.Errorf(report.KeyProtocol, "KEK generations start at 1")
	}
	if next := uint64(r.device.Sealed) + 1; uint64(r.Generation) > next || uint64(r.Generation)+1 < next {
		return nil, report.Errorf(report.KeyProtocol, "%s is sealed under KEK generation %d: it gets that one or the next, not %d", r.Device, r.device.Sealed, r.Generation)
	}
	fresh, err := s.keys.ensure(ctx, r)
	if err != nil {
		return nil, err
	}
	event := "kek"
	if fresh {
		event = "" // it is recorded
	}
	out, err := s.giveKEK(ctx, r, r.Generation, event)
	if err != nil {
		return nil, err
	}
	return &kekproto.Response{KEK: out}, nil
}

// giveKEK seals a KEK to the request's key. The audit record is durable before
// it returns; without an event it was before.
func (s *Server) giveKEK(ctx context.Context, r *request, generation uint32, event string) (*kekproto.KEK, error) {
	k, err := s.state.kek(ctx, r.Device, generation)
	if err != nil {
		return nil, err
	}
	defer k.wipe()
	sealed, err := sealTo(r, k.key)
	if err != nil {
		return nil, err
	}
	if event != "" {
		if err := s.record(ctx, r.kekEvent(event, k.id[:], generation)); err != nil {
			return nil, err
		}
	}
	return &kekproto.KEK{ID: k.id[:], Generation: generation, Sealed: sealed}, nil
}

func sealTo(r *request, plain *secret.Bytes) ([]byte, error) {
	sealed, err := kekproto.Seal(r.HPKEPublic, kekproto.Info(r.Op, r.raw), plain)
	if err != nil {
		return nil, report.Errorf(report.KeyProtocol, "%w", err)
	}
	return sealed, nil
}

func (r *request) event(name string) audit.Record {
	return audit.Record{Event: name, Device: r.Device, Image: r.image.Image + " " + r.image.Version,
		Reset: r.reset, ResetJump: r.jump, Firmware: r.firmware, Changed: r.changed, Peer: r.peer}
}

// auths hands out the TPM authorizations, durable here before the TPM has them.
func (s *Server) auths(ctx context.Context, r *request) (*kekproto.Response, error) {
	both, err := s.keys.auths(ctx, r)
	if err != nil {
		return nil, err
	}
	defer both.Wipe()
	sealed, err := sealTo(r, both)
	if err != nil {
		return nil, err
	}
	return &kekproto.Response{Auths: &kekproto.Secrets{Sealed: sealed}}, nil
}

// sealed notes that the device's key is wrapped under a generation.
func (s *Server) sealed(ctx context.Context, r *request) (*kekproto.Response, error) {
	if err := s.keys.sealed(ctx, r); err != nil {
		return nil, err
	}
	return &kekproto.Response{}, nil
}

package kekserver

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/fleet"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
)

// evidenceAtOnce bounds the event logs in memory: a region that boots a wrong
// image sends thousands.
const evidenceAtOnce = 4

// evidenceWait bounds the wait for a turn, and evidenceTime how long a peer may
// take to send its log: nobody keeps the others waiting by being slow.
const (
	evidenceWait = 4 * time.Second
	evidenceTime = time.Second
)

// evidence takes the event log of a device whose image was just refused on this
// connection, keeps it, and answers which component differs. Who showed no quote
// of that device on it has not even the body read.
func (s *Server) evidence(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	why := connectionOf(r).takeOffer()
	if why == nil {
		_ = hurry(w) // or it takes as long as any other request
		s.refuse(w, r, kekproto.OpEvidence, "", report.Errorf(report.KeyQuote,
			"an event log is taken once, on the connection on which that device's image was just refused"))
		return
	}
	words, err := s.takeEvidence(w, r, why)
	if err != nil {
		// It does not take the place of the refusal that it was about.
		s.answerRefusal(w, r, kekproto.OpEvidence, fleet.Word(why.Device, err))
		return
	}
	s.metrics.answered(kekproto.OpEvidence, "", start)
	writeJSON(w, http.StatusOK, &kekproto.Response{Protocol: kekproto.Version, Message: printable.Cut(strings.Join(words, "; "), kekproto.MaxMessage)})
}

// hurry bounds how long the body of an event log may take to come from now on,
// also the body of a refused one: net/http reads on after an answer.
func hurry(w http.ResponseWriter) error {
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(evidenceTime)); err != nil {
		return fmt.Errorf("bound the time of an event log: %w", err)
	}
	return nil
}

func (s *Server) takeEvidence(w http.ResponseWriter, r *http.Request, why *fleet.Unexplained) ([]string, error) {
	done, err := s.logs.turn(why.Device)
	defer done()
	if err := errors.Join(err, hurry(w)); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, kekproto.MaxEvidence))
	if err != nil {
		return nil, report.Errorf(report.KeyProtocol, "read event log: %w", err)
	}
	e, err := s.fleet.Explain(why, body)
	if err != nil {
		return nil, err
	}
	if err := s.logs.save(e); err != nil {
		return nil, err
	}
	return e.Differences, s.fleet.Explained(r.Context(), e, r.RemoteAddr)
}

// keptEvidence is the last event log of a device.
func (s *Server) keptEvidence(c *call) (any, error) {
	id := c.PathValue("device")
	if err := s.fleet.Known(c.Context(), id); err != nil { // also: the ID is a file's name
		return nil, err
	}
	return s.logs.load(id)
}

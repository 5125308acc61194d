package kekserver

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/eventlog"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
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

// maxDifference bounds one difference in words, in bytes: the event log's own
// words are in it.
const maxDifference = 240

// offer is a refusal for the image of a device that showed who it is.
type offer struct {
	device string
	op     kekproto.Op
	pcrs   map[int][]byte // quoted
	near   []*image       // the refusal named the first; none if the values are of a known image
}

// evidence takes the event log of a device whose image was just refused on this
// connection, keeps it, and answers which component differs. Who showed no quote
// of that device on it has not even the body read.
func (s *Server) evidence(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	o := connectionOf(r).takeOffer()
	if o == nil {
		_ = hurry(w) // or it takes as long as any other request
		s.refuse(w, r, kekproto.OpEvidence, "", report.Errorf(report.KeyQuote,
			"an event log is taken once, on the connection on which that device's image was just refused"))
		return
	}
	words, err := s.takeEvidence(w, r, o)
	if err != nil {
		// It does not take the place of the refusal that it was about.
		s.answerRefusal(w, r, kekproto.OpEvidence, o.device, s.refusal(kekproto.OpEvidence, o.device, err))
		return
	}
	s.metrics.answered(kekproto.OpEvidence, "", start)
	writeJSON(w, http.StatusOK, &kekproto.Response{Protocol: kekproto.Version, Message: cut(strings.Join(words, "; "), kekproto.MaxMessage)})
}

// hurry bounds how long the body of an event log may take to come from now on,
// also the body of a refused one: net/http reads on after an answer.
func hurry(w http.ResponseWriter) error {
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(evidenceTime)); err != nil {
		return fmt.Errorf("bound the time of an event log: %w", err)
	}
	return nil
}

func (s *Server) takeEvidence(w http.ResponseWriter, r *http.Request, o *offer) ([]string, error) {
	done, err := s.logs.turn(o.device)
	defer done()
	if err := errors.Join(err, hurry(w)); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, kekproto.MaxEvidence))
	if err != nil {
		return nil, requestProblem(fmt.Errorf("read event log: %w", err))
	}
	req, log, err := kekproto.ParseEvidence(body)
	if err != nil {
		return nil, requestProblem(err)
	}
	if req.Device != o.device {
		return nil, report.Errorf(report.KeyQuote, "an event log of %s on a connection of %s", req.Device, o.device)
	}
	e := &kekproto.Evidence{Device: o.device, Time: s.now().UTC(), Op: o.op, PCRs: o.pcrs, Log: log}
	o.compare(e)
	if err := s.logs.save(e); err != nil {
		return nil, err
	}
	if s.seen.explained(o.device, e.Differences, e.Time) {
		sum := sha256.Sum256(log)
		err = s.record(r.Context(), audit.Record{Event: "evidence", Op: string(o.op), Device: o.device, Image: e.Image,
			Digest: hex.EncodeToString(sum[:]), Detail: strings.Join(e.Differences, "; "), Peer: r.RemoteAddr})
	}
	return e.Differences, err
}

// compare says how what was quoted differs from the image that was probably
// meant. The log is believed only where it replays to the quote.
func (o *offer) compare(e *kekproto.Evidence) {
	events, err := eventlog.Parse(e.Log)
	if err != nil {
		e.Differences = append(e.Differences, clean("the event log cannot be read: "+err.Error()))
	}
	meant := o.meant(events)
	if meant == nil {
		return
	}
	e.Image = meant.name()
	if named := o.near[0]; meant.Image != named.Image || meant.Version != named.Version {
		e.Differences = append(e.Differences, clean("by its event log it is nearer to "+e.Image))
	}
	for _, d := range meant.Explain(e.PCRs, events) {
		e.Differences = append(e.Differences, clean(d.String()))
	}
}

// meant is the image whose events are in the log, of all those that are as near
// by their values: an edited image may be near to several versions and forms.
func (o *offer) meant(events []measure.Event) (best *image) {
	if len(o.near) > 0 && len(events) == 0 {
		return o.near[0]
	}
	logged := map[string]int{}
	for _, e := range events {
		logged[eventKey(e)]++
	}
	most := 0
	for _, m := range o.near {
		if n := m.shared(logged); best == nil || n > most {
			best, most = m, n
		}
	}
	return best
}

func eventKey(e measure.Event) string { return string(rune(e.PCR)) + string(e.Digest) }

// shared counts a manifest's events that are in a log, by eventKey, less those
// that are not.
func (m *image) shared(logged map[string]int) (n int) {
	taken := map[string]int{}
	for _, e := range m.Events {
		key := eventKey(e)
		if taken[key]++; taken[key] <= logged[key] {
			n++
		} else {
			n--
		}
	}
	return n
}

// clean makes a device's words fit for consoles and logs.
func clean(s string) string { return cut(printable.Line(s), maxDifference) }

// cut shortens a text to at most n bytes, without breaking a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const more = "…"
	return strings.ToValidUTF8(s[:n-len(more)], "") + more
}

func (s *Server) getEvidence(w http.ResponseWriter, r *http.Request, _ *Agent) error {
	id := r.PathValue("device")
	v, err := s.state.view(r.Context())
	if err != nil {
		return err
	}
	if _, err := s.state.device(r.Context(), v, id); err != nil { // also: the ID is a file's name
		return err
	}
	e, err := s.logs.load(id)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, e)
	return nil
}

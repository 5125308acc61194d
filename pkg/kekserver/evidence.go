package kekserver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/eventlog"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/measure"
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

func (s *Server) takeEvidence(w http.ResponseWriter, r *http.Request, o *offer) ([]string, error) {
	turn := time.NewTimer(evidenceWait)
	defer turn.Stop()
	select {
	case s.logs.slots <- struct{}{}:
		defer func() { <-s.logs.slots }()
	case <-turn.C:
		return nil, report.Errorf(report.KeyFleet, "this key server is busy with the event logs of other devices")
	}
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(evidenceTime)); err != nil {
		return nil, fmt.Errorf("bound the time of an event log: %w", err)
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
	e := &kekproto.Evidence{Device: o.device, Time: time.Now().UTC(), Op: o.op, PCRs: o.pcrs, Log: log}
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
	most := 0
	for _, m := range o.near {
		if n := m.shared(events); best == nil || n > most {
			best, most = m, n
		}
	}
	return best
}

// shared counts a manifest's events that are in a log, less those that are not.
func (m *image) shared(events []measure.Event) (n int) {
	logged := map[string]int{}
	for _, e := range events {
		logged[fmt.Sprint(e.PCR, e.Digest)]++
	}
	for _, e := range m.Events {
		key := fmt.Sprint(e.PCR, e.Digest)
		if logged[key] > 0 {
			n++
		} else {
			n--
		}
		logged[key]--
	}
	return n
}

// clean makes a device's words fit for consoles and logs.
func clean(s string) string {
	return cut(strings.Map(func(c rune) rune {
		if c < ' ' || (c >= 0x7f && c < 0xa0) {
			return '?'
		}
		return c
	}, strings.ToValidUTF8(s, "?")), maxDifference)
}

// cut shortens a text to at most n bytes, without breaking a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const more = "…"
	return strings.ToValidUTF8(s[:n-len(more)], "") + more
}

// evidenceStore keeps the last event log of each device as a file. It is what
// devices said: nothing is decided by it, so it is neither in the store nor
// under its barrier.
type evidenceStore struct {
	dir   string
	slots chan struct{} // one for each log that is being looked at
	mu    sync.Mutex    // one file at a time
	last  map[string][sha256.Size]byte
}

func (s *evidenceStore) path(device string) string { return filepath.Join(s.dir, device+".json") }

// save replaces the device's file, unless it is about the same log and values:
// a device that holds sends them again and again.
func (s *evidenceStore) save(e *kekproto.Evidence) (err error) {
	same := *e
	same.Time = time.Time{}
	key, err := json.Marshal(&same)
	if err != nil {
		return fmt.Errorf("keep event log: %w", err)
	}
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("keep event log: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := sha256.Sum256(key)
	if s.last[e.Device] == sum {
		return nil
	}
	if err := s.replace(s.path(e.Device), data); err != nil {
		return fmt.Errorf("keep event log: %w", err)
	}
	if s.last == nil {
		s.last = map[string][sha256.Size]byte{}
	}
	s.last[e.Device] = sum
	return nil
}

// replace writes a file so that a power cut leaves the old or the new one.
func (s *evidenceStore) replace(path string, data []byte) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	return os.Rename(fresh, path)
}

// load returns a device's evidence, or kekstore.ErrNotFound.
func (s *evidenceStore) load(device string) (*kekproto.Evidence, error) {
	data, err := os.ReadFile(s.path(device))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("event log of %s: %w", device, kekstore.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("event log of %s: %w", device, err)
	}
	e := new(kekproto.Evidence)
	if err := kekproto.Decode(data, 2*kekproto.MaxEvidence, e); err != nil {
		return nil, fmt.Errorf("event log of %s: %w", device, err)
	}
	return e, nil
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

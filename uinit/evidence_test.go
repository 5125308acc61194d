package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

const logFile = "sys/kernel/security/tpm0/binary_bios_measurements"

// refusing is a member that refuses the image and explains every event log.
type refusing struct {
	mu     sync.Mutex
	text   string
	busy   int // event logs that it refuses first
	posted []string
}

func (r *refusing) answer(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var answer any = &kekproto.Refusal{Code: string(report.KeyImage), Message: r.text}
	if q.URL.Path == kekproto.OpEvidence.Path() {
		var req kekproto.Request
		var log kekproto.EventLog
		if json.NewDecoder(q.Body).Decode(&req) != nil || json.Unmarshal(req.Body, &log) != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
		r.posted = append(r.posted, string(log.Log))
		if r.busy--; r.busy >= 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			_ = json.NewEncoder(w).Encode(&kekproto.Refusal{Code: string(report.KeyFleet), Message: "busy"})
			return
		}
		answer = &kekproto.Response{Protocol: kekproto.Version, Message: "PCR 4: kernel differs (measured 3f0c…); PCR 9: command line differs"}
	} else {
		w.WriteHeader(http.StatusForbidden)
	}
	_ = json.NewEncoder(w).Encode(answer) // the client sees a failure
}

func (r *refusing) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.posted)
}

// ask is one attempt of the step key, by a TPM that quotes anything.
func ask(t *testing.T, m *machine, client *kekclient.Client, s *sealedTPM) string {
	t.Helper()
	c := &carried{Slice: s.slice}
	c.Fleet = snapshot.Fleet{CA: client.CA, Members: client.Members}
	pcrs, err := s.TPM().ReadPCRs()
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.release(&trust{TPM: s.TPM(), pcrs: pcrs}, c, nil)
	if code(err) != report.KeyImage {
		t.Fatalf("got %v, want %s", err, report.KeyImage)
	}
	return problem(err).What
}

// TestTheLogIsPostedOncePerRefusal: a machine that holds for hours posts it
// once, and shows the same words in every attempt.
func TestTheLogIsPostedOncePerRefusal(t *testing.T) {
	s := newSealedTPM(t)
	r := &refusing{text: "no accepted image"}
	client := member(t, r.answer)
	m, _ := testMachine(t, t.TempDir())
	write(t, m.root, logFile, "the firmware's log")
	want := "no accepted image (says key server ks1); PCR 4: kernel differs (measured 3f0c…); PCR 9: command line differs"
	for i := range 4 {
		if got := ask(t, m, client, s); got != want {
			t.Errorf("attempt %d: %q, want %q", i, got, want)
		}
	}
	if r.count() != 1 || r.posted[0] != "the firmware's log" {
		t.Errorf("posted %q, want the log once", r.posted)
	}
	r.text = "landfall-server 1 was revoked"
	if got := ask(t, m, client, s); !strings.HasPrefix(got, r.text) {
		t.Errorf("another refusal: %q", got)
	}
	for range 3 {
		if got := ask(t, m, client, s); !strings.HasPrefix(got, r.text) || !strings.HasSuffix(got, "command line differs") {
			t.Errorf("another refusal is not explained: %q", got)
		}
	}
	if r.count() != 2 {
		t.Errorf("posted %d times for two refusals", r.count())
	}
	r.text = "no accepted image"
	if got := ask(t, m, client, s); got != want || r.count() != 2 {
		t.Errorf("the first refusal again: %q, posted %d times", got, r.count())
	}
	for i := range 10 * maxOffers {
		r.text = fmt.Sprintf("refusal %d", i/2)
		ask(t, m, client, s)
	}
	if r.count() != maxOffers {
		t.Errorf("posted %d times, must be bounded by %d", r.count(), maxOffers)
	}
}

// TestABusyMemberIsToldLater: what could not be posted is posted in one of the
// next rounds.
func TestABusyMemberIsToldLater(t *testing.T) {
	s := newSealedTPM(t)
	r := &refusing{text: "no accepted image", busy: 2}
	client := member(t, r.answer)
	m, _ := testMachine(t, t.TempDir())
	write(t, m.root, logFile, "the firmware's log")
	explained := 0
	for range 12 {
		if strings.Contains(ask(t, m, client, s), "PCR 4: kernel differs") {
			explained++
		}
	}
	if r.count() != 3 || explained < 6 {
		t.Errorf("posted %d times, explained %d times of 12", r.count(), explained)
	}
}

// TestAMachineWithoutALog is refused as before, and says once why it sends none.
func TestAMachineWithoutALog(t *testing.T) {
	s := newSealedTPM(t)
	r := &refusing{text: "no accepted image"}
	client := member(t, r.answer)
	m, printed := testMachine(t, t.TempDir())
	for range 3 {
		if got, want := ask(t, m, client, s), "no accepted image (says key server ks1)"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if text := printed(); r.count() != 0 || strings.Count(text, "event log for key server ks1") != 1 {
		t.Errorf("posted %d times; printed:\n%s", r.count(), text)
	}
}

func TestEventLogIsBounded(t *testing.T) {
	m, _ := testMachine(t, t.TempDir())
	for size, ok := range map[int]bool{0: false, 1: true, kekproto.MaxEventLog: true, kekproto.MaxEventLog + 1: false} {
		write(t, m.root, logFile, strings.Repeat("x", size))
		if log, err := m.eventLog(); (err == nil) != ok || ok && len(log) != size {
			t.Errorf("%d bytes: got %d, %v", size, len(log), err)
		}
	}
}

// TestTheBoardFitsTheConsole: differences each begin a line, and no line is
// wider than a console.
func TestTheBoardFitsTheConsole(t *testing.T) {
	m, printed := testMachine(t, "/")
	p := report.Errorf(report.KeyImage, "%s", "the quoted PCRs are of no accepted image of landfall-server (says key server kek-1.north.example)"+
		"; PCR 4: kernel differs (measured 3f0c0000…, manifest 9a1b0000…); PCR 9: command line differs\na second line")
	m.show(p, 0, lastLook)
	text := printed()
	for _, want := range []string{"\n  PCR 4: kernel differs (measured 3f0c0000…, manifest 9a1b0000…)\n", "\n  PCR 9: command line differs\n  a second line\n", "\n  DO   "} {
		if !strings.Contains(text, want) {
			t.Errorf("the board lacks %q:\n%s", want, text)
		}
	}
	for _, line := range strings.Split(text, "\n") {
		if len([]rune(line)) >= columns {
			t.Errorf("%d columns: %s", len([]rune(line)), line)
		}
	}
	if got := strings.Join(strings.Fields(text), " "); !strings.Contains(got, p.Repair()) || !strings.Contains(got, "(says key server kek-1.north.example)") {
		t.Errorf("words are lost:\n%s", text)
	}
}

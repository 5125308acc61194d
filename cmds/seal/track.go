package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/dmi"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/provision"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm"
)

// How often a running encryption is reported, and how long one report may take.
const (
	postEvery   = 15 * time.Second
	postTimeout = 10 * time.Second
)

// lately is how many of the journal's newest lines are not noted again.
const lately = 32

// track follows one run of seal: it tells the journal, the station and the fleet
// how far it is. Nobody's answer to that, and no failure of it, changes what
// seal does, but for the fleet's word that the device is accepted.
type track struct {
	logf  func(format string, args ...any)
	start time.Time
	floor *floor                                            // nil: there is no station
	fleet func(ctx context.Context, b []byte) (bool, error) // nil: not enrolled yet

	dry     bool              // nothing is done, and nobody told
	tpm     *tpm.TPM          // quotes for the fleet; closed at the end
	journal *snapshot.Journal // nil: there is none
	file    *os.File
	before  map[string]bool // what was noted lately, by phase and text
	left    bool            // the last run left for the server image

	mu       sync.Mutex
	f        report.Factory
	begun    map[string]time.Time // by volume: its first progress
	accepted bool
	quiet    bool // a report failed, and that was said
}

func (s *system) newTrack(machine dmi.Machine) *track {
	t := &track{logf: s.logf, start: time.Now()}
	t.f = report.Factory{Type: report.FactoryType, Serial: clip(machine.Serial), Model: clip(machine.Product), Phase: report.PhaseProvision, Attempt: 1, Started: t.start.UTC()}
	return t
}

// is names the device.
func (t *track) is(device string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.f.Device = device
}

// image is the factory image that runs, by the PCR policy that fits.
func (t *track) image(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.f.Image = clip(name)
}

// isAccepted says what the fleet answered last.
func (t *track) isAccepted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.accepted
}

// named says whether anybody could file a report of this machine.
func (t *track) named() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.f.Device != ""
}

func clip(text string) string {
	text = words(text)
	return text[:min(len(text), 128)]
}

// openJournal says where the last run ended. The journal is for people: this run
// finds out by itself, from disks, TPM and fleet, where to go on.
func (t *track) openJournal(in *inputs) {
	f, err := os.OpenFile(in.dev.Path, os.O_RDWR, 0)
	if err != nil {
		t.logf("no journal: %v", err)
		return
	}
	j, entries, err := snapshot.OpenJournal(f, in.dev.Size)
	if err != nil {
		t.logf("no journal: %v", errors.Join(err, f.Close()))
		return
	}
	t.journal, t.file = j, f
	last := j.Last()
	t.f.Attempt = last.Attempt + 1
	t.before = map[string]bool{}
	for i, e := range entries {
		t.before[e.Phase+" "+e.What] = len(entries)-i <= lately
		t.left = t.left || e.What == leaves
	}
	if last.Seq > 0 {
		t.logf("run %d of seal on this machine; run %d came to phase %s: %s", t.f.Attempt, last.Attempt, last.Phase, last.What)
	}
}

func (t *track) close() {
	if t.file != nil {
		if err := t.file.Close(); err != nil {
			t.logf("journal: %v", err)
		}
	}
	if t.tpm != nil {
		if err := t.tpm.Close(); err != nil {
			t.logf("TPM: %v", err)
		}
	}
	t.floor.close()
}

// progress posts at the fleet, quoting with a TPM that has enrolled.
func progress(client *kekclient.Client, x *tpm.TPM) func(context.Context, []byte) (bool, error) {
	c := *client
	c.Logf, c.Patience = nil, postTimeout/2
	return func(ctx context.Context, b []byte) (bool, error) { return c.Progress(ctx, provision.Quoter(x), b) }
}

// note writes a line into the journal, unless it was noted lately: a machine that
// waits runs seal often, and each of its runs says the same. It says whether the
// line was written now.
func (t *track) note(format string, args ...any) bool {
	if t.journal == nil {
		return false
	}
	t.mu.Lock()
	e := snapshot.JournalEntry{Attempt: t.f.Attempt, Time: time.Now().UTC(), Phase: t.f.Phase, What: fmt.Sprintf(format, args...)}
	t.mu.Unlock()
	if t.before[e.Phase+" "+e.What] {
		return false
	}
	if err := t.journal.Append(e); err != nil {
		t.logf("the journal is left out from here on: %v", err)
		t.journal = nil
		return false
	}
	return true
}

// phase begins the next phase, and tells everybody. The TPM must be idle.
func (t *track) phase(ctx context.Context, phase, format string, args ...any) {
	t.at(phase)
	t.note(format, args...)
	_ = t.post(ctx) // said already
}

// at is the phase from here on; the next report tells it.
func (t *track) at(phase string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.f.Phase = phase
}

// volume updates one volume.
func (t *track) volume(name string, change func(*report.FactoryVolume)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.f.Volumes {
		if t.f.Volumes[i].Name == name {
			change(&t.f.Volumes[i])
		}
	}
}

// document is the state now.
func (t *track) document() ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.f.Seconds = time.Since(t.start).Seconds()
	return t.f.Bytes()
}

// post tells fleet and station, once each. The error is that of the fleet.
func (t *track) post(ctx context.Context) error {
	if t.dry {
		return nil
	}
	b, err := t.document()
	if err != nil {
		t.failed(err)
		return err
	}
	var deaf error
	if t.fleet != nil {
		ctx, cancel := context.WithTimeout(ctx, postTimeout)
		var accepted bool
		accepted, deaf = t.fleet(ctx, b)
		cancel()
		if deaf != nil {
			t.failed(fmt.Errorf("the fleet: %w", deaf))
		}
		t.mu.Lock()
		t.accepted = accepted && deaf == nil
		t.mu.Unlock()
	}
	if t.floor != nil && t.named() {
		ctx, cancel := context.WithTimeout(ctx, postTimeout)
		defer cancel()
		if err := t.floor.result(ctx, b); err != nil {
			t.failed(fmt.Errorf("the station: %w", err))
		}
	}
	return deaf
}

// failed says so once: sealing goes on.
func (t *track) failed(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.quiet && !errors.Is(err, context.Canceled) {
		t.logf("how far this is could not be told to %v; sealing goes on", err)
	}
	t.quiet = true
}

// while runs work and reports every 15 s. The TPM must be idle meanwhile.
func (t *track) while(ctx context.Context, work func() error) error {
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(postEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = t.post(ctx) // said already
			case <-ctx.Done():
				return
			}
		}
	}()
	err := work()
	stop()
	<-done // the TPM is this goroutine's again
	return err
}

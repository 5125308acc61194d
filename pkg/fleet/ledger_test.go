package fleet

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/secret"
)

// command is a change as a member makes it: of one path, with one line; of several
// with several; or a line without a change.
func (w *world) command(n int) error {
	ctx := context.Background()
	name := fmt.Sprint("c", n)
	write := func(path string) kekstore.Write {
		old, err := w.store.Get(ctx, path)
		if err != nil && !errors.Is(err, kekstore.ErrNotFound) {
			w.t.Fatal(err)
		}
		return kekstore.Write{Path: path, Old: old.Version, Data: []byte(name)}
	}
	line := func(detail string) audit.Record {
		return audit.Record{Event: "change", Device: name, Detail: detail + " \u202e of\ta \xff text"}
	}
	switch n % 3 {
	case 0:
		return w.ledger.Commit(ctx, []audit.Record{line("one")}, write("one"))
	case 1:
		return w.ledger.Commit(ctx, []audit.Record{line("two"), line("three"), line("two")}, write("one"), write("two"), write("three"))
	default:
		return w.ledger.Record(ctx, audit.Record{Event: "release", Device: name})
	}
}

// lines are how many lines a command has, as n%3 says.
func lines(n int) int { return [...]int{1, 3, 1}[n%3] }

// check compares store, log and what was acknowledged, after all is settled.
func (w *world) check(acknowledged []int) {
	w.t.Helper()
	text, err := os.ReadFile(w.path("audit.jsonl"))
	if err != nil {
		w.t.Fatal(err)
	}
	of, last, other, changed := map[string]int{}, uint64(0), uint64(0), ""
	head, rest, err := audit.Verify(text, func(r audit.Record) error {
		switch r.Event {
		case audit.EventSettled, audit.EventRecovered:
			return nil
		case "checked":
			other = r.Epoch
			return nil
		}
		if r.Epoch < last {
			w.t.Errorf("line %d is of epoch %d, after one of epoch %d", r.Number, r.Epoch, last)
		}
		last = r.Epoch
		of[r.Device]++
		switch {
		case r.Event != "change":
			other = r.Epoch
		case r.Epoch <= other:
			w.t.Errorf("line %d tells of a change after one that it was made before", r.Number)
		default:
			changed = r.Device
		}
		return nil
	})
	if err != nil || rest != 0 {
		w.t.Fatalf("the log: %d bytes are torn, %v", rest, err)
	}
	for device, n := range of {
		var c int
		if _, err := fmt.Sscanf(device, "c%d", &c); err != nil || n != lines(c) {
			w.t.Errorf("%d lines of %s, want %d; %v", n, device, lines(c), err)
		}
	}
	for _, n := range acknowledged {
		if of[fmt.Sprint("c", n)] == 0 {
			w.t.Errorf("command %d was acknowledged, and the log does not have it", n)
		}
	}
	v, err := w.store.Get(context.Background(), "one")
	if err != nil && !errors.Is(err, kekstore.ErrNotFound) {
		w.t.Fatal(err)
	}
	if string(v.Data) != changed {
		w.t.Errorf("the store was changed by %q, and the log tells of %q", v.Data, changed)
	}
	if at := w.epoch(); last > at {
		w.t.Errorf("the log is at epoch %d, the store at %d", last, at)
	}
	if want := int(head.Number) - w.before; w.heard+head.Torn < want {
		w.t.Errorf("the ledger told of %d lines, there are %d since it was opened", w.heard, want)
	}
}

// settle has all faults end, restarts a killed member, and lets it settle.
func (w *world) settle() {
	w.t.Helper()
	w.next = func() fault { return none }
	if w.dead {
		w.stop()
		w.start()
	}
	w.at = w.at.Add(time.Hour)
	err := w.ledger.Settle(context.Background())
	if err == nil { // what was torn is accounted for by the next line
		err = w.ledger.Record(context.Background(), audit.Record{Event: "checked"})
	}
	if err != nil {
		w.t.Errorf("settle: %v", err)
	}
}

// At each step of some commands, each fault: after it, when the member was started
// again or the disk has room, each change has its lines, once and in order, and
// each line of a change its change. While the log cannot be written nothing
// changes.
func TestEachStep(t *testing.T) {
	for f := killed; f < faults; f++ {
		t.Run(f.String(), func(t *testing.T) {
			for at := 0; ; at++ {
				w, step, met := newWorld(t), 0, false
				w.next = func() fault {
					if step++; step-1 != at {
						return none
					}
					met = true
					return f
				}
				var acknowledged []int
				for n := range 5 {
					epoch := w.epoch()
					_, broken := w.log.Head()
					switch err := w.command(n); {
					case err == nil:
						acknowledged = append(acknowledged, n)
					case broken != nil && w.epoch() != epoch:
						t.Errorf("step %d: command %d changed the store under a broken log", at, n)
					case !errors.Is(err, audit.ErrBroken) && !errors.Is(err, errKilled):
						t.Errorf("step %d: command %d: %v", at, n, err)
					}
				}
				w.settle()
				w.check(acknowledged)
				if err := w.command(6); err != nil {
					t.Errorf("step %d: a command afterwards: %v", at, err)
				}
				w.check(append(acknowledged, 6))
				w.stop()
				if !met {
					return
				}
			}
		})
	}
}

// Random commands, faults, restarts and pauses.
func TestLedgerAtRandom(t *testing.T) {
	rounds := 40
	if os.Getenv("LANDFALL_ALL_CUTS") != "" {
		rounds = 2000
	}
	for range rounds {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { randomly(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

func randomly(t *testing.T, r *rand.Rand) {
	w := newWorld(t)
	var acknowledged []int
	for n := range 60 {
		w.next = func() fault {
			if r.IntN(6) > 0 {
				return none
			}
			return fault(r.IntN(int(faults)))
		}
		if w.command(n) == nil {
			acknowledged = append(acknowledged, n)
		}
		if w.dead || r.IntN(20) == 0 {
			w.stop()
			w.start()
		}
		w.at = w.at.Add(time.Duration(r.IntN(3)) * mendPause)
		if r.IntN(10) == 0 {
			w.settle()
			w.check(acknowledged)
		}
	}
	w.settle()
	w.check(acknowledged)
	w.stop()
}

// A line that no log takes makes no change: it would be owed for ever.
func TestLineTooLong(t *testing.T) {
	w := newWorld(t)
	for _, detail := range []string{strings.Repeat("d", audit.MaxLine), strings.Repeat("\u202e", audit.MaxLine/5)} {
		err := w.ledger.Commit(context.Background(), []audit.Record{{Event: "change"}, {Event: "change", Detail: detail}}, kekstore.Write{Path: "one"})
		if err == nil || w.epoch() != 0 {
			t.Errorf("%d bytes: %v, at epoch %d", len(detail), err, w.epoch())
		}
	}
	// The longest that is let through is taken.
	n := audit.MaxLine
	for audit.Fits(audit.Record{Event: "change", Device: "c0", Detail: strings.Repeat("d", n)}) != nil {
		n--
	}
	if err := w.ledger.Commit(context.Background(), []audit.Record{{Event: "change", Device: "c0", Detail: strings.Repeat("d", n)}},
		kekstore.Write{Path: "one", Data: []byte("c0")}); err != nil {
		t.Errorf("%d bytes: %v", n, err)
	}
	w.check([]int{0})
	w.stop()
}

// mute is a store that cannot say at which epoch it is.
type mute struct{ kekstore.Store }

func (mute) Epoch(context.Context) (uint64, error) { return 0, kekstore.ErrUnsure }

// No line is written whose epoch nobody knows, and no ledger is opened.
func TestUnknownEpoch(t *testing.T) {
	w := newWorld(t)
	w.ledger.store = mute{w.store}
	before, _ := w.log.Head()
	if err := w.ledger.Record(context.Background(), audit.Record{Event: "release"}); !errors.Is(err, kekstore.ErrUnsure) {
		t.Errorf("Record: %v, want %v", err, kekstore.ErrUnsure)
	}
	if after, _ := w.log.Head(); after != before {
		t.Errorf("the log ends at %v, before at %v", after, before)
	}
	_, err := OpenLedger(context.Background(), mute{w.store}, time.Now, func(*audit.Record) {},
		func(audit.Head, func(audit.Record) error) (Log, error) { return w.log, nil }, func(audit.Record) error { return nil })
	if !errors.Is(err, kekstore.ErrUnsure) {
		t.Errorf("OpenLedger: %v, want %v", err, kekstore.ErrUnsure)
	}
	if err := w.store.Close(); err != nil {
		t.Error(err)
	}
}

// A store that is older than its log is refused.
func TestOlderStore(t *testing.T) {
	w := newWorld(t)
	if err := w.command(0); err != nil {
		t.Fatal(err)
	}
	w.stop()
	old, err := os.ReadFile(w.path("store.db"))
	if err != nil {
		t.Fatal(err)
	}
	w.start()
	if err := w.command(3); err != nil {
		t.Fatal(err)
	}
	w.stop()
	if err := os.WriteFile(w.path("store.db"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := kekstore.OpenBolt(w.path("store.db"), w.key)
	if err != nil {
		t.Fatal(err)
	}
	open := func(known audit.Head, each func(audit.Record) error) (Log, error) {
		return audit.Open(w.path("audit.jsonl"), known, each)
	}
	_, err = OpenLedger(context.Background(), store, time.Now, func(*audit.Record) {}, open, func(audit.Record) error { return nil })
	if !errors.Is(err, kekstore.ErrTampered) {
		t.Errorf("got %v, want %v", err, kekstore.ErrTampered)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}

// A store and a log from before there was a ledger go on.
func TestFromBefore(t *testing.T) {
	w := &world{t: t, dir: t.TempDir(), at: time.Unix(1e9, 0), next: func() fault { return none }}
	key, err := os.ReadFile("testdata/before/barrier.key")
	if err != nil {
		t.Fatal(err)
	}
	w.key = secret.Take(key)
	t.Cleanup(w.key.Wipe)
	packed, err := os.Open("testdata/before/store.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	store, err := io.ReadAll(z)
	if err := errors.Join(err, z.Close(), packed.Close()); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile("testdata/before/audit.jsonl")
	if err := errors.Join(err, os.WriteFile(w.path("store.db"), store, 0o600), os.WriteFile(w.path("audit.jsonl"), log, 0o600)); err != nil {
		t.Fatal(err)
	}
	w.start()
	if w.before != 11 || w.ledger.owes.Load() || w.epoch() != 12 {
		t.Errorf("%d lines, owes %t, epoch %d; want 11, no, 12", w.before, w.ledger.owes.Load(), w.epoch())
	}
	if err := w.command(0); err != nil {
		t.Error(err)
	}
	w.stop()
	w.start()
	if w.before != 12 || w.epoch() != 13 {
		t.Errorf("%d lines, epoch %d; want 12, 13", w.before, w.epoch())
	}
	w.stop()
}

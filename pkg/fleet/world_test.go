package fleet

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/secret"
)

// fault is what happens at a step, which is a transaction of the store or a line
// of the log.
type fault int

const (
	none        fault = iota
	killed            // before it
	killedAfter       // it is done, and nobody hears of it
	tearing           // killed: half of the line is there
	full              // the log's disk takes nothing
	fullTorn          // half of the line is there
	unsynced          // the line is there, whole, and its fsync fails
	faults
)

func (f fault) String() string {
	return [...]string{"no fault", "killed before", "killed after", "killed within", "full disk", "full disk within", "failed fsync"}[f]
}

var errKilled = errors.New("killed")

// world is a member's disk, with a real store and a real log, and the process that
// is killed there.
type world struct {
	t      *testing.T
	dir    string
	key    *secret.Bytes
	at     time.Time
	next   func() fault // of the next step
	dead   bool
	store  *kekstore.Bolt
	log    *faultyLog
	ledger *Ledger
	heard  int // lines that the ledger told of as durable
	before int // lines when it was opened
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), key: secret.Random(32), at: time.Unix(1e9, 0), next: func() fault { return none }}
	t.Cleanup(w.key.Wipe)
	if err := errors.Join(kekstore.InitBolt(w.path("store.db"), w.key), audit.Create(w.path("audit.jsonl"))); err != nil {
		t.Fatal(err)
	}
	w.start()
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) start() {
	w.t.Helper()
	store, open := w.disk()
	var err error
	w.ledger, err = OpenLedger(context.Background(), store, func() time.Time { return w.at },
		func(*audit.Record) { w.heard++ }, open, func(audit.Record) error { w.before++; return nil })
	if err != nil {
		w.t.Fatalf("after a restart: %v", err)
	}
}

// disk opens the store, and gives what opens the log.
func (w *world) disk() (kekstore.Store, func(audit.Head, func(audit.Record) error) (Log, error)) {
	w.t.Helper()
	var err error
	if w.store, err = kekstore.OpenBolt(w.path("store.db"), w.key); err != nil {
		w.t.Fatal(err)
	}
	w.dead, w.heard, w.before = false, 0, 0
	return &faultyStore{w.store, w}, func(known audit.Head, each func(audit.Record) error) (Log, error) {
		l, err := audit.Open(w.path("audit.jsonl"), known, each)
		w.log = &faultyLog{w: w, Log: l}
		return w.log, err
	}
}

// stop leaves the disk as it is: nothing is written by it.
func (w *world) stop() {
	w.t.Helper()
	if err := errors.Join(w.log.Log.Close(), w.store.Close()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) epoch() uint64 {
	w.t.Helper()
	epoch, err := w.store.Epoch(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return epoch
}

func (w *world) step() (fault, error) {
	if w.dead {
		return killed, errKilled
	}
	f := w.next()
	if f == killed || f == tearing {
		w.dead = true
	}
	return f, nil
}

type faultyStore struct {
	kekstore.Store
	w *world
}

func (s *faultyStore) Commit(ctx context.Context, happened []byte, writes ...kekstore.Write) (uint64, error) {
	f, err := s.w.step()
	if err != nil || f == killed || f == tearing {
		return 0, errKilled
	}
	epoch, err := s.Store.Commit(ctx, happened, writes...)
	if f == killedAfter {
		s.w.dead = true
		return 0, errKilled
	}
	return epoch, err
}

// faultyLog is the real log; what its disk does stands in for it in pkg/audit's
// own tests, and beside a whole member in pkg/kekserver's.
type faultyLog struct {
	Log
	w    *world
	err  error
	last *audit.Record // came through, though its fsync failed
	torn bool
}

func (l *faultyLog) half() {
	f, err := os.OpenFile(l.w.path("audit.jsonl"), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString(`{"n":`)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		l.w.t.Fatal(err)
	}
}

func (l *faultyLog) Append(ctx context.Context, r audit.Record) error {
	if l.err != nil {
		return l.err
	}
	f, err := l.w.step()
	if err != nil || f == killed {
		return errKilled
	}
	switch f {
	case tearing:
		l.half()
		return errKilled
	case full, fullTorn:
		if l.torn = f == fullTorn; l.torn {
			l.half()
		}
		l.err = audit.ErrBroken
		return l.err
	}
	if err := l.Log.Append(ctx, r); err != nil {
		l.w.t.Fatal(err)
	}
	switch f {
	case killedAfter:
		l.w.dead = true
		return errKilled
	case unsynced:
		l.err, l.last = audit.ErrBroken, &r
		return l.err
	}
	return nil
}

func (l *faultyLog) Head() (audit.Head, error) {
	head, err := l.Log.Head()
	return head, errors.Join(err, l.err)
}

func (l *faultyLog) Reopen(each func(audit.Record) error) error {
	if l.torn { // as Log.Reopen does, in a file that was changed below it here
		if err := l.Log.Close(); err != nil {
			l.w.t.Fatal(err)
		}
		var err error
		if l.Log, err = audit.Open(l.w.path("audit.jsonl"), audit.Head{}, nil); err != nil {
			l.w.t.Fatal(err)
		}
	}
	if l.last != nil {
		if err := each(*l.last); err != nil {
			return err
		}
	}
	l.err, l.last, l.torn = nil, nil, false
	return nil
}

package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekstore"
)

// fickle is the real log on a disk that is full now and then.
type fickle struct {
	Log
	appends atomic.Int64
	broken  atomic.Bool
}

func (l *fickle) Append(ctx context.Context, r audit.Record) error {
	if l.appends.Add(1)%7 == 0 {
		l.broken.Store(true)
	}
	if l.broken.Load() {
		return audit.ErrBroken
	}
	return l.Log.Append(ctx, r)
}

func (l *fickle) Head() (audit.Head, error) {
	head, err := l.Log.Head()
	if l.broken.Load() {
		err = errors.Join(err, audit.ErrBroken)
	}
	return head, err
}

func (l *fickle) Reopen(func(audit.Record) error) error {
	l.broken.Store(false)
	return nil
}

// Many at once, some of whom go away, on a log that breaks and goes on: each change
// has its line, once, and those of one path come in the order of its versions.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	w.stop()
	store, err := kekstore.OpenBolt(w.path("store.db"), w.key)
	if err != nil {
		t.Fatal(err)
	}
	var clock atomic.Int64 // a second for each look
	log := &fickle{}
	ledger, err := OpenLedger(context.Background(), store, func() time.Time { return time.Unix(clock.Add(1), 0) }, func(*audit.Record) {},
		func(known audit.Head, each func(audit.Record) error) (Log, error) {
			l, err := audit.Open(w.path("audit.jsonl"), known, each)
			log.Log = l
			return log, err
		}, func(audit.Record) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	var acknowledged sync.Map
	var all sync.WaitGroup
	for who := range 8 {
		all.Go(func() {
			path, version := fmt.Sprint("path-", who), uint64(0)
			for n := range 30 {
				ctx, cancel := context.WithCancel(context.Background())
				if n%5 == 0 {
					cancel()
				}
				if who%2 == 1 {
					_ = ledger.Record(ctx, audit.Record{Event: "release", Device: path})
				} else {
					err := ledger.Commit(ctx, []audit.Record{{Event: "change", Device: path, Generation: uint64(n)}}, kekstore.Write{Path: path, Old: version, Data: []byte{byte(n)}})
					if err == nil {
						acknowledged.Store(fmt.Sprint(path, n), true)
					}
					v, err := store.Get(context.Background(), path)
					if err != nil && !errors.Is(err, kekstore.ErrNotFound) {
						t.Error(err)
					}
					version = v.Version
				}
				cancel()
			}
		})
	}
	all.Wait()
	for log.broken.Load() || ledger.owes.Load() {
		_ = ledger.Settle(context.Background())
	}
	text, err := os.ReadFile(w.path("audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	last, told := map[string]audit.Record{}, map[string]bool{}
	if _, rest, err := audit.Verify(text, func(r audit.Record) error {
		if r.Event != "change" {
			return nil
		}
		if before := last[r.Device]; before.Epoch >= r.Epoch {
			t.Errorf("line %d of %s is of epoch %d, one before of %d", r.Number, r.Device, r.Epoch, before.Epoch)
		}
		last[r.Device], told[fmt.Sprint(r.Device, r.Generation)] = r, true
		return nil
	}); err != nil || rest != 0 {
		t.Fatalf("%d bytes are torn, %v", rest, err)
	}
	acknowledged.Range(func(what, _ any) bool {
		if !told[what.(string)] {
			t.Errorf("%v was acknowledged, and no line tells of it", what)
		}
		return true
	})
	for path, r := range last {
		v, err := store.Get(context.Background(), path)
		if err != nil || v.Version != r.Epoch || v.Data[0] != byte(r.Generation) {
			t.Errorf("%s was changed last at epoch %d, %v; the log says at %d", path, v.Version, err, r.Epoch)
		}
	}
	if len(last) != 4 {
		t.Errorf("%d paths were changed, want 4", len(last))
	}
	if err := errors.Join(ledger.Close(), store.Close()); err != nil {
		t.Error(err)
	}
}

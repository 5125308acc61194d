// Package fleet holds the rules of a member of the fleet, without sockets and
// files: clock, store and log are given.
//
// Nothing changes but by a Ledger.
package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekstore"
)

// Log is a member's audit log.
type Log interface {
	// Append returns once the line is durable.
	Append(ctx context.Context, r audit.Record) error
	// Head is the durable end, and why the log cannot be written, if so.
	Head() (audit.Head, error)
	// Reopen lets a log go on that could not be written, and calls each for every
	// line that came through all the same.
	Reopen(each func(audit.Record) error) error
	Close() error
}

// errOwed: the line of a change that is made is not in the log yet.
var errOwed = fmt.Errorf("%w: it lacks the line of the last change", audit.ErrBroken)

// mendPause is how long after a try a log that cannot be written, or that owes
// something, is left alone.
const mendPause = time.Second

// Ledger keeps a member's store and audit log telling the same. Each change is one
// transaction of the store, which carries its lines, and then those lines in the
// log; who made it hears of it after both. Whatever is lost in between, to a full
// disk, a kill or a power cut, the store has the change and its lines, and they
// are the first that the log gets afterwards. While the log cannot be written
// nothing changes.
type Ledger struct {
	store kekstore.Store
	log   Log
	now   func() time.Time
	heard func(*audit.Record)

	changing sync.Mutex // one change at a time, from its transaction to its last line
	owed     []audit.Record
	owes     atomic.Bool // len(owed) > 0
	tried    time.Time
}

// OpenLedger verifies log and store against each other. open opens the log, which
// must not end before known, and calls each for every line. What the log owes is
// settled by the first Settle, Record or Commit. heard is called for every line
// that is durable later, in any order. Errors: those of open, and
// kekstore.ErrTampered if the store is older than the log.
func OpenLedger(ctx context.Context, store kekstore.Store, now func() time.Time, heard func(*audit.Record),
	open func(known audit.Head, each func(audit.Record) error) (Log, error), each func(audit.Record) error) (*Ledger, error) {
	happened, err := lastChange(ctx, store)
	if err != nil {
		return nil, err
	}
	told := func(r audit.Record) error {
		happened.told(&r)
		return each(r)
	}
	kept := store.Kept()
	log, err := open(audit.Head{Number: kept.Number, Hash: kept.Hash}, told)
	if err != nil {
		return nil, err
	}
	head, _ := log.Head()
	at, err := store.Epoch(ctx)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	if at < head.Epoch {
		return nil, errors.Join(fmt.Errorf("store is at epoch %d, the audit log has seen %d: an older store was put back; "+
			"`kekctl restore` brings a backup back, or find out who wrote to the disk: %w", at, head.Epoch, kekstore.ErrTampered), log.Close())
	}
	store.Follow(func() kekstore.Head {
		head, _ := log.Head()
		return kekstore.Head{Number: head.Number, Hash: head.Hash}
	})
	l := &Ledger{store: store, log: log, now: now, heard: heard}
	l.owe(happened.owed(head.Epoch))
	return l, nil
}

// Owed are the lines of a store's last change that a log does not have.
func Owed(ctx context.Context, store kekstore.Store, log []audit.Record) ([]audit.Record, error) {
	happened, err := lastChange(ctx, store)
	if err != nil {
		return nil, err
	}
	seen := uint64(0)
	for i := range log {
		happened.told(&log[i])
		seen = max(seen, log[i].Epoch)
	}
	return happened.owed(seen), nil
}

// lastCommit is the last change of a store: its lines that were not seen in the log yet.
type lastCommit struct {
	epoch uint64
	lines []audit.Record
}

func (c *lastCommit) told(r *audit.Record) {
	if r.Epoch == c.epoch {
		c.lines = without(c.lines, *r)
	}
}

// owed are the lines that a log lacks which has seen an epoch. No change is made
// before the lines of the one before are there; a restore makes the store newer than
// what it carries.
func (c *lastCommit) owed(seen uint64) []audit.Record {
	if seen > c.epoch {
		return nil
	}
	return c.lines
}

func lastChange(ctx context.Context, store kekstore.Store) (*lastCommit, error) {
	text, epoch, err := store.Happened(ctx)
	if err != nil || len(text) == 0 {
		return new(lastCommit), err
	}
	c := &lastCommit{epoch: epoch}
	if err := json.Unmarshal(text, &c.lines); err != nil {
		return nil, fmt.Errorf("decode what the store was last changed by: %w", err)
	}
	for i := range c.lines {
		c.lines[i].Epoch, c.lines[i].Time = epoch, time.Time{}
	}
	return c, nil
}

// without returns the lines that are not told by this one.
func without(lines []audit.Record, r audit.Record) []audit.Record {
	r.Number, r.Prev, r.Time = 0, "", time.Time{}
	for i, l := range lines {
		if l == r {
			return append(lines[:i:i], lines[i+1:]...)
		}
	}
	return lines
}

func (l *Ledger) owe(lines []audit.Record) {
	l.owed = lines
	l.owes.Store(len(lines) > 0)
}

// Commit makes a change: all writes or none, and a line for each event, which has
// the change's epoch. It returns once both are durable. Errors: of a line that no
// log takes, and those of kekstore.Store.Commit, after which nothing has changed
// unless it is kekstore.ErrUnsure; and audit.ErrBroken: nothing has changed if the
// log was broken before, else the change is made and told as soon as the log can be
// written.
func (l *Ledger) Commit(ctx context.Context, events []audit.Record, writes ...kekstore.Write) error {
	ctx = context.WithoutCancel(ctx) // who goes away does not leave half of it
	l.changing.Lock()
	defer l.changing.Unlock()
	if err := l.mend(ctx); err != nil {
		return err
	}
	text, err := json.Marshal(events)
	if err != nil {
		return fmt.Errorf("encode what changes: %w", err)
	}
	for _, r := range events { // or it would be owed for ever
		if err := audit.Fits(r); err != nil {
			return fmt.Errorf("what the audit log would say of it: %w", err)
		}
	}
	epoch, err := l.store.Commit(ctx, text, writes...)
	if err != nil {
		return err
	}
	var told []audit.Record // as a reader of the log finds them
	if err := json.Unmarshal(text, &told); err != nil {
		return fmt.Errorf("decode what changes: %w", err)
	}
	for i := range told {
		told[i].Epoch, told[i].Time = epoch, time.Time{}
	}
	if err := l.tell(ctx, told); err != nil {
		return fmt.Errorf("the change is made, and its line is the next that the audit log gets: %w", err)
	}
	return nil
}

// tell appends lines of changes. What it does not get into the log is owed. The
// caller holds the lock.
func (l *Ledger) tell(ctx context.Context, lines []audit.Record) error {
	for i := range lines {
		if err := l.append(ctx, lines[i]); err != nil {
			l.owe(lines[i:])
			return err
		}
	}
	l.owe(nil)
	return nil
}

// Record adds a line about what changes nothing in the store, and returns once it
// is durable. No line comes before those that are owed.
func (l *Ledger) Record(ctx context.Context, r audit.Record) error {
	if err := l.Settle(ctx); err != nil {
		return err
	}
	var err error
	if r.Epoch, err = l.store.Epoch(ctx); err != nil {
		return err
	}
	return l.append(ctx, r)
}

func (l *Ledger) append(ctx context.Context, r audit.Record) error {
	err := l.log.Append(ctx, r)
	if err == nil {
		l.heard(&r)
	}
	return err
}

// Settle lets a broken log go on and tells what is owed, if that is possible. It
// returns why not; then nothing changes and no key leaves.
func (l *Ledger) Settle(ctx context.Context) error {
	if _, err := l.log.Head(); err == nil && !l.owes.Load() {
		return nil
	}
	l.changing.Lock()
	defer l.changing.Unlock()
	return l.mend(context.WithoutCancel(ctx))
}

// mend is Settle. The caller holds the lock.
func (l *Ledger) mend(ctx context.Context) error {
	_, err := l.log.Head()
	if err == nil && len(l.owed) == 0 {
		return nil
	}
	if since := l.now().Sub(l.tried); since >= 0 && since < mendPause {
		return cmp.Or(err, errOwed)
	}
	l.tried = l.now()
	if err != nil {
		err := l.log.Reopen(func(r audit.Record) error {
			l.owe(without(l.owed, r))
			l.heard(&r)
			return nil
		})
		if err != nil {
			return err
		}
	}
	if len(l.owed) == 0 {
		return nil
	}
	settled := audit.Record{Event: audit.EventSettled, Epoch: l.owed[0].Epoch, Detail: fmt.Sprintf("the store was changed at epoch %d, and "+
		"the log could not be written then or the member ended; what happened follows now, in %d of its lines", l.owed[0].Epoch, len(l.owed))}
	if err := l.append(ctx, settled); err != nil {
		return err
	}
	return l.tell(ctx, l.owed)
}

// Keep is Settle, and has the store remember where the log ends, for those lines
// that came with no change.
func (l *Ledger) Keep(ctx context.Context) error {
	return errors.Join(l.Settle(ctx), l.store.Keep(ctx))
}

// Head is the durable end of the log, and why it cannot be written, if so.
func (l *Ledger) Head() (audit.Head, error) { return l.log.Head() }

// Close closes the log; the store stays its owner's.
func (l *Ledger) Close() error { return l.log.Close() }

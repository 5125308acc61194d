package kekstore

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// readTime is how long a view lasts at most. As long as one does, bbolt cannot map
// a grown file anew: the writer that made it grow waits, and behind it all who
// come later.
const readTime = 5 * time.Second

// view is a View: a transaction that reads, and what is newer than it.
type view struct {
	s     *Bolt
	epoch uint64
	was   map[string]uint64 // versions, at its moment, of what was written since; guarded by s.index

	mu sync.Mutex
	tx *bbolt.Tx // nil: it has ended
}

// Read implements Store.
func (s *Bolt) Read(_ context.Context, f func(View) error) error {
	v, err := s.begin()
	if err != nil {
		return err
	}
	defer v.end()
	limit := time.AfterFunc(s.readTime, v.end)
	defer limit.Stop()
	return f(v)
}

// begin opens a view of what was written last. No writer is between its
// transaction and the versions of that: either both are in the view, or neither.
func (s *Bolt) begin() (*view, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.unsure != nil {
		return nil, s.unsure
	}
	tx, err := s.db.Begin(false)
	if err != nil {
		return nil, err
	}
	v := &view{s: s, epoch: s.sum.epoch, tx: tx}
	s.index.Lock()
	defer s.index.Unlock()
	s.views[v] = struct{}{}
	return v, nil
}

func (v *view) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.tx == nil {
		return
	}
	_ = v.tx.Rollback() // of one that reads; it fails if it has ended
	v.tx = nil
	v.s.index.Lock()
	defer v.s.index.Unlock()
	delete(v.s.views, v)
}

// Epoch implements View.
func (v *view) Epoch() uint64 { return v.epoch }

// Get implements Reader. It takes no lock that a writer holds while it waits: that
// writer may wait for this view's end.
func (v *view) Get(_ context.Context, path string) (Value, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.tx == nil {
		return Value{}, ErrViewOver
	}
	v.s.index.RLock()
	version, ok := v.was[path]
	if !ok {
		version = v.s.versions[path]
	}
	v.s.index.RUnlock()
	return v.s.read(v.tx, path, version)
}

// List implements Reader.
func (v *view) List(_ context.Context, prefix string) ([]Event, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.tx == nil {
		return nil, ErrViewOver
	}
	v.s.index.RLock()
	defer v.s.index.RUnlock()
	var out []Event
	for path, version := range v.s.versions {
		if was, ok := v.was[path]; ok {
			version = was
		}
		if version > 0 && strings.HasPrefix(path, prefix) && path != happenedPath {
			out = append(out, Event{Path: path, Version: version})
		}
	}
	slices.SortFunc(out, func(a, b Event) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

// wrote takes over the versions of a transaction that is made. Views that began
// before keep the versions that were there then.
func (s *Bolt) wrote(puts []put, epoch uint64) {
	s.index.Lock()
	defer s.index.Unlock()
	for i := range puts {
		path := puts[i].path
		for v := range s.views {
			if _, ok := v.was[path]; !ok {
				if v.was == nil {
					v.was = map[string]uint64{}
				}
				v.was[path] = s.versions[path]
			}
		}
		s.versions[path] = epoch
	}
}

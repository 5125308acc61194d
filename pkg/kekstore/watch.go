package kekstore

import (
	"context"
	"slices"
	"strings"
)

// watchBuffer is how many events a watcher may lag behind.
const watchBuffer = 64

type watcher struct {
	prefix string
	events chan Event
}

// Watch implements Store.
func (s *Bolt) Watch(ctx context.Context, prefix string) <-chan Event {
	w := &watcher{prefix: prefix, events: make(chan Event, watchBuffer)}
	s.mu.Lock()
	s.watchers[w] = struct{}{}
	s.mu.Unlock()
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, w)
		close(w.events)
	})
	return w.events
}

// notify is called with the lock held. The newest event is always delivered.
func (s *Bolt) notify(e Event) {
	for w := range s.watchers {
		if !strings.HasPrefix(e.Path, w.prefix) {
			continue
		}
		for sent := false; !sent; {
			select {
			case w.events <- e:
				sent = true
			default:
				select {
				case <-w.events:
				default:
				}
			}
		}
	}
}

// List implements Store.
func (s *Bolt) List(_ context.Context, prefix string) ([]Event, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []Event
	for path, version := range s.versions {
		if strings.HasPrefix(path, prefix) && path != happenedPath {
			out = append(out, Event{Path: path, Version: version})
		}
	}
	slices.SortFunc(out, func(a, b Event) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

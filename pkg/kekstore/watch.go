package kekstore

import (
	"context"
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

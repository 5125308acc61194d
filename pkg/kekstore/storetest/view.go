package storetest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/kekstore"
)

// What is written while a view is open is not in it: neither a new value, nor one
// that was written twice since. The store has room first: where a file must grow,
// who writes waits for views.
func viewIsOfOneMoment(t *testing.T, p *place) {
	ctx := context.Background()
	p.put(t, "room", strings.Repeat("x", 1<<20))
	p.put(t, "room", "")
	a := p.put(t, "k/a", "old")
	b := p.put(t, "k/b", "stays")
	err := p.Read(ctx, func(v kekstore.View) error {
		p.put(t, "k/a", "new")
		p.put(t, "k/c", "new")
		p.put(t, "k/a", "newer")
		wants(t, v, "k/a", kekstore.Value{Data: []byte("old"), Version: a})
		wants(t, v, "k/b", kekstore.Value{Data: []byte("stays"), Version: b})
		if got, err := v.Get(ctx, "k/c"); !errors.Is(err, kekstore.ErrNotFound) {
			t.Errorf("a value that is newer: %q, %v", got.Data, err)
		}
		lists(t, v, "k/", kekstore.Event{Path: "k/a", Version: a}, kekstore.Event{Path: "k/b", Version: b})
		if v.Epoch() != b {
			t.Errorf("its epoch is %d, want %d", v.Epoch(), b)
		}
		return p.Read(ctx, func(later kekstore.View) error {
			wants(t, later, "k/a", kekstore.Value{Data: []byte("newer"), Version: b + 3})
			if later.Epoch() != b+3 {
				t.Errorf("a later one's epoch is %d, want %d", later.Epoch(), b+3)
			}
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
	wants(t, p, "k/a", kekstore.Value{Data: []byte("newer"), Version: b + 3})
}

// What f returns is returned, and a view that was kept answers nothing.
func viewEnds(t *testing.T, p *place) {
	ctx := context.Background()
	p.put(t, "k/a", "x")
	var kept kekstore.View
	why := errors.New("why")
	err := p.Read(ctx, func(v kekstore.View) error {
		kept = v
		return why
	})
	if !errors.Is(err, why) {
		t.Errorf("got %v, want %v", err, why)
	}
	if _, err := kept.Get(ctx, "k/a"); !errors.Is(err, kekstore.ErrViewOver) {
		t.Errorf("Get afterwards: %v, want %v", err, kekstore.ErrViewOver)
	}
	if _, err := kept.List(ctx, ""); !errors.Is(err, kekstore.ErrViewOver) {
		t.Errorf("List afterwards: %v, want %v", err, kekstore.ErrViewOver)
	}
}

package fleet

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/secret"
)

// between is a real store, in which something is changed before images are read.
type between struct {
	kekstore.Store
	change func()
}

type betweenView struct {
	kekstore.View
	change func()
}

func (b *between) Read(ctx context.Context, f func(kekstore.View) error) error {
	return b.Store.Read(ctx, func(v kekstore.View) error { return f(&betweenView{v, b.change}) })
}

func (b *betweenView) List(ctx context.Context, prefix string) ([]kekstore.Event, error) {
	b.change() // of images, which come between region and device
	return b.View.List(ctx, prefix)
}

// A region and a device that change together, after the one was read and before the
// other is, are both seen as they were, and then both as they are.
func TestLookIsOfOneMoment(t *testing.T) {
	ctx, path, key := context.Background(), filepath.Join(t.TempDir(), "store.db"), secret.Random(kekstore.BarrierKeySize)
	defer key.Wipe()
	if err := kekstore.InitBolt(path, key); err != nil {
		t.Fatal(err)
	}
	bolt, err := kekstore.OpenBolt(path, key)
	if err != nil {
		t.Fatal(err)
	}
	store := &between{bolt, func() {}}
	s := newState(store, new(Rules))
	changed := func(state kekproto.RegionState, suspended bool) {
		t.Helper()
		var writes []kekstore.Write
		for path, v := range map[string]any{pathRegion: &regionRecord{State: state}, pathDevices + "r01-u01": &deviceRecord{Suspended: suspended}} {
			var none any
			old, err := load(ctx, bolt, path, &none)
			if err != nil && !errors.Is(err, kekstore.ErrNotFound) {
				t.Fatal(err)
			}
			w, err := write(path, old, v)
			if err != nil {
				t.Fatal(err)
			}
			writes = append(writes, w)
		}
		if _, err := bolt.Commit(ctx, nil, writes...); err != nil {
			t.Fatal(err)
		}
	}
	looks := func(state kekproto.RegionState, suspended bool) {
		t.Helper()
		v, d, err := s.look(ctx, "r01-u01")
		if err != nil {
			t.Fatal(err)
		}
		if v.region.State != state || d.Suspended != suspended {
			t.Errorf("the region is %s, the device suspended: %t; want %s, %t", v.region.State, d.Suspended, state, suspended)
		}
	}
	for _, room := range [][]byte{make([]byte, 1<<20), nil} { // or a write waits for the view
		w, err := s.over(ctx, pathCaptures+"r01-u01", room)
		if err == nil {
			_, err = bolt.Commit(ctx, nil, w)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	changed(kekproto.StateLive, false)
	store.change = func() {
		store.change = func() {}
		changed(kekproto.StateInTransit, true)
	}
	looks(kekproto.StateLive, false)
	looks(kekproto.StateInTransit, true)
	if err := bolt.Close(); err != nil {
		t.Error(err)
	}
}

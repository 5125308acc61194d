// Package storetest is what every kekstore.Store must do, whatever it writes to.
package storetest

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/kekstore"
)

// Open opens the store of a folder, and makes an empty one there first if the
// folder has none. The same folder again, after Close, is the same store.
type Open func(t *testing.T, dir string) kekstore.Store

// Run tries a kind of store.
func Run(t *testing.T, open Open) {
	for name, test := range map[string]func(*testing.T, *place){
		"a value is made once":    madeOnce,
		"a view is of one moment": viewIsOfOneMoment,
		"a view ends":             viewEnds,
	} {
		t.Run(name, func(t *testing.T) { run(t, open, test) })
	}
}

// place is a folder with a store, which is open.
type place struct {
	kekstore.Store
	dir  string
	open Open
}

func run(t *testing.T, open Open, test func(*testing.T, *place)) {
	p := &place{dir: t.TempDir(), open: open}
	p.Store = open(t, p.dir)
	test(t, p)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// put writes a value over whatever is there, and returns its version.
func (p *place) put(t *testing.T, path, text string) uint64 {
	t.Helper()
	ctx := context.Background()
	old, err := p.Get(ctx, path)
	if err != nil && !errors.Is(err, kekstore.ErrNotFound) {
		t.Fatal(err)
	}
	version, err := p.Commit(ctx, []byte(path), kekstore.Write{Path: path, Old: old.Version, Data: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return version
}

// wants compares a value with what it should be.
func wants(t *testing.T, r kekstore.Reader, path string, want kekstore.Value) {
	t.Helper()
	got, err := r.Get(context.Background(), path)
	if err != nil {
		t.Errorf("%s: %v", path, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// lists compares what is below a prefix with what should be.
func lists(t *testing.T, r kekstore.Reader, prefix string, want ...kekstore.Event) {
	t.Helper()
	got, err := r.List(context.Background(), prefix)
	if err != nil {
		t.Errorf("list of %q: %v", prefix, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("list of %q (-want +got):\n%s", prefix, diff)
	}
}

package kekstore

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
)

// All writes of a commit have one version, and what happened is found with it,
// under no path that a caller reads or lists.
func TestCommit(t *testing.T) {
	ctx, path := context.Background(), newStore(t)
	s := open(t, path)
	if text, epoch, err := s.Happened(ctx); err != nil || text != nil || epoch != 0 {
		t.Errorf("before any commit: %q at %d, %v", text, epoch, err)
	}
	watch, stop := context.WithCancel(ctx)
	events := s.Watch(watch, "k/")
	a, err := s.Get(ctx, "k/a")
	if err != nil {
		t.Fatal(err)
	}
	epoch, err := s.Commit(ctx, []byte("a and c"), Write{"k/a", a.Version, []byte("A")}, Write{"k/c", 0, []byte("C")})
	if err != nil || epoch != 3 || epochOf(t, s) != 3 {
		t.Errorf("epoch %d of the store at %d, %v; want 3", epoch, epochOf(t, s), err)
	}
	stop()
	var seen []Event
	for e := range events {
		seen = append(seen, e)
	}
	if diff := cmp.Diff([]Event{{"k/a", 3}, {"k/c", 3}}, seen); diff != "" {
		t.Errorf("watched (-want +got):\n%s", diff)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	text, at, err := s.Happened(ctx)
	if err != nil || string(text) != "a and c" || at != 3 {
		t.Errorf("happened: %q at %d, %v", text, at, err)
	}
	all, err := s.List(ctx, "")
	if diff := cmp.Diff([]Event{{"k/a", 3}, {"k/b", 2}, {"k/c", 3}}, all); diff != "" || err != nil {
		t.Errorf("listed (-want +got), %v:\n%s", err, diff)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// One write that may not be made is none made, and what happened stays what it was.
func TestCommitAllOrNothing(t *testing.T) {
	ctx := context.Background()
	s := open(t, newStore(t))
	if _, err := s.Commit(ctx, []byte("first"), Write{"k/c", 0, []byte("C")}); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		writes []Write
		want   error
	}{
		"an older version":     {[]Write{{"k/d", 0, []byte("D")}, {"k/a", 9, []byte("A")}}, ErrConflict},
		"one that is there":    {[]Write{{"k/d", 0, []byte("D")}, {"k/b", 0, []byte("B")}}, ErrConflict},
		"one that is not":      {[]Write{{"k/a", 1, []byte("A")}, {"k/d", 1, []byte("D")}}, ErrConflict},
		"one path twice":       {[]Write{{"k/d", 0, []byte("D")}, {"k/d", 0, []byte("E")}}, nil},
		"a path that is none":  {[]Write{{"k/d", 0, []byte("D")}, {"K", 0, []byte("E")}}, nil},
		"the store's own path": {[]Write{{"k/d", 0, []byte("D")}, {happenedPath, 3, []byte("E")}}, nil},
		"too much":             {[]Write{{"k/d", 0, []byte("D")}, {"k/e", 0, make([]byte, MaxValue+1)}}, nil},
	} {
		if _, err := s.Commit(ctx, []byte(name), tt.writes...); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		if text, epoch, err := s.Happened(ctx); err != nil || string(text) != "first" || epoch != 3 || epochOf(t, s) != 3 {
			t.Errorf("%s: happened %q at %d of %d, %v", name, text, epoch, epochOf(t, s), err)
		}
		if _, err := s.Get(ctx, "k/d"); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: k/d: %v, want %v", name, err, ErrNotFound)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// What happened is under the sum as all values are: an earlier one that was put
// back, or none, is noticed.
func TestHappenedIsUnderTheSum(t *testing.T) {
	ctx, path := context.Background(), newStore(t)
	var before []byte
	for _, text := range []string{"first", "second"} {
		s := open(t, path)
		if _, err := s.Commit(ctx, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if text == "first" {
			edit(t, path, func(_, values *bbolt.Bucket) error {
				before = append(before, values.Get([]byte(happenedPath))...)
				return nil
			})
		}
	}
	for name, change := range map[string]func(values *bbolt.Bucket) error{
		"put back": func(values *bbolt.Bucket) error { return values.Put([]byte(happenedPath), before) },
		"removed":  func(values *bbolt.Bucket) error { return values.Delete([]byte(happenedPath)) },
	} {
		edit(t, path, func(_, values *bbolt.Bucket) error { return change(values) })
		if _, err := OpenBolt(path, testKey(1)); !errors.Is(err, ErrTampered) {
			t.Errorf("%s: %v, want %v", name, err, ErrTampered)
		}
	}
}

// A store of which nobody knows whether the disk has its last write says nothing,
// not even how many there were.
func TestUnsure(t *testing.T) {
	ctx := context.Background()
	s := open(t, newStore(t))
	s.unsure = ErrUnsure
	for name, ask := range map[string]func() error{
		"Get":   func() error { _, err := s.Get(ctx, "k/a"); return err },
		"List":  func() error { _, err := s.List(ctx, "k/"); return err },
		"Epoch": func() error { _, err := s.Epoch(ctx); return err },
		"Swap":  func() error { _, err := s.Swap(ctx, "k/a", 1, nil); return err },
		"Keep":  func() error { return s.Keep(ctx) },
	} {
		if err := ask(); !errors.Is(err, ErrUnsure) {
			t.Errorf("%s: %v, want %v", name, err, ErrUnsure)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

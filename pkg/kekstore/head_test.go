package kekstore

import (
	"context"
	"testing"
)

// Each write keeps where the log outside ends; Keep does without a value. Both
// last.
func TestKeepsHead(t *testing.T) {
	ctx := context.Background()
	path := newStore(t)
	s := open(t, path)
	if s.Kept() != (Head{}) {
		t.Errorf("kept before anything was: %v", s.Kept())
	}
	head := Head{Number: 7, Hash: [32]byte{1}}
	s.Follow(func() Head { return head })
	again := func(what string, epoch uint64) {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, path)
		if s.Kept() != head || epochOf(t, s) != epoch {
			t.Errorf("%s: kept %v at epoch %d, want %v at %d", what, s.Kept(), epochOf(t, s), head, epoch)
		}
		s.Follow(func() Head { return head })
	}
	epoch, err := s.Swap(ctx, "k/c", 0, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	again("after a write", epoch)
	head.Number++
	if err := s.Keep(ctx); err != nil {
		t.Fatal(err)
	}
	again("after Keep", epoch)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

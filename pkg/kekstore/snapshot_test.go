package kekstore

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// An older file as a whole is consistent; its epoch gives it away.
func TestSnapshotKeepsEpoch(t *testing.T) {
	path := newStore(t)
	s := open(t, path)
	var copied bytes.Buffer
	if err := s.Snapshot(context.Background(), &copied); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Swap(context.Background(), "k/a", 1, nil); err != nil {
		t.Fatal(err)
	}
	newest := epochOf(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(copied.Bytes(), []byte("state=building")) {
		t.Error("the snapshot holds plaintext")
	}
	if err := os.WriteFile(path, copied.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	defer func() { _ = s.Close() }()
	if epochOf(t, s) >= newest {
		t.Errorf("epoch of the older file is %d, of the newer one %d", epochOf(t, s), newest)
	}
}

// writerFunc is a function as a writer.
type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

// Who reads a snapshot slowly holds nothing of the store: it grows meanwhile, and
// is read.
func TestSlowSnapshot(t *testing.T) {
	ctx := context.Background()
	path := newStore(t)
	s := open(t, path)
	defer func() { _ = s.Close() }()
	epoch, grown := epochOf(t, s), false
	var copied bytes.Buffer
	err := s.Snapshot(ctx, writerFunc(func(p []byte) (int, error) {
		if n := s.db.Stats().OpenTxN; n != 0 {
			return 0, fmt.Errorf("%d transactions are open while the receiver is slow", n)
		}
		if !grown {
			grown = true
			if _, err := s.Swap(ctx, "k/large", 0, make([]byte, MaxValue)); err != nil {
				return 0, err
			}
		}
		return copied.Write(p)
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, "k/large"); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".snapshot*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	other := filepath.Join(t.TempDir(), "store.db")
	if err := os.WriteFile(other, copied.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := open(t, other)
	defer func() { _ = c.Close() }()
	if epochOf(t, c) != epoch {
		t.Errorf("the copy is of epoch %d, want %d, when it was begun", epochOf(t, c), epoch)
	}
}

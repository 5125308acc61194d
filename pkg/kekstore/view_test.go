package kekstore

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// A view whose reader does not come back ends by itself, so that a write by which
// the file grows goes on, and those behind it.
func TestViewKeepsNobodyWaiting(t *testing.T) {
	ctx := context.Background()
	s := open(t, newStore(t))
	defer func() { _ = s.Close() }()
	s.readTime = time.Millisecond
	err := s.Read(ctx, func(v View) error {
		grown := make(chan error)
		go func() {
			_, err := s.Swap(ctx, "k/large", 0, make([]byte, MaxValue))
			grown <- err
		}()
		if err := <-grown; err != nil {
			return err
		}
		_, err := v.Get(ctx, "k/a")
		return err
	})
	if !errors.Is(err, ErrViewOver) {
		t.Errorf("got %v, want %v", err, ErrViewOver)
	}
	if len(s.views) != 0 {
		t.Errorf("%d views are kept", len(s.views))
	}
}

// A view does not believe the file any more than another read does.
func TestViewOfTamperedFile(t *testing.T) {
	ctx := context.Background()
	s := open(t, newStore(t))
	defer func() { _ = s.Close() }()
	err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketValues()).Delete([]byte("k/a")) })
	if err != nil {
		t.Fatal(err)
	}
	err = s.Read(ctx, func(v View) error {
		_, err := v.Get(ctx, "k/a")
		return err
	})
	if !errors.Is(err, ErrTampered) {
		t.Errorf("got %v, want %v", err, ErrTampered)
	}
}

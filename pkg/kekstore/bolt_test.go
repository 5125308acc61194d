package kekstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/landfall-project/landfall/pkg/secret"
)

func testKey(b byte) *secret.Bytes {
	return secret.Take(bytes.Repeat([]byte{b}, BarrierKeySize))
}

// newStore makes a store file with two values at k/a and k/b.
func newStore(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.db")
	if err := InitBolt(path, testKey(1)); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	for _, p := range []string{"k/a", "k/b"} {
		if _, err := s.Swap(context.Background(), p, 0, []byte("state=building "+p)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string) *Bolt {
	t.Helper()
	s, err := OpenBolt(path, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func epochOf(t *testing.T, s Store) uint64 {
	t.Helper()
	epoch, err := s.Epoch(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return epoch
}

// edit changes the raw file behind the store's back.
func edit(t *testing.T, path string, f func(meta, values *bbolt.Bucket) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { return f(tx.Bucket(bucketMeta()), tx.Bucket(bucketValues())) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	ctx := context.Background()
	path := newStore(t)
	s := open(t, path)
	v, err := s.Get(ctx, "k/a")
	if err != nil || string(v.Data) != "state=building k/a" || v.Version != 1 {
		t.Fatalf("Get = %q, version %d, %v", v.Data, v.Version, err)
	}
	if _, err := s.Get(ctx, "k/none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get of nothing: %v, want ErrNotFound", err)
	}
	if _, err := s.Swap(ctx, "k/a", 7, []byte("x")); !errors.Is(err, ErrConflict) {
		t.Errorf("Swap of a wrong version: %v, want ErrConflict", err)
	}
	version, err := s.Swap(ctx, "k/a", 1, []byte("state=live"))
	if err != nil || version != 3 || epochOf(t, s) != 3 {
		t.Fatalf("Swap = version %d, %v; epoch %d", version, err, epochOf(t, s))
	}
	if _, err := s.Swap(ctx, "k/c", 0, nil); err != nil {
		t.Errorf("Swap from nothing: %v", err)
	}
	got, err := s.List(ctx, "k/")
	want := []Event{{"k/a", 3}, {"k/b", 2}, {"k/c", 4}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("List: %v (-want +got):\n%s", err, diff)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	defer func() { _ = s.Close() }()
	if v, err := s.Get(ctx, "k/a"); err != nil || string(v.Data) != "state=live" || epochOf(t, s) != 4 {
		t.Errorf("after reopening: %q, epoch %d, %v", v.Data, epochOf(t, s), err)
	}
}

func TestRefusedPathsAndValues(t *testing.T) {
	s := open(t, newStore(t))
	defer func() { _ = s.Close() }()
	for _, path := range []string{"", "K", "k a", "k\x00a", sumPath, "k/é", string(bytes.Repeat([]byte("a"), 256))} {
		if _, err := s.Swap(context.Background(), path, 0, nil); err == nil {
			t.Errorf("Swap(%q) succeeded", path)
		}
	}
	if _, err := s.Swap(context.Background(), "big", 0, make([]byte, MaxValue+1)); err == nil {
		t.Error("a value above MaxValue was stored")
	}
}

func TestWrongKeyAndMissingFile(t *testing.T) {
	path := newStore(t)
	if _, err := OpenBolt(path, testKey(2)); !errors.Is(err, ErrBarrierKey) {
		t.Errorf("wrong key: %v, want ErrBarrierKey", err)
	}
	if _, err := OpenBolt(path, secret.New(16)); !errors.Is(err, ErrBarrierKey) {
		t.Errorf("short key: %v, want ErrBarrierKey", err)
	}
	missing := filepath.Join(t.TempDir(), "store.db")
	if _, err := OpenBolt(missing, testKey(1)); !errors.Is(err, ErrNoStore) {
		t.Errorf("missing file: %v, want ErrNoStore", err)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("opening a missing store made one")
	}
	if err := os.WriteFile(missing, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenBolt(missing, testKey(1)); !errors.Is(err, ErrNoStore) {
		t.Errorf("empty file: %v, want ErrNoStore", err)
	}
	if info, err := os.Stat(missing); err != nil || info.Size() != 0 {
		t.Errorf("opening an empty file left %v, %v", info, err)
	}
	if err := InitBolt(path, testKey(1)); err == nil {
		t.Error("InitBolt overwrote a store")
	}
	s := open(t, path)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestTamperedFile(t *testing.T) {
	type file = func(meta, values *bbolt.Bucket) error
	var old, oldSum []byte
	keep := func(_, values *bbolt.Bucket) error {
		old = bytes.Clone(values.Get([]byte("k/a")))
		return nil
	}
	keepSum := func(meta, values *bbolt.Bucket) error {
		oldSum = bytes.Clone(meta.Get([]byte(keySum)))
		return keep(meta, values)
	}
	for name, test := range map[string]struct {
		before, after file
		want          error
	}{
		"a value put back": {keep, func(_, v *bbolt.Bucket) error { return v.Put([]byte("k/a"), old) }, ErrTampered},
		"only the sum put back": {keepSum, func(m, _ *bbolt.Bucket) error {
			return m.Put([]byte(keySum), oldSum)
		}, ErrTampered},
		"a value moved to another path": {keep, func(_, v *bbolt.Bucket) error {
			return v.Put([]byte("k/b"), v.Get([]byte("k/a")))
		}, ErrTampered},
		"a value copied to a new path": {keep, func(_, v *bbolt.Bucket) error {
			return v.Put([]byte("k/c"), v.Get([]byte("k/a")))
		}, ErrTampered},
		"a value removed": {keep, func(_, v *bbolt.Bucket) error { return v.Delete([]byte("k/b")) }, ErrTampered},
		"a flipped bit": {keep, func(_, v *bbolt.Bucket) error {
			r := bytes.Clone(v.Get([]byte("k/b")))
			r[len(r)-1] ^= 1
			return v.Put([]byte("k/b"), r)
		}, ErrTampered},
		"a changed version": {keep, func(_, v *bbolt.Bucket) error {
			r := bytes.Clone(v.Get([]byte("k/b")))
			r[7]++
			return v.Put([]byte("k/b"), r)
		}, ErrTampered},
		"a short record": {keep, func(_, v *bbolt.Bucket) error { return v.Put([]byte("k/b"), []byte{1}) }, ErrTampered},
		"no sum":         {keep, func(m, _ *bbolt.Bucket) error { return m.Delete([]byte(keySum)) }, ErrTampered},
		"other format": {keep, func(m, _ *bbolt.Bucket) error {
			return m.Put([]byte(keyFormat), []byte("landfall store 2"))
		}, ErrTampered},
		"nothing": {keep, func(_, _ *bbolt.Bucket) error { return nil }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			path := newStore(t)
			edit(t, path, test.before)
			s := open(t, path)
			if _, err := s.Swap(context.Background(), "k/a", 1, []byte("state=live")); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			edit(t, path, test.after)
			s, err := OpenBolt(path, testKey(1))
			if !errors.Is(err, test.want) {
				t.Errorf("OpenBolt: %v, want %v", err, test.want)
			}
			if err == nil {
				_ = s.Close()
			}
		})
	}
}

// TestValuePutBackWhileOpen: a value of before is good in itself, and this
// process knows a newer one.
func TestValuePutBackWhileOpen(t *testing.T) {
	ctx := context.Background()
	s := open(t, newStore(t))
	defer func() { _ = s.Close() }()
	var old []byte
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.db.View(func(tx *bbolt.Tx) error {
		old = bytes.Clone(tx.Bucket(bucketValues()).Get([]byte("k/a")))
		return nil
	}))
	version, err := s.Swap(ctx, "k/a", 1, []byte("state=live"))
	must(err)
	must(s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketValues()).Put([]byte("k/a"), old) }))
	if v, err := s.Get(ctx, "k/a"); !errors.Is(err, ErrTampered) {
		t.Errorf("Get: %q, %v, want ErrTampered", v.Data, err)
	}
	if _, err := s.Swap(ctx, "k/a", version, nil); !errors.Is(err, ErrTampered) {
		t.Errorf("Swap: %v, want ErrTampered", err)
	}
	if v, err := s.Get(ctx, "k/b"); err != nil || string(v.Data) != "state=building k/b" {
		t.Errorf("another value: %q, %v", v.Data, err)
	}
}

func TestDamagedFileDoesNotPanic(t *testing.T) {
	path := newStore(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(whole); off += 331 {
		bad := bytes.Clone(whole)
		bad[off] ^= 0xff
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := OpenBolt(path, testKey(1)); err == nil {
			if v, err := s.Get(context.Background(), "k/a"); err != nil || string(v.Data) != "state=building k/a" {
				t.Errorf("byte %d flipped: opened, but k/a is %q, %v", off, v.Data, err)
			}
			_ = s.Close()
		}
	}
}

func TestWatch(t *testing.T) {
	s := open(t, newStore(t))
	defer func() { _ = s.Close() }()
	ctx, cancel := context.WithCancel(context.Background())
	events := s.Watch(ctx, "w/")
	for i := range watchBuffer + 10 {
		for _, dir := range []string{"w", "other"} {
			if _, err := s.Swap(ctx, fmt.Sprintf("%s/%d", dir, i), 0, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	cancel()
	var last Event
	n := 0
	for e := range events {
		last = e
		n++
	}
	if want := fmt.Sprintf("w/%d", watchBuffer+9); last.Path != want || n != watchBuffer {
		t.Errorf("%d events, the last of %s; want %d and %s", n, last.Path, watchBuffer, want)
	}
}

func TestUnsealers(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, n int, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, bytes.Repeat([]byte{7}, n), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for name, test := range map[string]struct {
		u  Unsealer
		ok bool
	}{
		"good file":          {FileUnsealer{write("good", 32, 0o600)}, true},
		"others can read":    {FileUnsealer{write("open", 32, 0o640)}, false},
		"short":              {FileUnsealer{write("short", 31, 0o600)}, false},
		"long":               {FileUnsealer{write("long", 33, 0o600)}, false},
		"missing":            {FileUnsealer{filepath.Join(dir, "none")}, false},
		"folder":             {FileUnsealer{dir}, false},
		"credential":         {CredentialUnsealer{dir, "good"}, true},
		"no credentials dir": {CredentialUnsealer{"", "good"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := test.u.BarrierKey(context.Background())
			if (err == nil) != test.ok {
				t.Fatalf("BarrierKey: %v", err)
			}
			if test.ok && !key.Equal(testKey(7)) {
				t.Error("another key came back")
			}
		})
	}
}

package kekstore

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/landfall-project/landfall/pkg/secret"
)

// MaxValue bounds a value, in bytes: the signed slice of a DHCP device is
// the largest.
const MaxValue = 2 << 20

// The file's buckets and the keys of its meta bucket.
const (
	formatV1 = "landfall store 1"

	keyFormat = "format"
	keyCheck  = "check"
	keySum    = "sum"

	sumPath      = "\x01sum" // no caller's path: it's outside of the alphabet
	happenedPath = "\x01happened"
)

func bucketMeta() []byte   { return []byte("meta") }
func bucketValues() []byte { return []byte("values") }

// Bolt is a Store in one bbolt file, used by one process.
type Bolt struct {
	db      *bbolt.DB
	barrier *barrier

	readTime time.Duration // of a view

	mu       sync.RWMutex // held by who writes until the disk has it; guards what follows
	sum      sum
	watchers map[*watcher]struct{}
	follow   func() Head // nil: the head stays
	unsure   error       // of a commit that may be on the disk: see update

	index    sync.RWMutex      // never held while anything waits; guards what follows
	versions map[string]uint64 // changed under mu too, so that who writes reads them without index
	views    map[*view]struct{}
}

var _ Store = (*Bolt)(nil)

// InitBolt makes a new, empty store file. It fails if there is one.
func InitBolt(path string, key *secret.Bytes) (err error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make store %s: it exists already; a store is never overwritten", path)
	}
	b, err := newBarrier(key)
	if err != nil {
		return err
	}
	defer b.wipe()
	db, err := openFile(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close(), syncDir(filepath.Dir(path))) }()
	return db.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucket(bucketValues()); err != nil {
			return err
		}
		meta, err := tx.CreateBucket(bucketMeta())
		if err != nil {
			return err
		}
		return errors.Join(
			meta.Put([]byte(keyFormat), []byte(formatV1)),
			meta.Put([]byte(keyCheck), b.check[:]),
			meta.Put([]byte(keySum), b.sealSum(&sum{})))
	})
}

// OpenBolt opens an existing store and verifies all of it.
func OpenBolt(path string, key *secret.Bytes) (s *Bolt, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", path, ErrNoStore)
	case err != nil:
		return nil, fmt.Errorf("open store: %w", err)
	case info.Size() == 0: // bbolt would begin a new one in it
		return nil, fmt.Errorf("%s: %w: it is empty", path, ErrNoStore)
	}
	b, err := newBarrier(key)
	if err != nil {
		return nil, err
	}
	var db *bbolt.DB
	// bbolt panics on some damaged files instead of returning an error.
	defer func() {
		if r := recover(); r != nil {
			b.wipe()
			if db != nil {
				_ = db.Close() // the error that counts is r
			}
			s, err = nil, fmt.Errorf("open store %s: %w: %v", path, ErrTampered, r)
		}
	}()
	if db, err = openFile(path); err != nil {
		b.wipe()
		return nil, err
	}
	s = &Bolt{db: db, barrier: b, readTime: readTime, versions: map[string]uint64{}, watchers: map[*watcher]struct{}{}, views: map[*view]struct{}{}}
	if err := db.View(s.load); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), s.Close())
	}
	return s, nil
}

func openFile(path string) (*bbolt.DB, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("open store %s: %w: %w", path, ErrInUse, err)
	}
	var system *fs.PathError
	switch {
	case errors.As(err, &system):
		return nil, fmt.Errorf("open store: %w", err)
	case err != nil:
		return nil, fmt.Errorf("open store %s: %w, or it is none: its first pages say nothing", path, ErrTampered)
	}
	return db, nil
}

func (b *barrier) sealSum(s *sum) []byte {
	return b.seal(sumPath, s.epoch, s.encode())
}

// load reads every record once: each must open, and their sum must be the
// recorded one.
func (s *Bolt) load(tx *bbolt.Tx) error {
	meta, values := tx.Bucket(bucketMeta()), tx.Bucket(bucketValues())
	if meta == nil || values == nil || string(meta.Get([]byte(keyFormat))) != formatV1 {
		return fmt.Errorf("not a store of format %q: %w", formatV1, ErrTampered)
	}
	if !hmac.Equal(meta.Get([]byte(keyCheck)), s.barrier.check[:]) {
		return ErrBarrierKey
	}
	record := meta.Get([]byte(keySum))
	version, err := recordVersion("sum", record)
	if err != nil {
		return err
	}
	plain, err := s.barrier.open(sumPath, record, version)
	if err != nil {
		return err
	}
	want, err := decodeSum(plain)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTampered, err)
	}
	got := sum{epoch: want.epoch, head: want.head}
	err = values.ForEach(func(k, v []byte) error {
		version, err := recordVersion(string(k), v)
		if err != nil {
			return err
		}
		plain, err := s.barrier.open(string(k), v, version)
		if err != nil {
			return err
		}
		secret.Wipe(plain)
		got.add(s.barrier.term(string(k), version))
		got.count++
		s.versions[string(k)] = version
		return nil
	})
	if err != nil {
		return err
	}
	if got != *want {
		return fmt.Errorf("%d values whose sum is not the recorded one of %d: values were put back, removed or added: %w",
			got.count, want.count, ErrTampered)
	}
	s.sum = got
	return nil
}

func (s *sum) add(t [4]uint64) {
	var c uint64
	for i := range t {
		s.limbs[i], c = bits.Add64(s.limbs[i], t[i], c)
	}
}

func (s *sum) sub(t [4]uint64) {
	var c uint64
	for i := range t {
		s.limbs[i], c = bits.Sub64(s.limbs[i], t[i], c)
	}
}

func checkPath(path string) error {
	bad := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '/'
	}
	if path == "" || len(path) > 255 || strings.IndexFunc(path, bad) >= 0 {
		return fmt.Errorf("store path %q: want 1 to 255 of [a-z0-9-/]", path)
	}
	return nil
}

// Get implements Reader.
func (s *Bolt) Get(ctx context.Context, path string) (value Value, err error) {
	err = s.Read(ctx, func(v View) error {
		value, err = v.Get(ctx, path)
		return err
	})
	return value, err
}

// List implements Reader.
func (s *Bolt) List(ctx context.Context, prefix string) (list []Event, err error) {
	err = s.Read(ctx, func(v View) error {
		list, err = v.List(ctx, prefix)
		return err
	})
	return list, err
}

// read opens the value at path. The version that it must have is one that this
// process verified or wrote, not what the file says; 0: there is none.
func (s *Bolt) read(tx *bbolt.Tx, path string, version uint64) (Value, error) {
	if version == 0 {
		return Value{}, fmt.Errorf("%s: %w", path, ErrNotFound)
	}
	data, err := s.barrier.open(path, tx.Bucket(bucketValues()).Get([]byte(path)), version)
	return Value{Data: data, Version: version}, err
}

// Swap implements Store.
func (s *Bolt) Swap(_ context.Context, path string, old uint64, data []byte) (uint64, error) {
	return s.update(func(tx *bbolt.Tx) error { return s.unchanged(tx, path, old) }, put{path: path, data: data})
}

// Commit implements Store.
func (s *Bolt) Commit(_ context.Context, happened []byte, writes ...Write) (uint64, error) {
	var puts []put
	for i, w := range writes {
		if slices.ContainsFunc(writes[:i], func(o Write) bool { return o.Path == w.Path }) {
			return 0, fmt.Errorf("store path %q: written twice in one transaction", w.Path)
		}
		puts = append(puts, put{path: w.Path, data: w.Data})
	}
	puts = append(puts, put{path: happenedPath, data: happened, own: true})
	return s.update(func(tx *bbolt.Tx) error {
		for _, w := range writes {
			if err := s.unchanged(tx, w.Path, w.Old); err != nil {
				return err
			}
		}
		return nil
	}, puts...)
}

// Happened implements Store.
func (s *Bolt) Happened(ctx context.Context) ([]byte, uint64, error) {
	v, err := s.Get(ctx, happenedPath)
	if errors.Is(err, ErrNotFound) {
		return nil, 0, nil
	}
	return v.Data, v.Version, err
}

// unchanged says whether a value still has a version; 0: there is none. It looks
// into the file: over a value that somebody put back nothing is written. The
// caller holds the lock.
func (s *Bolt) unchanged(tx *bbolt.Tx, path string, old uint64) error {
	there, err := s.read(tx, path, s.versions[path])
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	secret.Wipe(there.Data)
	if there.Version != old {
		return fmt.Errorf("%s: version is %d, not %d: %w", path, there.Version, old, ErrConflict)
	}
	return nil
}

// Epoch implements Store.
func (s *Bolt) Epoch(context.Context) (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sum.epoch, s.unsure
}

// Close implements Store.
func (s *Bolt) Close() error {
	err := s.db.Close()
	s.barrier.wipe()
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

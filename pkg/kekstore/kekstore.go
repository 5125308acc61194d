// Package kekstore keeps what a fleet knows: devices, slices, KEKs. Whoever
// steals the store file gets paths and ciphertext.
//
// Values are encrypted under a barrier key with their path and a monotonic
// version as associated data, and an encrypted sum over all (path, version)
// pairs rules out that single values are put back, removed or added. A whole
// older store file is consistent in itself: the caller notices it by Epoch,
// which must never be less than what its audit log, kept elsewhere, has seen. The
// other way round the store keeps where that log ended when it was last written.
//
// Not protected: paths and sizes, a host that is read or written while it runs,
// and an attacker who puts back both the store and the audit log.
package kekstore

import (
	"context"
	"errors"
	"io"
)

// What a caller branches on.
var (
	// ErrNotFound: nothing is stored at the path.
	ErrNotFound = errors.New("nothing is stored there")
	// ErrConflict: the value changed since it was read. Read it again.
	ErrConflict = errors.New("the value was changed meanwhile")
	// ErrNoStore: there is no store file. Make one with `kekctl init`, or put
	// the right path into the member's configuration; it's never made silently.
	ErrNoStore = errors.New("no store file")
	// ErrBarrierKey: the barrier key is not the one that the store was made
	// with. Give the member its own key.
	ErrBarrierKey = errors.New("the barrier key does not belong to this store")
	// ErrInUse: another process has the store open.
	ErrInUse = errors.New("another process has it open; stop that member first")
	// ErrViewOver: a view was used after its end, or for longer than a view lasts.
	// Read anew.
	ErrViewOver = errors.New("what the store was at one moment is read no longer")
	// ErrTampered: values were exchanged, put back, removed or damaged. Restore
	// a backup and find out who wrote to the disk.
	ErrTampered = errors.New("the store was tampered with or is damaged")
)

// Value is what is stored at a path. Data is the caller's own copy.
type Value struct {
	Data    []byte
	Version uint64 // epoch of the write; grows with each write to any path
}

// Event says that the value at a path was written.
type Event struct {
	Path    string
	Version uint64
}

// Write is one value of a Commit. Old is the version that the value at Path must
// have, 0: there must be none.
type Write struct {
	Path string
	Old  uint64
	Data []byte
}

// Head is the end of a log outside of the store: the number of its last line and
// the SHA-256 of that.
type Head struct {
	Number uint64
	Hash   [32]byte
}

// Reader reads values.
type Reader interface {
	// Get returns the value at path, or ErrNotFound.
	Get(ctx context.Context, path string) (Value, error)
	// List returns the paths below prefix, sorted, and their versions.
	List(ctx context.Context, prefix string) ([]Event, error)
}

// View is the store as it was at one moment, whatever is written meanwhile.
type View interface {
	Reader
	// Epoch is the version of the last write before that moment.
	Epoch() uint64
}

// Store is an encrypted map of paths (1 to 255 of [a-z0-9-/]) to small values.
// Writes are durable when they return; where there are several members, on a
// majority. Reads are answered by the local replica. Nothing is ever deleted
// but by being overwritten.
type Store interface {
	Reader
	// Read calls f with the store as it is now, and returns what f does: what is
	// decided by several values is read in one. f reads by the view alone, does not
	// write, and is quick: those who write may have to wait for it, so the view ends
	// after some seconds even if f goes on (ErrViewOver).
	Read(ctx context.Context, f func(View) error) error
	// Swap replaces the value if its version is still old; 0 means that there
	// must be none. It returns the new version, or ErrConflict.
	Swap(ctx context.Context, path string, old uint64, data []byte) (uint64, error)
	// Commit makes all writes, in one transaction and with one version, which it
	// returns, or none: ErrConflict if one of the values has another version than
	// its Old. What happened goes with it, and replaces what went with the one
	// before: whoever opens the store finds what it was last changed by.
	Commit(ctx context.Context, happened []byte, writes ...Write) (uint64, error)
	// Happened returns what went with the last Commit, and its version; nothing if
	// there was none.
	Happened(ctx context.Context) ([]byte, uint64, error)
	// Watch sends an event for each later write below prefix until ctx ends,
	// then closes the channel. A slow receiver loses the oldest events.
	Watch(ctx context.Context, prefix string) <-chan Event
	// Epoch is the number of writes so far; it's the version of the last one.
	Epoch(ctx context.Context) (uint64, error)
	// Follow has every later write keep the end of this member's log, as head
	// tells it, in the same transaction.
	Follow(head func() Head)
	// Keep writes that end without a value, so the epoch stays.
	Keep(ctx context.Context) error
	// Kept returns the end that was kept last: the log never ends before it.
	Kept() Head
	// Snapshot writes a consistent copy, encrypted as it is.
	Snapshot(ctx context.Context, w io.Writer) error
	// Close ends the store and wipes its keys.
	Close() error
}

// Package secret holds key material so that it can be wiped and cannot be
// printed by accident.
//
// The bytes live in anonymous memory outside the Go heap: the garbage
// collector never copies them, core dumps leave them out (MADV_DONTDUMP), and
// they are locked against swapping where RLIMIT_MEMLOCK allows it. What is not
// protected: copies that a caller makes of Expose's result, CPU registers and
// the memory of a machine that an attacker can read while it runs.
package secret

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

const redacted = "[secret]"

// errRedacted is what every encoder gets: a secret that reaches one is a bug.
var errRedacted = errors.New("secret: a secret cannot be encoded; use Expose where its bytes must leave the process")

// Bytes is a fixed-length secret. Use it by pointer; a nil *Bytes is an empty,
// already wiped secret. It is not safe to wipe it while another goroutine
// still reads what Expose returned. There is no finalizer, because one could
// unmap the memory under a slice from Expose: whoever makes a secret wipes it.
type Bytes struct {
	mu  sync.Mutex
	mem []byte // whole pages; nil once wiped
	n   int
}

// New returns a zeroed secret of n bytes. It panics when the kernel refuses
// anonymous memory, as the Go runtime does.
func New(n int) *Bytes {
	if n < 0 {
		panic("secret: negative length")
	}
	page := unix.Getpagesize()
	size := max((n+page-1)/page, 1) * page
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		panic(fmt.Sprintf("secret: mmap of %d bytes: %v", size, err))
	}
	// Locking is refused to unprivileged processes above RLIMIT_MEMLOCK;
	// the boot image and kekd run as root. A secret that could be swapped is
	// still better than a device that does not boot.
	_ = unix.Mlock(mem)
	_ = unix.Madvise(mem, unix.MADV_DONTDUMP)
	s := &Bytes{mem: mem, n: n}
	return s
}

// Random returns n bytes from the system's random source.
func Random(n int) *Bytes {
	s := New(n)
	// crypto/rand.Read never fails: it ends the process instead.
	_, _ = rand.Read(s.Expose())
	return s
}

// Take copies b into a new secret and wipes b.
func Take(b []byte) *Bytes {
	s := New(len(b))
	copy(s.Expose(), b)
	Wipe(b)
	return s
}

// Read reads exactly n bytes from r into a new secret.
func Read(r io.Reader, n int) (*Bytes, error) {
	s := New(n)
	if _, err := io.ReadFull(r, s.Expose()); err != nil {
		s.Wipe()
		return nil, fmt.Errorf("read a %d-byte secret: %w", n, err)
	}
	return s, nil
}

// Len returns the length in bytes; 0 once wiped.
func (s *Bytes) Len() int { return len(s.Expose()) }

// Expose returns the bytes themselves, not a copy; nil once wiped. The result
// must not outlive s and must not be kept, converted to a string or logged.
func (s *Bytes) Expose() []byte {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mem == nil {
		return nil
	}
	return s.mem[:s.n:s.n]
}

// Clone returns an independent copy, to be wiped by itself.
func (s *Bytes) Clone() *Bytes {
	c := New(s.Len())
	copy(c.Expose(), s.Expose())
	return c
}

// Equal compares the full length in constant time. A wiped secret equals
// nothing, not even another wiped one.
func (s *Bytes) Equal(o *Bytes) bool {
	a, b := s.Expose(), o.Expose()
	return a != nil && b != nil && subtle.ConstantTimeCompare(a, b) == 1
}

// Wipe overwrites the bytes and gives the memory back. It may be called often.
func (s *Bytes) Wipe() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mem == nil {
		return
	}
	Wipe(s.mem)
	_ = unix.Munmap(s.mem) // unlocks as well; nothing to do about a failure
	s.mem = nil
}

// String, Format, GoString, LogValue and the marshalers keep a secret out of
// logs and errors, whatever verb or encoder meets it.
func (s *Bytes) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (s *Bytes) GoString() string { return redacted }

// Format implements fmt.Formatter, for every verb.
func (s *Bytes) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (s *Bytes) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON implements json.Marshaler; it always fails.
func (s *Bytes) MarshalJSON() ([]byte, error) { return nil, errRedacted }

// MarshalText implements encoding.TextMarshaler; it always fails.
func (s *Bytes) MarshalText() ([]byte, error) { return nil, errRedacted }

var _ json.Marshaler = (*Bytes)(nil)

// Wipe overwrites a buffer that held a secret for a moment.
func Wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(&b)
}

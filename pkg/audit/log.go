package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/landfall-project/landfall/pkg/printable"
)

// What a caller branches on.
var (
	// ErrNoLog: there is no log file. A member that lost it must not start as if
	// nothing had ever happened; `kekctl init` makes the first one.
	ErrNoLog = errors.New("no audit log")
	// ErrBroken: an earlier write failed; nothing more can be recorded until Reopen
	// says so, or the member is restarted.
	ErrBroken = errors.New("audit log cannot be written")
	// ErrBehind: the log does not hold the line that it is known to have held.
	// Put the newest copy of it back, and find out who wrote to the disk.
	ErrBehind = errors.New("audit log lacks lines that were in it: it was emptied, cut or put back")
)

// DiskFull says whether something failed since a disk has no room.
func DiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// File is what a Log writes to; an *os.File is one.
type File interface {
	io.WriteCloser
	Sync() error
}

// Log appends records. Concurrent appends share one write and one fsync.
type Log struct {
	file File
	look func(size int64) error // whether the file is still at its path, as it was left
	size int64                  // what was written; the writer's
	now  func() time.Time

	mu     sync.Mutex
	head   Head
	torn   []byte // bytes at the end that are no lines, until a line accounts for them
	known  Head   // an end that the log is known to have had when it was opened
	buf    []byte // lines not yet handed to the writer
	batch  *batch // those who wait for buf
	err    error
	wake   chan struct{}
	closed bool
	done   chan struct{}
	synced Head   // durable
	keeps  int64  // bytes that are durable
	behind []byte // what is behind keeps in the file: torn bytes
	failed []byte // the batch that could not be written
	reopen func(most int) (reopened, error)
	sure   func() error // before the first write: that what is there is on the disk; nil: it is
}

// reopened is what a log goes on with: another descriptor of its file, and all that
// is behind what was durable.
type reopened struct {
	file File
	rest []byte
}

type batch struct {
	done chan struct{}
	err  error
}

// Create makes an empty log. It fails if there is one.
func Create(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make audit log: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("make audit log: %w", err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("make audit log: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// Open verifies an existing log, calling each for every line, and continues it.
// known is an end that it once had, or the zero value. What a power cut left at
// its end stays in the file and is accounted for by a line in front of the first
// new one; until then nothing is written.
func Open(path string, known Head, each func(Record) error) (*Log, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNoLog)
	}
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	head, rest, err := VerifyFrom(known, data, each)
	if err != nil {
		return nil, fmt.Errorf("audit log %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	opened, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open audit log: %w", err), f.Close())
	}
	l := newLog(f, head, time.Now)
	l.size, l.look = int64(len(data)), func(size int64) error { return unchanged(path, opened, size) }
	l.torn, l.known = bytes.Clone(data[len(data)-rest:]), known
	l.keeps, l.behind = int64(len(data)-rest), l.torn
	l.reopen = func(most int) (reopened, error) { return openAgain(path, opened, l.keeps, most) }
	l.sure = func() error {
		from := max(0, len(data)-maxWrite) // all that one write may have left
		_, err := makeSure(path, opened, int64(from), len(data)-from)
		return err
	}
	return l, nil
}

func newLog(f File, head Head, now func() time.Time) *Log {
	l := &Log{file: f, now: now, head: head, synced: head, batch: &batch{done: make(chan struct{})},
		look: func(int64) error { return nil }, reopen: func(int) (reopened, error) { return reopened{}, errors.ErrUnsupported }, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go l.write()
	return l
}

// VerifyFrom is Verify of a log that once ended at known, or of which nothing is
// known: the zero value. Errors: those of Verify, and ErrBehind.
func VerifyFrom(known Head, data []byte, each func(Record) error) (head Head, rest int, err error) {
	lacks := fmt.Errorf("%w: the store saw its line %d", ErrBehind, known.Number)
	head, rest, err = Verify(data, func(r Record) error {
		if known.Number > 0 && r.Number == known.Number+1 && r.Prev != hex.EncodeToString(known.Hash[:]) {
			return lacks
		}
		if each == nil {
			return nil
		}
		return each(r)
	})
	if err == nil && (head.Number < known.Number || head.Number == known.Number && known.Number > 0 && head.Hash != known.Hash) {
		err = fmt.Errorf("%w, it ends at line %d", lacks, head.Number)
	}
	return head, rest, err
}

// unchanged looks whether what is at the path is what was opened, with just what
// was written since. Somebody may have removed it, put another in its place or
// cut it, and what is appended then is seen by nobody.
func unchanged(path string, opened fs.FileInfo, size int64) error {
	now, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("while the member ran: %w", err)
	case !os.SameFile(opened, now):
		return fmt.Errorf("another file was put at %s while the member ran", path)
	case now.Size() != size:
		return fmt.Errorf("%s has %d bytes where %d were written: it was changed while the member ran", path, now.Size(), size)
	}
	return nil
}

// recover queues the line that accounts for a torn batch. It says no more than
// the log and the head that was kept show: a power cut tears only what nobody had
// an answer to, but who can write the file can tear a line that somebody had.
func (l *Log) recover() error {
	torn := l.torn
	l.torn = nil
	if torn[len(torn)-1] != '\n' {
		torn = append(torn, tornEnd...)
		l.buf = append(l.buf, tornEnd...)
	}
	l.head.Torn++
	sum := sha256.Sum256(torn)
	detail := fmt.Sprintf("the bytes before this line follow line %d and are no lines: what a power cut left of lines that nobody had an answer to, "+
		"or lines that somebody damaged; ", l.head.Number)
	if l.known.Number > 0 {
		detail += fmt.Sprintf("the store saw line %d last, and it is there; ", l.known.Number)
	}
	detail += fmt.Sprintf("a head that was kept elsewhere before, of line %d or later, says that they were damaged", l.head.Number+1)
	return l.add(Record{Event: EventRecovered, TornBytes: len(torn), Digest: hex.EncodeToString(sum[:]), Detail: detail})
}

// Append adds a record and returns once it is durable. If ctx ends first the
// record may still get into the log: it says what was about to be done.
func (l *Log) Append(ctx context.Context, r Record) error {
	b, err := l.enqueue(r)
	if err != nil {
		return err
	}
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return fmt.Errorf("append to audit log: %w", ctx.Err())
	}
}

func (l *Log) enqueue(r Record) (*batch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return nil, l.err
	case l.closed:
		return nil, fmt.Errorf("%w: %w", ErrBroken, fs.ErrClosed)
	}
	if len(l.torn) > 0 {
		if err := l.recover(); err != nil {
			return nil, err
		}
	}
	if err := l.add(r); err != nil {
		return nil, err
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return l.batch, nil
}

// add queues one line. The caller holds the lock.
func (l *Log) add(r Record) error {
	r.Number, r.Prev = l.head.Number+1, hex.EncodeToString(l.head.Hash[:])
	r.Time = l.now().UTC()
	line, err := encode(&r)
	if err != nil {
		return fmt.Errorf("append to audit log: %w", err)
	}
	l.buf = append(append(l.buf, line...), '\n')
	l.head.Number, l.head.Hash = r.Number, sha256.Sum256(line)
	l.head.Epoch = max(l.head.Epoch, r.Epoch)
	return nil
}

func encode(r *Record) ([]byte, error) {
	line, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	line = printable.Escape(line) // people read the file too
	if len(line) > MaxLine {
		return nil, fmt.Errorf("line of %d bytes, at most %d are allowed", len(line), MaxLine)
	}
	return line, nil
}

// Fits refuses a record that no log takes, whatever its number and time.
func Fits(r Record) error {
	r.Number, r.Epoch, r.Prev = math.MaxUint64, math.MaxUint64, hex.EncodeToString(make([]byte, sha256.Size))
	r.Time = time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)
	_, err := encode(&r)
	return err
}

// write is the only writer: it takes all that has gathered, makes it durable,
// then wakes those who wait. After a failed write or fsync nobody knows what is
// on the disk: it stops for good, as PostgreSQL learnt to. What has gathered
// behind it is not written either, or it would follow half a line.
func (l *Log) write() {
	defer close(l.done)
	var spare []byte
	for range l.wake {
		l.mu.Lock()
		b, data, head, err := l.batch, l.buf, l.head, l.err
		works := err == nil
		l.batch, l.buf = &batch{done: make(chan struct{})}, spare[:0]
		l.mu.Unlock()
		if works && len(data) > 0 {
			err = l.store(data)
		}
		l.mu.Lock()
		switch b.err = err; {
		case works && err != nil:
			l.err, l.failed = err, bytes.Clone(data)
		case err == nil && len(data) > 0:
			l.synced, l.keeps, l.behind = head, l.size, nil
		}
		l.mu.Unlock()
		close(b.done)
		spare = data
	}
}

// store makes lines durable, and looks whether they are where others look for
// them.
func (l *Log) store(lines []byte) error {
	err := l.beSure()
	if err == nil {
		err = writeDurably(l.file, lines)
	}
	if err == nil {
		l.size += int64(len(lines))
		if moved := l.look(l.size); moved != nil {
			err = fmt.Errorf("%w: %w", errMoved, moved)
		}
	}
	repair := "see to its disk"
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errMoved):
		repair = "put that right, then restart the member"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		repair = "make room on its file system"
	}
	return fmt.Errorf("%w: %w; %s", ErrBroken, err, repair)
}

// errMoved: the file is not what was written. That is for people to look at.
var errMoved = errors.New("it is not as it was left")

// writeDurably writes lines, as many at once as a power cut may tear.
func writeDurably(f File, lines []byte) error {
	for len(lines) > 0 {
		n := len(lines)
		if n > maxWrite {
			n = bytes.LastIndexByte(lines[:maxWrite], '\n') + 1
		}
		if _, err := f.Write(lines[:n]); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		lines = lines[n:]
	}
	return nil
}

// Head returns the durable end of the log, and why it cannot grow, if so.
func (l *Log) Head() (Head, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.synced, l.err
}

// Close writes what is left and closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.wake)
	l.mu.Unlock()
	<-l.done
	return l.file.Close()
}

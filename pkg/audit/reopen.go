package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Reopen lets a log go on that could not be written, once that works again. What
// came of the failed write stays: whole lines, of which nobody was told that they
// are there, count, and a torn one is accounted for in front of the next line.
// They are written once more, in their place: after a failed fsync the system may
// show what the disk never got; each is called for them. It returns why the log
// stays broken, nil if it is not.
func (l *Log) Reopen(each func(Record) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil || l.closed || errors.Is(l.err, errMoved) {
		return l.err
	}
	ours := append(bytes.Clone(l.behind), l.failed...)
	a, err := l.reopen(len(ours))
	if err == nil && !bytes.HasPrefix(ours, a.rest) { // a line of somebody else, perhaps
		err = errors.Join(errMoved, a.file.Close())
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", l.err, err)
		if errors.Is(err, errMoved) {
			l.err = err
		}
		return err
	}
	head, torn, err := verifyOn(l.synced, a.rest, each)
	if err == nil && torn > maxTorn/2 {
		err = fmt.Errorf("%d bytes are torn: restart the member", torn) // which bounds them too
	}
	if err != nil {
		return fmt.Errorf("%w: %w", l.err, errors.Join(err, a.file.Close()))
	}
	l.fail()
	_ = l.file.Close() // nothing is in it that could still be lost
	l.file, l.head, l.synced = a.file, head, head
	l.size, l.torn = l.keeps+int64(len(a.rest)), bytes.Clone(a.rest[len(a.rest)-torn:])
	l.keeps, l.behind = l.size-int64(torn), l.torn
	l.err, l.failed = nil, nil
	return nil
}

// fail tells those who wait in a broken log. The caller holds the lock.
func (l *Log) fail() {
	l.batch.err = l.err
	close(l.batch.done)
	l.batch, l.buf = &batch{done: make(chan struct{})}, nil
}

// openAgain opens the file at path once more, if it is the one that was opened,
// and makes sure of what is in it from an offset on.
func openAgain(path string, opened fs.FileInfo, from int64, most int) (a reopened, err error) {
	if a.rest, err = makeSure(path, opened, from, most); err == nil {
		a.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	}
	return a, err
}

// makeSure writes what a file has from an offset on once more, in its place, and
// returns it: most bytes at most, for more is not ours. After a failed fsync, in
// this process or one before, the system may show what the disk never got, and what
// is appended to that would follow a hole.
func makeSure(path string, opened fs.FileInfo, from int64, most int) (rest []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	now, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !os.SameFile(opened, now), now.Size() < from, now.Size()-from > int64(most):
		return nil, errMoved
	}
	rest = make([]byte, now.Size()-from)
	if _, err := f.ReadAt(rest, from); err != nil && len(rest) > 0 {
		return nil, err
	}
	if _, err := f.WriteAt(rest, from); err != nil {
		return nil, err
	}
	return rest, f.Sync()
}

// beSure has what a process before left on the disk, before anything is appended.
func (l *Log) beSure() error {
	if l.sure == nil {
		return nil
	}
	err := l.sure()
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", errMoved, err)
	}
	if err == nil {
		l.sure = nil
	}
	return err
}

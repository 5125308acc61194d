package audit

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/landfall-project/landfall/pkg/disk/disktest"
)

// limited is a disk that takes so many bytes more, and then, once, so many fsyncs
// that fail.
type limited struct {
	*os.File
	room  int
	syncs int
}

func (f *limited) Write(p []byte) (int, error) {
	if len(p) <= f.room {
		f.room -= len(p)
		return f.File.Write(p)
	}
	n, err := f.File.Write(p[:f.room])
	f.room = 0
	return n, errors.Join(err, syscall.ENOSPC)
}

func (f *limited) Sync() error {
	if f.syncs > 0 {
		f.syncs--
		return syscall.EIO
	}
	return f.File.Sync()
}

// broken opens a log of three lines and lets an append fail.
func broken(t *testing.T, path string, disk limited) *Log {
	t.Helper()
	l, err := Open(path, Head{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	disk.File = l.file.(*os.File)
	l.file = &disk
	if err := l.Append(context.Background(), Record{Event: "release", Device: "refused"}); !errors.Is(err, ErrBroken) {
		t.Fatalf("append: %v, want %v", err, ErrBroken)
	}
	if err := l.Append(context.Background(), Record{Event: "release"}); !errors.Is(err, ErrBroken) {
		t.Fatalf("a second append: %v, want %v", err, ErrBroken)
	}
	return l
}

// With room again the log goes on in the same process. What a failed write left is
// accounted for if it is torn, and counts if it is whole, whose bytes are written
// once more.
func TestReopen(t *testing.T) {
	for name, tt := range map[string]struct {
		disk        limited
		lines, torn int
	}{
		"no room":           {limited{}, 4, 0},
		"room for a part":   {limited{room: 40}, 5, 1}, // with the line that accounts for it
		"an fsync that was": {limited{room: 1 << 20, syncs: 1}, 5, 0},
	} {
		path := newFile(t, 3)
		l := broken(t, path, tt.disk)
		if head, err := l.Head(); head.Number != 3 || err == nil {
			t.Errorf("%s: while broken the head is %v, %v", name, head, err)
		}
		for range 2 { // the second time there is nothing to do
			if err := l.Reopen(nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := errors.Join(l.Append(context.Background(), Record{Event: "release"}), l.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		head, rest, err := Verify(read(t, path), nil)
		if err != nil || rest != 0 || head.Number != uint64(tt.lines) || head.Torn != tt.torn {
			t.Errorf("%s: %d lines, %d of them for torn ones, %d bytes, %v; want %d, %d", name, head.Number, head.Torn, rest, err, tt.lines, tt.torn)
		}
		if now, err := l.Head(); err != nil || now != head {
			t.Errorf("%s: the log says it ends at %v, %v; it ends at %v", name, now, err, head)
		}
	}
}

// short is a disk with less room than a batch takes.
type short struct {
	*stalled
	room int
}

func (f *short) Write(p []byte) (int, error) {
	n, err := f.stalled.Write(p[:min(len(p), f.room)])
	if f.room -= n; n < len(p) {
		err = errors.Join(err, syscall.ENOSPC)
	}
	return n, err
}

// What gathered behind a slow fsync may be long: it is ours, however long.
func TestReopenALongBatch(t *testing.T) {
	path := newFile(t, 3)
	l, err := Open(path, Head{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := &stalled{File: l.file.(*os.File), began: make(chan struct{}), gate: make(chan struct{})}
	l.file = &short{stalled: file, room: 3 << 20}
	var last *batch
	for i := range 150 {
		if last, err = l.enqueue(Record{Event: "release", Detail: strings.Repeat("d", MaxLine-1000)}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			<-file.began
		}
	}
	close(file.gate)
	if <-last.done; !errors.Is(last.err, ErrBroken) {
		t.Fatalf("got %v, want %v", last.err, ErrBroken)
	}
	if err := errors.Join(l.Reopen(nil), l.Append(context.Background(), Record{Event: "release"}), l.Close()); err != nil {
		t.Error(err)
	}
	if head, rest, err := Verify(read(t, path), nil); err != nil || rest != 0 || head.Number < 80 {
		t.Errorf("%d lines, %d bytes are torn, %v", head.Number, rest, err)
	}
}

// A log stays broken while its file is not what was left: that is for people.
func TestReopenLooks(t *testing.T) {
	for name, change := range map[string]func(path string, text []byte) error{
		"removed": func(path string, _ []byte) error { return os.Remove(path) },
		"cut":     func(path string, text []byte) error { return os.Truncate(path, int64(len(text)/2)) },
		"exchanged": func(path string, text []byte) error {
			return errors.Join(os.Remove(path), os.WriteFile(path, text, 0o600))
		},
		"longer": func(path string, text []byte) error { return os.WriteFile(path, append(text, "a line\n"...), 0o600) },
		"forged": func(path string, text []byte) error { // a line that follows
			head, _, err := Verify(text, nil)
			if err != nil {
				return err
			}
			line, err := encode(&Record{Number: head.Number + 1, Prev: hex.EncodeToString(head.Hash[:]), Event: "accepted", Device: "theirs"})
			return errors.Join(err, os.WriteFile(path, append(append(text, line...), '\n'), 0o600))
		},
	} {
		path := newFile(t, 3)
		l := broken(t, path, limited{})
		if err := change(path, read(t, path)); err != nil {
			t.Fatal(err)
		}
		if err := l.Reopen(nil); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v, want %v", name, err, ErrBroken)
		}
		if err := l.Append(context.Background(), Record{Event: "release"}); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: append: %v, want %v", name, err, ErrBroken)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	// What was seen to be another file while it was written stays broken too.
	path := newFile(t, 3)
	l, err := Open(path, Head{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(context.Background(), Record{Event: "release"}); !errors.Is(err, ErrBroken) {
		t.Errorf("append to a file that is away: %v", err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(nil); !errors.Is(err, errMoved) {
		t.Errorf("%v, want %v", err, errMoved)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// What a process before left may be in the system's memory alone, after an fsync
// that failed: it is written once more before anything is appended to it.
func TestWhatWasThereIsMadeSure(t *testing.T) {
	path := newFile(t, 3)
	text := read(t, path)
	d := disktest.New(t, bytes.Clone(text)) // it writes there
	info, err := os.Stat(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	if rest, err := makeSure(d.Path(), info, 100, len(text)-100); err != nil || !bytes.Equal(rest, text[100:]) {
		t.Errorf("%d bytes, %v; want %d", len(rest), err, len(text)-100)
	}
	var written []byte
	log := d.Log()
	for _, e := range log[:len(log)-1] {
		written = append(written, e.Data...)
	}
	if !bytes.Equal(written, text[100:]) || log[0].Offset != 100 || log[len(log)-1].Data != nil {
		t.Errorf("%d bytes were written from %d on, want %d from 100 on, then a flush", len(written), log[0].Offset, len(text)-100)
	}

	l, err := Open(path, Head{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	asked, sure := 0, l.sure
	l.sure = func() error {
		if asked++; asked == 1 {
			return syscall.EIO
		}
		return sure()
	}
	if err := l.Append(context.Background(), Record{Event: "release"}); !errors.Is(err, ErrBroken) {
		t.Errorf("on what may not be there: %v, want %v", err, ErrBroken)
	}
	if now := read(t, path); !bytes.Equal(now, text) {
		t.Errorf("it was written to: %d bytes, want %d", len(now), len(text))
	}
	if err := l.Reopen(nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Append(context.Background(), Record{Event: "release"}); err != nil {
			t.Error(err)
		}
	}
	if err := l.Close(); err != nil || asked != 2 {
		t.Errorf("asked %d times, want 2; %v", asked, err)
	}
}

package audit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/disk/disktest"
)

// stalled is a disk whose first flush waits.
type stalled struct {
	*os.File
	began chan struct{} // closed when the first flush has begun
	gate  chan struct{} // closed when it may go on
	again bool
}

func (f *stalled) Sync() error {
	if !f.again {
		f.again = true
		close(f.began)
		<-f.gate
	}
	return f.File.Sync()
}

// What gathers behind one slow flush is written so that a power cut at any write
// leaves a log that a member starts with.
func TestCutsOfALargeBatch(t *testing.T) {
	d := disktest.New(t, make([]byte, 8<<20))
	file, err := os.OpenFile(d.Path(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := &stalled{File: file, began: make(chan struct{}), gate: make(chan struct{})}
	l := newLog(f, Head{}, time.Now)
	r := Record{Event: "release", Detail: strings.Repeat("d", MaxLine-1000)}
	wait := make([]*batch, 0, 200)
	for i := range cap(wait) {
		b, err := l.enqueue(r)
		if err != nil {
			t.Fatal(err)
		}
		if wait = append(wait, b); i == 0 {
			<-f.began
		}
	}
	close(f.gate)
	for _, b := range wait {
		if <-b.done; b.err != nil {
			t.Fatal(b.err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	log := d.Log()
	if n, least := len(log), 2*(1+cap(wait)*len(r.Detail)/maxWrite); n < least {
		t.Errorf("%d writes and flushes, want %d at least", n, least)
	}
	cuts := disktest.Cuts(log, 7)
	for i := range log {
		cuts = append(cuts, disktest.Cut{N: i + 1, Kind: disktest.Gone})
	}
	for _, c := range cuts {
		size := int64(0) // as the file got it, with zeros where nothing came
		for _, e := range log[:c.N] {
			size = max(size, e.Offset+int64(len(e.Data)))
		}
		data := c.Image(make([]byte, 8<<20), log)[:size]
		if head, rest, err := Verify(data, nil); err != nil || rest > maxWrite {
			t.Errorf("cut %v: %d bytes of %d are torn behind line %d, %v", c, rest, size, head.Number, err)
		}
	}
}

// full is a disk that takes a part of the first write, and has room again for
// what comes next.
type full struct {
	*os.File
	began chan struct{} // closed when the first write has begun
	gate  chan struct{} // closed when it may go on
	again bool
}

func (f *full) Write(p []byte) (int, error) {
	if f.again {
		return f.File.Write(p)
	}
	f.again = true
	close(f.began)
	<-f.gate
	n, err := f.File.Write(p[:len(p)/2])
	return n, errors.Join(err, syscall.ENOSPC)
}

// Behind half a line nothing is written, not even what has gathered meanwhile: a
// member that is restarted starts, and accounts for the half.
func TestNothingFollowsAFailedWrite(t *testing.T) {
	path := newFile(t, 3)
	head, _, err := Verify(read(t, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := &full{File: file, began: make(chan struct{}), gate: make(chan struct{})}
	l := newLog(f, head, time.Now)
	var wait []*batch
	for range 2 {
		b, err := l.enqueue(Record{Event: "release"})
		if err != nil {
			t.Fatal(err)
		}
		wait = append(wait, b)
		<-f.began
	}
	close(f.gate)
	for i, b := range wait {
		if <-b.done; !errors.Is(b.err, ErrBroken) || !strings.HasSuffix(b.err.Error(), "no space left on device; make room on its file system") {
			t.Errorf("batch %d: %v", i, b.err)
		}
	}
	if err := l.Append(context.Background(), Record{Event: "release"}); !errors.Is(err, ErrBroken) {
		t.Errorf("later: %v, want %v", err, ErrBroken)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	again, err := Open(path, head, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(again.Append(context.Background(), Record{Event: "start"}), again.Close()); err != nil {
		t.Fatal(err)
	}
	if now, rest, err := Verify(read(t, path), nil); err != nil || rest != 0 || now.Torn != 1 || now.Number != head.Number+2 {
		t.Errorf("head %+v, %d bytes are torn, %v; want %d lines, one of them for the half", now, rest, err, head.Number+2)
	}
}

// What is longer than power cuts leave it is a change, also with a line that
// accounts for it; what is taken for torn can be accounted for.
func TestTornIsBounded(t *testing.T) {
	good := read(t, newFile(t, 3))
	head, _, err := Verify(good, nil)
	if err != nil {
		t.Fatal(err)
	}
	for torn, want := range map[int]error{maxTorn: nil, maxTorn + 1: ErrChain} {
		data := append(bytes.Clone(good), make([]byte, torn)...)
		if _, rest, err := Verify(data, nil); !errors.Is(err, want) || want == nil && rest != torn {
			t.Errorf("%d bytes: rest %d, %v; want %v", torn, rest, err, want)
		}
		f := &slowFile{}
		l := newLog(f, head, time.Now)
		l.torn = make([]byte, torn)
		if err := errors.Join(l.Append(context.Background(), Record{Event: "start"}), l.Close()); err != nil {
			t.Fatal(err)
		}
		data = append(data, f.data.Bytes()...)
		if _, rest, err := Verify(data, nil); !errors.Is(err, want) || rest != 0 {
			t.Errorf("%d bytes, accounted for: rest %d, %v; want %v", torn, rest, err, want)
		}
	}
}

// A durable line whose end somebody took is torn to all looks. The log claims
// nothing of it that it does not know, and says what tells.
func TestRecoveredClaimsNothing(t *testing.T) {
	data := read(t, newFile(t, 4))
	before, _, err := Verify(data[:bytes.LastIndexByte(data[:len(data)-1], '\n')+1], nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		known Head
		want  []string
	}{
		{Head{}, []string{"follow line 3 ", "somebody damaged", "of line 4 or later"}},
		{before, []string{"follow line 3 ", "somebody damaged", "the store saw line 3 last, and it is there", "of line 4 or later"}},
	} {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		if err := os.WriteFile(path, data[:len(data)-1], 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(path, c.known, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(l.Append(context.Background(), Record{Event: "start"}), l.Close()); err != nil {
			t.Fatal(err)
		}
		var got string
		if _, _, err := Verify(read(t, path), func(r Record) error {
			if r.Event == EventRecovered {
				got = r.Detail
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("known %d: %q does not say %q", c.known.Number, got, want)
			}
		}
		if c.known.Number == 0 && strings.Contains(got, "the store") {
			t.Errorf("nothing is known, but: %q", got)
		}
	}
}

package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func newFile(t *testing.T, lines int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := Create(path); err != nil {
		t.Fatal(err)
	}
	l, err := Open(path, Head{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range lines {
		r := Record{Event: "release", Device: fmt.Sprintf("r01-u%02d", i), Epoch: uint64(i)}
		if err := l.Append(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAppendAndVerify(t *testing.T) {
	path := newFile(t, 5)
	var devices []string
	head, rest, err := Verify(read(t, path), func(r Record) error {
		devices = append(devices, r.Device)
		return nil
	})
	if err != nil || rest != 0 || head.Number != 5 || head.Epoch != 4 || len(devices) != 5 {
		t.Fatalf("Verify = %v, rest %d, %v; %v", head, rest, err, devices)
	}
	l, err := Open(path, Head{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := l.Head(); got != head {
		t.Errorf("Head after Open = %v, want %v", got, head)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Append(context.Background(), Record{}); !errors.Is(err, ErrBroken) {
		t.Errorf("Append after Close: %v", err)
	}
	if _, err := Open(path+"x", Head{}, nil); !errors.Is(err, ErrNoLog) {
		t.Errorf("Open of a missing log: %v, want ErrNoLog", err)
	}
	if err := Create(path); err == nil {
		t.Error("Create replaced a log")
	}
}

func TestChangesAreFound(t *testing.T) {
	data := read(t, newFile(t, 5))
	lines := bytes.SplitAfter(data, []byte("\n"))[:5]
	join := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	for name, bad := range map[string][]byte{
		"a changed line":      bytes.Replace(data, []byte("r01-u02"), []byte("r01-u12"), 1),
		"a removed line":      join(lines[0], lines[1], lines[3], lines[4]),
		"the first removed":   join(lines[1:]...),
		"a doubled line":      join(lines[0], lines[1], lines[1], lines[2]),
		"swapped lines":       join(lines[0], lines[2], lines[1], lines[3]),
		"an empty line":       join(lines[0], []byte("\n"), lines[1]),
		"an unknown field":    join(lines[0], []byte("{\"x\":1}\n"), lines[1]),
		"another log's line":  join(lines[0], bytes.Split(read(t, newFile(t, 2)), []byte("\n"))[1], []byte("\n"), lines[2]),
		"a further field":     join(join(lines[:4]...), bytes.Replace(lines[4], []byte("}"), []byte(`,"x":1}`), 1)),
		"a line too long":     join(join(lines[:4]...), bytes.Replace(lines[4], []byte("}"), []byte(`,"detail":"`+strings.Repeat("x", MaxLine)+`"}`), 1)),
		"data after a record": join(lines[0], bytes.TrimSuffix(lines[1], []byte("\n")), []byte(" {}\n")),
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := Verify(bad, nil); !errors.Is(err, ErrChain) {
				t.Errorf("Verify: %v, want ErrChain", err)
			}
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(path, Head{}, nil); !errors.Is(err, ErrChain) {
				t.Errorf("Open: %v, want ErrChain", err)
			}
		})
	}
}

// A removed tail is not seen by the chain alone, but by a head that was kept
// and by the store's epoch.
func TestRemovedTailLowersTheHead(t *testing.T) {
	data := read(t, newFile(t, 5))
	whole, _, err := Verify(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	short, _, err := Verify(data[:bytes.LastIndexByte(data[:len(data)-1], '\n')+1], nil)
	if err != nil || short.Number >= whole.Number || short.Epoch >= whole.Epoch {
		t.Errorf("head of the cut log %v, of the whole one %v, %v", short, whole, err)
	}
}

// again opens a log as a member's start does, appends a line and closes it.
func again(t *testing.T, path string) {
	t.Helper()
	l, err := Open(path, Head{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Append(context.Background(), Record{Event: "start"}), l.Close()); err != nil {
		t.Fatal(err)
	}
}

// Every possible cut of the last batch is survived, named, and verifies later.
func TestPowerCutAtEveryByte(t *testing.T) {
	data := read(t, newFile(t, 4))
	keep := bytes.LastIndexByte(data[:len(data)-1], '\n') + 1
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	for cut := keep + 1; cut < len(data); cut++ {
		for _, zeros := range []int{0, 7} {
			torn := append(bytes.Clone(data[:cut]), make([]byte, zeros)...)
			if err := os.WriteFile(path, torn, 0o600); err != nil {
				t.Fatal(err)
			}
			again(t, path)
			again(t, path) // finds a clean log
			head, rest, err := Verify(read(t, path), nil)
			if err != nil || rest != 0 || head.Torn != 1 || head.Number != 3+1+2 {
				t.Fatalf("cut at %d of %d, %d zeros: head %v, torn %d, rest %d, %v", cut, len(data), zeros, head, head.Torn, rest, err)
			}
			if !bytes.HasPrefix(read(t, path), torn) {
				t.Fatal("recovery rewrote the log")
			}
		}
	}
}

// The start that accounts for a torn batch is cut off as well, at every byte.
func TestPowerCutWhileRecovering(t *testing.T) {
	data := read(t, newFile(t, 4))
	keep := bytes.LastIndexByte(data[:len(data)-1], '\n') + 1
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	for _, first := range []int{keep + 1, len(data) - 20, len(data) - 1} {
		if err := os.WriteFile(path, data[:first], 0o600); err != nil {
			t.Fatal(err)
		}
		again(t, path)
		recovered := read(t, path)
		for second := first; second < len(recovered); second++ {
			if err := os.WriteFile(path, recovered[:second], 0o600); err != nil {
				t.Fatal(err)
			}
			again(t, path)
			head, rest, err := Verify(read(t, path), nil)
			if err != nil || rest != 0 || head.Torn < 1 || !bytes.HasPrefix(read(t, path), recovered[:second]) {
				t.Fatalf("cuts at %d of %d, then at %d of %d: head %v, torn %d, rest %d, %v", first, len(data), second, len(recovered), head, head.Torn, rest, err)
			}
		}
	}
}

func TestLostPageInsideLastBatch(t *testing.T) {
	data := read(t, newFile(t, 6))
	i := bytes.Index(data, []byte("r01-u03"))
	clear(data[i-10 : i+20])
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(path, Head{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, path), data) {
		t.Error("opening a log wrote to it")
	}
	if err := l.Append(context.Background(), Record{Event: "start"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	good := read(t, path)
	head, _, err := Verify(good, nil)
	if err != nil || head.Number != 5 || head.Torn != 1 {
		t.Fatalf("head %v, %v", head, err)
	}
	// The torn part is covered by the recovery line.
	bad := bytes.Replace(good, []byte("r01-u05"), []byte("r01-u15"), 1)
	if _, _, err := Verify(bad, nil); !errors.Is(err, ErrChain) {
		t.Errorf("changed torn part: %v, want ErrChain", err)
	}
}

// slowFile counts fsyncs and can fail.
type slowFile struct {
	mu    sync.Mutex
	data  bytes.Buffer
	syncs int
	fail  bool
}

func (f *slowFile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.data.Write(p)
}

func (f *slowFile) Sync() error {
	time.Sleep(5 * time.Millisecond)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.syncs++
	if f.fail {
		return errors.New("input/output error")
	}
	return nil
}

func (f *slowFile) Close() error { return nil }

func TestGroupCommit(t *testing.T) {
	f := &slowFile{}
	l := newLog(f, Head{}, time.Now)
	var wg sync.WaitGroup
	const n = 200
	for range n {
		wg.Go(func() {
			if err := l.Append(context.Background(), Record{Event: "release"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if head, _, err := Verify(f.data.Bytes(), nil); err != nil || head.Number != n {
		t.Errorf("head %v, %v", head, err)
	}
	if f.syncs > n/4 {
		t.Errorf("%d fsyncs for %d concurrent records", f.syncs, n)
	}
	f.mu.Lock()
	f.fail = true
	f.mu.Unlock()
	for range 2 { // a later fsync that succeeds says nothing about lost pages
		if err := l.Append(context.Background(), Record{Event: "release"}); !errors.Is(err, ErrBroken) {
			t.Errorf("Append with a failing disk: %v, want ErrBroken", err)
		}
		f.mu.Lock()
		f.fail = false
		f.mu.Unlock()
	}
	if head, err := l.Head(); err == nil || head.Number != n {
		t.Errorf("Head = %v, %v; want the durable one and the error", head, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestTooLongRecord(t *testing.T) {
	l := newLog(&slowFile{}, Head{}, time.Now)
	defer func() { _ = l.Close() }()
	if err := l.Append(context.Background(), Record{Detail: strings.Repeat("x", MaxLine)}); err == nil {
		t.Error("a line above MaxLine was written")
	}
	if err := l.Append(context.Background(), Record{Detail: "x"}); err != nil {
		t.Errorf("the log is stuck: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte("{\"n\":1}\n"))
	f.Add([]byte("\x00\n\x00"))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := uint64(0)
		head, rest, err := Verify(data, func(Record) error { n++; return nil })
		if head.Number != n || rest < 0 || rest > len(data) {
			t.Errorf("head %v after %d lines, rest %d of %d, %v", head, n, rest, len(data), err)
		}
	})
}

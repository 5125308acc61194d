package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
)

// Run drives a scenario outside of a test: the demo and the benchmarks. What
// it logs goes to out. It returns what Fatalf said, after the cleanups.
func Run(ctx context.Context, out io.Writer, name string, fn func(T)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &runner{ctx: ctx, out: out, name: name}
	done := make(chan struct{})
	go func() {
		// Fatalf ends this goroutine; its cleanups run here too.
		defer close(done)
		defer r.cleanup()
		fn(r)
	}()
	<-done
	return r.err
}

// Attempt runs a part of the scenario that may be done again: it returns what
// Fatalf said instead of ending the scenario. What the part started has ended
// then.
func (l *Lab) Attempt(part func()) error {
	whole := l.T
	defer func() { l.T = whole }()
	return Run(whole.Context(), logger{whole}, whole.Name(), func(t T) {
		l.T = t
		part()
	})
}

// logger writes to a scenario's log.
type logger struct{ T }

func (l logger) Write(p []byte) (int, error) {
	l.Logf("%s", bytes.TrimSuffix(p, []byte("\n")))
	return len(p), nil
}

type runner struct {
	ctx  context.Context
	out  io.Writer
	name string

	mu       sync.Mutex
	err      error
	cleanups []func()
}

var _ T = (*runner)(nil)

func (r *runner) Helper()                  {}
func (r *runner) Name() string             { return r.name }
func (r *runner) Context() context.Context { return r.ctx }

func (r *runner) Logf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = fmt.Fprintf(r.out, format+"\n", args...) // a log that cannot be written must not end the scenario
}

func (r *runner) Fatalf(format string, args ...any) {
	f := &failure{text: fmt.Sprintf(format, args...)}
	for _, a := range args {
		if err, ok := a.(error); ok {
			f.causes = append(f.causes, err)
		}
	}
	r.mu.Lock()
	r.err = errors.Join(r.err, f)
	r.mu.Unlock()
	runtime.Goexit()
}

// failure is what Fatalf was told. The errors among its arguments stay within
// reach of errors.As: a test's Fatalf, which scenarios are written for as well,
// knows no %w.
type failure struct {
	text   string
	causes []error
}

func (f *failure) Error() string   { return f.text }
func (f *failure) Unwrap() []error { return f.causes }

func (r *runner) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err != nil
}

func (r *runner) Cleanup(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, fn)
}

// cleanup runs the cleanups, the last one first.
func (r *runner) cleanup() {
	r.mu.Lock()
	fns := slices.Clone(r.cleanups)
	r.mu.Unlock()
	for _, fn := range slices.Backward(fns) {
		fn()
	}
}

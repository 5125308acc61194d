package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// loud is the stage whose tests are shown while they run: each takes a minute,
// and what a machine says is how a person sees that it is alive.
const loud = "scenarios"

// keptIn is where the output of a stage stays that ran beside the others.
const keptIn = "out/suite"

// suite is one run.
type suite struct {
	out, errs io.Writer
	gotest    string
	before    surroundings
	stages    []*stage // those that ran, in the order given
	took      time.Duration
}

// stage is one target of the Makefile and what it measured.
type stage struct {
	name   string
	took   time.Duration
	failed bool
	results
}

// beside is a stage that runs while the others do.
type beside struct {
	stage *stage
	done  chan struct{} // closed when it ended
	err   error         // valid then
}

// failed says whether it ended, and failed.
func (b *beside) failed() bool {
	if b == nil {
		return false
	}
	select {
	case <-b.done:
		return b.err != nil
	default:
		return false
	}
}

// run makes the stages, all but aside one after another. A failure, of either,
// begins no further stage.
func (s *suite) run(ctx context.Context, names []string, aside string) error {
	var b *beside
	for i, name := range names {
		if i == 1 && aside != "" {
			var err error
			if b, err = s.start(ctx, aside); err != nil {
				return err
			}
		}
		if name == aside {
			continue
		}
		if b.failed() {
			break
		}
		st := &stage{name: name}
		s.stages = append(s.stages, st)
		if err := s.make(ctx, st, s.out, s.errs); err != nil {
			return errors.Join(err, s.wait(b))
		}
	}
	return s.wait(b)
}

// start begins a stage whose output goes to a file.
func (s *suite) start(ctx context.Context, name string) (*beside, error) {
	st, log, err := s.open(name)
	if err != nil {
		return nil, err
	}
	b := &beside{stage: st, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		b.err = errors.Join(s.make(ctx, st, log, log), log.Close())
	}()
	return b, nil
}

// open makes a stage and the file for its output.
func (s *suite) open(name string) (*stage, *os.File, error) {
	if err := os.MkdirAll(keptIn, 0o755); err != nil {
		return nil, nil, err
	}
	log, err := os.Create(filepath.Join(keptIn, name+".log"))
	if err != nil {
		return nil, nil, err
	}
	fmt.Fprintf(s.out, "suite: %s runs beside what follows: %s\n", name, log.Name())
	st := &stage{name: name}
	s.stages = append(s.stages, st)
	return st, log, nil
}

// wait shows what the stage beside the others said, from its beginning to its
// end. It is not cut short by a failure elsewhere: it says what it found.
func (s *suite) wait(b *beside) error {
	if b == nil {
		return nil
	}
	log, err := os.Open(filepath.Join(keptIn, b.stage.name+".log"))
	if err != nil {
		<-b.done
		return errors.Join(err, b.err)
	}
	defer log.Close()
	for {
		select {
		case <-b.done:
			_, err := io.Copy(s.out, log)
			return errors.Join(b.err, err)
		case <-time.After(time.Second):
			if _, err := io.Copy(s.out, log); err != nil {
				<-b.done
				return errors.Join(err, b.err)
			}
		}
	}
}

// make makes one target and reads what its tests report.
func (s *suite) make(ctx context.Context, st *stage, out, errs io.Writer) error {
	start := time.Now()
	defer func() { st.took = time.Since(start) }()
	cmd := exec.CommandContext(ctx, "make", "--no-print-directory", st.name, "GOTEST="+s.gotest)
	cmd.Stderr = errs
	// The tests have networks and machines to remove.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	read := st.read(bufio.NewReader(stdout), out, st.name == loud)
	if err := errors.Join(read, cmd.Wait()); err != nil {
		st.failed = true
		return fmt.Errorf("make %s: %w", st.name, err)
	}
	return nil
}

// of is the stage of that name.
func (s *suite) of(name string) *stage {
	i := slices.IndexFunc(s.stages, func(st *stage) bool { return st.name == name })
	if i < 0 {
		return &stage{name: name}
	}
	return s.stages[i]
}

// Suite runs the stages of make test and measures them.
//
// Synopsis:
//
//	suite [-beside STAGE] [-page FILE] STAGES
//
// Description:
//
//	STAGES are targets of the Makefile, made in the given order with
//	GOTEST="go test -json". What the tests say is shown as go test shows it: a
//	line for each package, all that a failed test printed, and every line of the
//	stage "scenarios" as it comes. The first stage that fails ends the run; its
//	exit status is then 1. The seconds of each stage are shown at the end.
//
// Options:
//
//	-beside STAGE  start STAGE when the first stage has passed, and do not hold up the others for it; its output is kept in out/suite and shown after theirs
//	-page FILE     run every test anew, and put the table of seconds between two marks in FILE: those of runs with caches, or those of runs that began without a .cache
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "suite:", err)
		os.Exit(1)
	}
}

type options struct {
	beside string
	page   string
	stages []string
}

func newFlags(o *options) *flag.FlagSet {
	flags := flag.NewFlagSet("suite", flag.ContinueOnError)
	flags.StringVar(&o.beside, "beside", "", "start STAGE when the first stage has passed, and do not hold up the others for it; its output is kept in out/suite and shown after theirs")
	flags.StringVar(&o.page, "page", "", "run every test anew, and put the table of seconds between two marks in FILE: those of runs with caches, or those of runs that began without a .cache")
	return flags
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	flags := newFlags(&o)
	flags.SetOutput(stderr)
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.stages = flags.Args()
	if len(o.stages) == 0 {
		return errors.New("usage: suite [-beside STAGE] [-page FILE] STAGES")
	}
	if o.beside != "" && slices.Index(o.stages, o.beside) < 1 {
		return fmt.Errorf("-beside %s is none of the stages after the first", o.beside)
	}
	s := &suite{out: stdout, errs: stderr, gotest: "go test -json", before: look(ctx)}
	if o.page != "" { // an hour later is too late to learn it
		if _, err := replaceTable(o.page, s.before.kind(), ""); err != nil {
			return err
		}
	}
	if o.page != "" {
		s.gotest += " -count=1"
	}
	start := time.Now()
	err := s.run(ctx, o.stages, o.beside)
	s.took = time.Since(start)
	fmt.Fprint(stdout, s.summary())
	if o.page == "" || err != nil {
		return err
	}
	page, err := replaceTable(o.page, s.before.kind(), s.table())
	if err != nil {
		return err
	}
	return os.WriteFile(o.page, []byte(page), 0o644)
}

// summary is a line for each stage.
func (s *suite) summary() string {
	var b strings.Builder
	for _, st := range s.stages {
		verdict := "passed"
		if st.failed {
			verdict = "FAILED"
		}
		fmt.Fprintf(&b, "suite: %-12s %s %7.1f s\n", st.name, verdict, st.took.Seconds())
	}
	fmt.Fprintf(&b, "suite: %-12s        %7.1f s\n", "together", s.took.Seconds())
	return b.String()
}

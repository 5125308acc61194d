package main

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/report"
)

// What seal exits with when it did not pass.
const (
	sealRetry  = 10
	sealReject = 20
)

// outcomeOfSeal is one run of seal, as it ended.
type outcomeOfSeal struct {
	err    error
	result *report.Factory // its result line; nil: it printed none
	next   string          // report.NextReboot or NextHold: all is sealed, and not accepted
	at     time.Duration   // uptime at its end
}

// read takes the result out of what seal prints.
func (o *outcomeOfSeal) read(text string) {
	document, ok := strings.CutPrefix(text, report.FactoryResultLine)
	if !ok {
		return
	}
	if f, err := report.ParseFactory([]byte(document)); err == nil {
		o.result = f
	}
}

// problem is what stands on the screen while the machine waits: seal's own
// words, where it had some.
func (o *outcomeOfSeal) problem() *report.Problem {
	var p *report.Problem
	if errors.As(o.err, &p) {
		return p
	}
	if r := o.result; r != nil && r.Code != "" {
		return &report.Problem{Code: r.Code, What: r.What, Do: r.Do}
	}
	if o.next == report.NextHold {
		return report.Errorf(report.FactoryAcceptance, "the server image has not opened and reported all volumes of this machine yet")
	}
	var exit *exec.ExitError
	switch {
	case errors.As(o.err, &exit) && exit.ExitCode() == sealReject:
		p = report.Errorf(report.HWFactory, "seal rejects this hardware (exit %d)", sealReject)
		p.Do = "take the machine out of the line; the reason is shown above"
	case errors.As(o.err, &exit) && exit.ExitCode() == sealRetry:
		p = report.Errorf(report.HWFactory, "seal wants to be run again (exit %d)", sealRetry)
	default:
		p = report.Errorf(report.HWFactory, "seal: %w", o.err)
	}
	return p
}

func (o *outcomeOfSeal) exit() int {
	var exit *exec.ExitError
	switch {
	case o.err == nil:
		return 0
	case errors.As(o.err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// then is what a factory boot does next.
type then int

const (
	thenAgain then = iota // the same, after a pause
	thenSeal              // provisioned: seal, at once
	thenReboot
	thenPowerOff
)

// step is a decision of line.after.
type step struct {
	then  then
	words string // what is done, for the console
	next  string // and what comes next

	// Of thenAgain:
	problem  *report.Problem
	pause    time.Duration
	held     time.Duration // since the first run that ended so
	show     bool          // it is new, or a minute old
	hardware bool          // a new device may be the repair
}

// Pauses between two runs of seal: the first one, doubling to the last one. A
// run costs the fleet a few quotes to verify.
const (
	firstRetry  = 2 * time.Second
	lastRetry   = 30 * time.Second
	firstAsk    = 10 * time.Second // for the fleet's acceptance
	rejectedFor = 5 * time.Minute
)

// line is where a machine stands on the factory line. It decides, and does
// nothing itself.
type line struct {
	station bool
	args    []string // of the next run of seal

	problem *report.Problem // what it holds for
	since   time.Duration
	shown   time.Duration
	pause   time.Duration
}

// after decides what to do after a run of seal.
func (l *line) after(o outcomeOfSeal) step {
	provisioning := slices.Contains(l.args, "provision")
	switch {
	case o.err == nil && provisioning && l.station:
		l.args, l.problem = nil, nil
		return step{then: thenSeal, words: "provisioned", next: "sealing, when the station has the slice"}
	case o.err == nil && provisioning:
		return step{then: thenPowerOff, words: "seal has finished: provisioned", next: "power off; start it when its slice is on the LANDFALL partition"}
	case o.err == nil:
		return step{then: thenPowerOff, words: "seal has finished: accepted by the fleet, safe to ship", next: "power off"}
	case o.exit() == sealRetry && o.next == report.NextReboot:
		return step{then: thenReboot, words: "seal has finished: sealed, not accepted yet", next: "reboot into the server image, which opens all volumes and reports"}
	}
	return l.wait(o)
}

// wait holds: longer each time, and from the beginning for another problem.
func (l *line) wait(o outcomeOfSeal) step {
	p := o.problem()
	first, last := firstRetry, lastRetry
	switch {
	case o.exit() == sealReject:
		first, last = rejectedFor, rejectedFor
	case p.Code == report.FactoryAcceptance:
		first = firstAsk
	}
	s := step{problem: p, hardware: o.exit() == sealReject}
	if l.problem == nil {
		l.since = o.at
	}
	if l.problem == nil || l.problem.Code != p.Code {
		l.pause = first
	} else {
		l.pause = min(2*l.pause, last)
	}
	if l.problem == nil || fmt.Sprint(l.problem) != fmt.Sprint(p) || o.at-l.shown >= showAgain {
		s.show, l.shown = true, o.at
	}
	l.problem = p
	s.pause, s.held = l.pause, o.at-l.since
	return s
}

package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// machine is what the whole boot shares: where it reads, what it prints, what
// it has seen. Values of the boot itself are passed from step to step.
type machine struct {
	root     string // "/", or a folder in tests
	consoles *consoles
	wake     chan struct{} // a value: look again now
	// reboot is reboot(2). Tests have none: they run as root on somebody's
	// machine.
	reboot     func(command int) error
	crashPause time.Duration
	plan       []string // the steps, to number them
	evidence   evidence

	mu       sync.Mutex
	name     string // device ID, once known
	serial   string
	secrets  []*secret.Bytes
	noted    map[string]bool
	steps    []report.BootStep
	warnings []*report.Problem
	last     time.Duration // uptime at the end of the last step
	holding  report.Code   // what is on the screen; "": nothing
	passed   bool          // the links: see board
}

// The steps of a server's boot, as the log counts them.
func serverSteps() []string {
	return []string{"hardware", "slice", "tpm", "lease", "links", "key", "unwrap", "disks", "root", "kernel", "report", "leave"}
}

// The steps of a device that serves others and stays.
func stayingSteps() []string {
	return []string{"hardware", "slice", "tpm", "address", "links"}
}

func (m *machine) logf(format string, args ...any) {
	m.consoles.Print("landfall: " + fmt.Sprintf(format, args...))
}

// note logs a line that repeats itself in every attempt, once.
func (m *machine) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	m.mu.Lock()
	known := m.noted[text]
	if m.noted == nil || len(m.noted) > 64 {
		m.noted = map[string]bool{}
	}
	m.noted[text] = true
	m.mu.Unlock()
	if !known {
		m.logf("%s", text)
	}
}

// warn shows a problem that stops nothing, and keeps it for the report: once,
// though a step that holds meets it in every attempt.
func (m *machine) warn(p *report.Problem) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.ContainsFunc(m.warnings, func(w *report.Problem) bool { return w.Code == p.Code && w.What == p.What }) {
		return
	}
	m.warnings = append(m.warnings, p)
	info, _ := report.Lookup(p.Code)
	m.consoles.Print(fmt.Sprintf("landfall: warning %s %s: %s", p.Code, info.Title, p.What))
}

// done logs the end of a step and its time.
func (m *machine) done(step string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := uptime()
	took := now - m.last
	m.last = now
	m.holding = ""
	m.steps = append(m.steps, report.BootStep{Name: step, Seconds: took.Seconds()})
	count := ""
	if n := slices.Index(m.plan, step); n >= 0 {
		count = fmt.Sprintf(" (%d/%d)", n+1, len(m.plan))
	}
	m.consoles.Print(fmt.Sprintf("landfall: step %s%s: done, %s at %s", step, count, seconds(took), seconds(now)))
}

// Times between two looks of a step that holds. The first ones are short: most
// troubles at power-on are somebody else's few seconds.
const (
	firstLook = 300 * time.Millisecond
	lastLook  = 15 * time.Second
	showAgain = time.Minute
)

// hold runs one step until it succeeds. Between attempts it shows what is
// wrong: once, when it changes, and every minute.
func hold[T any](m *machine, step string, try func() (T, error)) T {
	var shown string
	var shownAt, since time.Duration
	for wait := firstLook; ; wait = min(2*wait, lastLook) {
		v, err := try()
		now := uptime()
		if err == nil {
			if since != 0 {
				m.logf("hold ended after %s", seconds(now-since))
			}
			m.done(step)
			return v
		}
		if since == 0 {
			since = now
		}
		p := problem(err)
		m.holdsAt(p.Code)
		pause := jitter(wait)
		if text := string(p.Code) + p.What; text != shown || now-shownAt > showAgain {
			shown, shownAt = text, now
			m.show(p, now-since, pause)
		}
		m.pause(pause)
	}
}

// holdsAt keeps the code of the step that holds, for the board of a switch. What
// else is shown meanwhile, as of a daemon, holds nothing.
func (m *machine) holdsAt(code report.Code) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.holding = code
}

// pause waits until the time is up, or something has changed that a hold may
// have waited for: a lease, a new device.
func (m *machine) pause(d time.Duration) {
	select {
	case <-m.wake:
	case <-time.After(d):
	}
}

// quiet forgets what has changed so far.
func (m *machine) quiet() {
	select {
	case <-m.wake:
	default:
	}
}

// changed ends a pause early.
func (m *machine) changed() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// problem gives an error without a code the code of a fault in this program.
func problem(err error) *report.Problem {
	var p *report.Problem
	if errors.As(err, &p) {
		return p
	}
	return report.Errorf(report.HWPanic, "%w", err)
}

// show prints the board that a technician reads.
func (m *machine) show(p *report.Problem, held, next time.Duration) {
	info, _ := report.Lookup(p.Code)
	m.mu.Lock()
	name, serial := m.name, m.serial
	m.mu.Unlock()
	if name == "" {
		name = "unknown device"
	}
	if serial != "" {
		serial = "  SN " + serial
	}
	end := "This server goes on by itself."
	if info.Wait == report.Fixed {
		end = "Waiting repairs nothing here."
	}
	head := fmt.Sprintf("%s%s   HOLD %s   %s %s", name, serial, held.Round(time.Second), p.Code, info.Title)
	m.consoles.Print(fmt.Sprintf("\n%s\n  %s\n  DO   %s\n  %s Next look in %s.\n", wrap(head, "  "),
		wrap(strings.ReplaceAll(p.What, "; PCR ", "\nPCR "), "  "), wrap(p.Repair(), "       "), end, next.Round(100*time.Millisecond)))
}

// columns is what every console has; a serial one does not tell its width.
const columns = 80

// wrap breaks lines between words so that they fit a console behind an
// indentation, which the first line has already. A longer word stays whole.
func wrap(text, indent string) string {
	var b strings.Builder
	for i, line := range strings.Split(text, "\n") {
		if i > 0 {
			b.WriteString("\n" + indent)
		}
		at := len(indent)
		for j, word := range strings.Split(line, " ") {
			n := utf8.RuneCountInString(word)
			switch {
			case j == 0:
			case at+1+n < columns:
				b.WriteString(" ")
				at++
			default:
				b.WriteString("\n" + indent)
				at = len(indent)
			}
			b.WriteString(word)
			at += n
		}
	}
	return b.String()
}

// jitter spreads a wait over 75 % to 125 %: a hall full of machines was
// switched on at one moment.
func jitter(d time.Duration) time.Duration {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(d)/2+1))
	if err != nil {
		return d
	}
	return d*3/4 + time.Duration(n.Int64())
}

// later is a value that is being made while the boot goes on.
type later[T any] struct {
	ready chan struct{}
	value T
	err   error
}

// start runs f beside the boot. A panic there ends the machine as one in the
// boot itself would.
func start[T any](m *machine, f func() (T, error)) *later[T] {
	l := &later[T]{ready: make(chan struct{})}
	go func() {
		defer close(l.ready)
		defer m.recoverPanic()
		l.value, l.err = f()
	}()
	return l
}

func (l *later[T]) wait() (T, error) {
	<-l.ready
	return l.value, l.err
}

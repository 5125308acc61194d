package vm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// tailLines is how many console lines an error carries.
const tailLines = 40

// Console is a serial port of the guest. What it prints is kept, with the
// host's time since the machine's start at each line, and written to a log.
type Console struct {
	name  string
	conn  net.Conn
	start time.Time
	log   *bufio.Writer
	file  *os.File

	mu      sync.Mutex
	buf     []byte
	marks   []mark // when each line began
	pos     int    // Expect searches from here
	changed chan struct{}
	ended   bool
}

type mark struct {
	offset int
	at     time.Duration
}

// Match is what Expect found.
type Match struct {
	Groups []string      // the whole match, then the parenthesised groups
	At     time.Duration // since the machine's start, when the line began
}

func newConsole(name, logPath string, conn net.Conn, start time.Time) (*Console, error) {
	f, err := os.Create(logPath)
	if err != nil {
		return nil, fmt.Errorf("console log: %w", err)
	}
	return &Console{name: name, conn: conn, start: start, file: f, log: bufio.NewWriter(f), changed: make(chan struct{})}, nil
}

// read copies the guest's output until the connection ends.
func (c *Console) read() {
	chunk := make([]byte, 4096)
	for {
		n, err := c.conn.Read(chunk)
		c.add(chunk[:n], time.Since(c.start))
		if err != nil {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	close(c.changed)
	_ = errors.Join(c.log.Flush(), c.file.Close()) // the log is a help for people; losing its end must not fail a scenario
}

func (c *Console) add(p []byte, at time.Duration) {
	if len(p) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(p) > 0 {
		if len(c.buf) == 0 || c.buf[len(c.buf)-1] == '\n' {
			c.marks = append(c.marks, mark{len(c.buf), at})
			fmt.Fprintf(c.log, "[%8.3f] ", at.Seconds())
		}
		n := bytes.IndexByte(p, '\n') + 1
		if n == 0 {
			n = len(p)
		}
		c.buf = append(c.buf, p[:n]...)
		_, _ = c.log.Write(p[:n])
		p = p[n:]
	}
	_ = c.log.Flush()
	close(c.changed)
	c.changed = make(chan struct{})
}

// Send types a line.
func (c *Console) Send(line string) error {
	if _, err := io.WriteString(c.conn, line+"\n"); err != nil {
		return fmt.Errorf("type on %s: %w", c.name, err)
	}
	return nil
}

// Expect waits until the console has printed something that re matches, after
// what the last Expect matched. It fails at the timeout, when ctx ends and
// when the machine ends; the error then carries the last lines.
func (c *Console) Expect(ctx context.Context, re *regexp.Regexp, timeout time.Duration) (*Match, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		m, changed, ended := c.find(re)
		switch {
		case m != nil:
			return m, nil
		case ended:
			return nil, c.fail(fmt.Errorf("machine ended before it printed %q", re))
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil, c.fail(fmt.Errorf("no %q within %v", re, timeout))
		case <-ctx.Done():
			return nil, c.fail(fmt.Errorf("waiting for %q: %w", re, context.Cause(ctx)))
		}
	}
}

func (c *Console) find(re *regexp.Regexp) (*Match, <-chan struct{}, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	loc := re.FindSubmatchIndex(c.buf[c.pos:])
	if loc == nil {
		return nil, c.changed, c.ended
	}
	m := &Match{}
	for i := 0; i < len(loc); i += 2 {
		group := ""
		if loc[i] >= 0 {
			group = string(c.buf[c.pos+loc[i] : c.pos+loc[i+1]])
		}
		m.Groups = append(m.Groups, group)
	}
	begin := c.pos + loc[0]
	for _, mk := range c.marks {
		if mk.offset > begin {
			break
		}
		m.At = mk.at
	}
	c.pos += loc[1]
	return m, nil, c.ended
}

// follow calls fn for each match of re, at most n times, when it is printed. It
// returns after the last one or when the machine ends, and leaves Expect's
// position alone.
func (c *Console) follow(re *regexp.Regexp, n int, fn func()) {
	for from := 0; n > 0; {
		c.mu.Lock()
		loc, changed, ended := re.FindIndex(c.buf[from:]), c.changed, c.ended
		c.mu.Unlock()
		switch {
		case loc != nil:
			from += loc[1]
			n--
			fn()
		case ended:
			return
		default:
			<-changed
		}
	}
}

// Output is everything printed so far, carriage returns removed.
func (c *Console) Output() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.ReplaceAll(string(c.buf), "\r", "")
}

// Line is a line of a console and when it began, since the machine's start.
type Line struct {
	At   time.Duration
	Text string // without line end
}

// Lines is everything printed so far.
func (c *Console) Lines() []Line {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines := make([]Line, len(c.marks))
	for i, m := range c.marks {
		end := len(c.buf)
		if i+1 < len(c.marks) {
			end = c.marks[i+1].offset
		}
		lines[i] = Line{m.at, strings.TrimRight(string(c.buf[m.offset:end]), "\r\n")}
	}
	return lines
}

// Tail is the last n lines, and more where they would begin behind the line in
// which a kernel says why it panicked: registers and traces of any length
// follow it.
func (c *Console) Tail(n int) string {
	lines := strings.Split(strings.TrimRight(c.Output(), "\n"), "\n")
	from := max(0, len(lines)-n)
	for i, line := range lines[:from] {
		if strings.Contains(line, "Kernel panic") {
			from = i
			break
		}
	}
	return strings.Join(lines[from:], "\n")
}

func (c *Console) fail(err error) error {
	err = fmt.Errorf("%s: %w; last lines:\n%s\n(whole log: %s)", c.name, err, c.Tail(tailLines), c.file.Name())
	return starved(err, c.Output())
}

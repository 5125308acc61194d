package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// columns is what a line may be wide.
const columns = 96

// quiet is how long nothing may be printed where there is no terminal to count
// seconds on.
const quiet = 15 * time.Second

// screen prints numbered stages, the lines that belong to them, and how long
// they took. On a terminal the running stage counts its seconds.
type screen struct {
	out      io.Writer
	terminal bool

	mu      sync.Mutex
	number  int
	title   string
	began   time.Time
	running bool
	ticking bool      // a counting line is on the terminal
	printed time.Time // the last line
	start   time.Time
	done    chan struct{}
	once    sync.Once
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out, start: time.Now(), done: make(chan struct{})}
	if f, ok := out.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		s.terminal = err == nil
	}
	go s.tick()
	return s
}

// close ends the counting.
func (s *screen) close() {
	s.once.Do(func() { close(s.done) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
}

func (s *screen) tick() {
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-every.C:
			s.count()
		}
	}
}

func (s *screen) count() {
	s.mu.Lock()
	defer s.mu.Unlock()
	elapsed := time.Since(s.began)
	switch {
	case !s.running || elapsed < 2*time.Second:
	case s.terminal:
		s.erase()
		s.write("    … %.0f s", elapsed.Seconds())
		s.ticking = true
	case time.Since(s.printed) > quiet:
		s.write("    … %.0f s\n", elapsed.Seconds())
		s.printed = time.Now()
	}
}

// erase removes the counting line.
func (s *screen) erase() {
	if s.ticking {
		s.write("\r\x1b[K")
		s.ticking = false
	}
}

func (s *screen) write(format string, args ...any) {
	_, _ = fmt.Fprintf(s.out, format, args...) // a demo that nobody can see has nothing to tell them
}

// stage runs one chapter.
func (s *screen) stage(title, why string, fn func()) {
	s.mu.Lock()
	s.number++
	s.title, s.began, s.running, s.printed = title, time.Now(), true, time.Now()
	s.write("\n%s\n", s.bold(fmt.Sprintf("%2d  %s", s.number, title)))
	for _, l := range strings.Split(why, "\n") {
		s.write("    %s\n", l)
	}
	s.mu.Unlock()
	fn()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = false
	s.erase()
	s.write("    %s\n", s.green(fmt.Sprintf("✓ %.1f s", time.Since(s.began).Seconds())))
}

// line prints a line of a program or console.
func (s *screen) line(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	s.write("    %s %s\n", s.dim("│"), cut(text, columns-6))
	s.printed = time.Now()
}

// block prints several lines below an empty one; long ones go on indented.
func (s *screen) block(text string) {
	s.line("")
	for l := range strings.Lines(strings.Trim(text, "\n") + "\n") {
		for _, part := range wrap(strings.TrimRight(l, "\n"), columns-6) {
			s.line(part)
		}
	}
}

// wrap breaks a line between words into lines of at most n characters, unless
// one word is longer.
func wrap(text string, n int) []string {
	const indent = "        "
	var lines []string
	for {
		if r := []rune(text); len(r) <= n {
			return append(lines, text)
		}
		at := strings.LastIndexByte(string([]rune(text)[:n]), ' ')
		if strings.TrimSpace(text[:max(at, 0)]) == "" {
			return append(lines, text)
		}
		lines = append(lines, strings.TrimRight(text[:at], " "))
		text = indent + strings.TrimLeft(text[at:], " ")
	}
}

// cut shortens a line to n characters.
func cut(text string, n int) string {
	r := []rune(strings.ReplaceAll(text, "\t", "  "))
	if len(r) <= n {
		return string(r)
	}
	return string(r[:n-1]) + "…"
}

func (s *screen) bold(t string) string  { return s.styled("1", t) }
func (s *screen) dim(t string) string   { return s.styled("2", t) }
func (s *screen) green(t string) string { return s.styled("32", t) }

func (s *screen) styled(code, t string) string {
	if !s.terminal || os.Getenv("NO_COLOR") != "" {
		return t
	}
	return "\x1b[" + code + "m" + t + "\x1b[0m"
}

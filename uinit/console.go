package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/printable"
)

// consoles writes lines to every console of the kernel. Each has its own
// writer, so that a terminal with flow control that nobody reads costs nothing
// but its own lines.
type consoles struct {
	mu    sync.Mutex
	lines []chan string
	wg    sync.WaitGroup
}

const (
	consoleQueue = 256
	flushTime    = 300 * time.Millisecond
)

// openConsoles opens what /sys/class/tty/console/active lists ("tty0 ttyS0").
// Without any it takes /dev/console, without that nothing.
func openConsoles(sys, dev string) *consoles {
	c := new(consoles)
	active, _ := os.ReadFile(sys + "/class/tty/console/active") // absent: /dev/console
	for _, name := range strings.Fields(string(active)) {
		c.add(dev + "/" + name)
	}
	if len(c.lines) == 0 {
		c.add(dev + "/console")
	}
	return c
}

func (c *consoles) add(path string) {
	// Not the controlling terminal: no key pressed there reaches uinit.
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	ch := make(chan string, consoleQueue)
	c.lines = append(c.lines, ch)
	c.wg.Go(func() {
		defer f.Close()
		for line := range ch {
			// Nobody is left to tell about a console that fails.
			_, _ = f.WriteString(line)
		}
	})
}

// Print writes lines to all consoles. It never blocks: what a console does not
// take is dropped there.
func (c *consoles) Print(text string) {
	text = strings.ReplaceAll(printable.Text(text), "\n", "\r\n") + "\r\n"
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.lines {
		select {
		case ch <- text:
		default:
		}
	}
}

// Flush waits, but not for ever, until all is written, and closes the consoles.
func (c *consoles) Flush() {
	c.mu.Lock()
	for _, ch := range c.lines {
		close(ch)
	}
	c.lines = nil
	c.mu.Unlock()
	done := make(chan struct{})
	go func() { c.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(flushTime):
	}
}

// uptime is the time since the kernel started, as in its own messages. It does
// not depend on the clock of the machine.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2fs", d.Seconds()) }

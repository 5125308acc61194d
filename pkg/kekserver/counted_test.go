//go:build !race

package kekserver_test

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/qemu/perfpage"
)

// release is one device's, on a connection of its own.
func (l *load) release(t testing.TB) {
	t.Helper()
	const id = "d0"
	c := &kekclient.Client{Members: l.members, CA: l.ca, Device: id}
	r, err := c.Release(context.Background(), l.aks[id], 1)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
}

// TestCountedAllocations compares the allocations of a release, at both ends,
// with docs/performance.md.
func TestCountedAllocations(t *testing.T) {
	l, dir := newLoad(t, "https://127.0.0.1:7443")
	f := &region{t: t, dir: dir}
	f.start()
	l.members[0].URL = "https://" + f.devices
	n := testing.AllocsPerRun(100, func() { l.release(t) })
	check(t, perfpage.Release, int64(n))
}

func check(t *testing.T, figure string, n int64) {
	t.Helper()
	if err := perfpage.Check(figure, perfpage.Count{Numbers: []int64{n}}); err != nil {
		t.Error(err)
	}
}

// TestCountedCalls compares what kekd asks of the kernel for a release with
// docs/performance.md: the calls between the acceptances of two connections,
// since what a release does is done when its client is answered. Go's own calls,
// and those for sockets, are another number each time.
func TestCountedCalls(t *testing.T) {
	const releases = 8
	// -D: kekd stays this program's child, and strace, whose words end up among
	// kekd's, is nobody's.
	l := startLoad(t, "strace", "-D", "-f", "-y", "-e", "trace=accept4,openat,write,pwrite64,fsync,fdatasync")
	for range releases {
		l.release(t)
	}
	l.stop()
	spans := strings.Split(accepted.ReplaceAllString(l.said.String(), "\x00"), "\x00")
	if len(spans) < releases {
		t.Fatalf("strace saw %d connections, want %d and those before", len(spans)-1, releases)
	}
	// The last one ends with the program and all that it does then.
	spans = spans[len(spans)-releases : len(spans)-1]
	for figure, call := range map[string]*regexp.Regexp{
		perfpage.ReleaseSyncs:  regexp.MustCompile(`(?m)^(\[pid +\d+\] )?f(data)?sync\(`),
		perfpage.ReleaseOpens:  regexp.MustCompile(`(?m)^(\[pid +\d+\] )?openat\(`),
		perfpage.ReleaseWrites: regexp.MustCompile(`(?m)^(\[pid +\d+\] )?p?write(64)?\(\d+</`),
	} {
		var counts []int64
		for _, span := range spans {
			counts = append(counts, int64(len(call.FindAllString(span, -1))))
		}
		slices.Sort(counts) // the median: what kekd does at its own times is no release's
		t.Logf("%s: %v", figure, counts)
		check(t, figure, counts[len(counts)/2])
	}
}

// accepted is a connection that was accepted, as strace writes it.
var accepted = regexp.MustCompile(`(?m)^.*\baccept4\b.*= \d+<.*$`)

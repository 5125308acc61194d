package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// event is a line of go test -json (go doc test2json).
type event struct {
	Time    time.Time
	Action  string
	Package string
	Test    string
	Elapsed float64 // without what parallel subtests took
	Output  string
}

// timing is the seconds of a package, of a test or of one phase.
type timing struct {
	name    string
	seconds float64
}

// boot is what a scenario says of one machine when it ends.
type boot struct {
	firmware string
	phases   []timing // those that were reached, in order
}

// results is what the tests of a stage report.
type results struct {
	packages []timing
	tests    []timing // "package.Test"; subtests count within their test
	boots    []boot
}

// test names a test; test is empty for what is its package's.
type test struct{ pkg, test string }

// running is what is kept of tests that have not ended.
type running struct {
	since map[test]time.Time
	said  map[test][]byte
}

// read reads a stage's output to its end and shows it as go test does. Lines
// that are no events, from make and from other tools, are shown as they are.
func (r *results) read(in *bufio.Reader, out io.Writer, verbose bool) error {
	now := running{map[test]time.Time{}, map[test][]byte{}}
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			if _, err := out.Write(r.shown(line, now, verbose)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// shown takes one line in and returns what a person is to see of it now.
func (r *results) shown(line []byte, now running, verbose bool) []byte {
	var e event
	if !bytes.HasPrefix(line, []byte("{")) || json.Unmarshal(line, &e) != nil || e.Action == "" {
		return line
	}
	key := test{e.Package, e.Test}
	switch e.Action {
	case "run", "cont":
		now.since[key] = e.Time
	case "build-output":
		return []byte(e.Output)
	case "output":
		r.lookForBoot(e.Output)
		switch {
		case verbose || e.Test == "" && hasPrefix(e.Output, "ok  \t", "?   \t"):
			return []byte(e.Output)
		case e.Test == "" && hasPrefix(e.Output, "FAIL"): // after what led to it
			return append(now.left(e.Package), e.Output...)
		case !hasPrefix(e.Output, "=== RUN ", "=== PAUSE ", "=== CONT ", "=== NAME "):
			now.said[key] = append(now.said[key], e.Output...)
		}
	case "pass", "skip", "fail":
		r.ended(e, now.since[key])
		words := now.said[key]
		delete(now.said, key)
		if e.Action == "fail" {
			return words
		}
	}
	return nil
}

// ended notes the seconds of a package or of a test.
func (r *results) ended(e event, began time.Time) {
	switch {
	case e.Test == "":
		r.packages = append(r.packages, timing{e.Package, e.Elapsed})
	case !strings.Contains(e.Test, "/"):
		r.tests = append(r.tests, timing{e.Package + "." + e.Test, e.Time.Sub(began).Seconds()})
	}
}

// left is all that is still kept of a package: its own words and those of the
// tests that it died in.
func (now running) left(pkg string) []byte {
	var all []byte
	for _, key := range slices.SortedFunc(maps.Keys(now.said), func(a, b test) int { return strings.Compare(a.test, b.test) }) {
		if key.pkg == pkg {
			all = append(all, now.said[key]...)
			delete(now.said, key)
		}
	}
	return all
}

func hasPrefix(line string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(line, p) })
}

// As in "boot 03-server on OVMF: firmware 8.1 s, kernel 1.9 s".
var bootLine = regexp.MustCompile(`\bboot \d+-\S+ on (\S+): (\S.* s)\n?$`)

// lookForBoot notes the phases of a machine's boot.
func (r *results) lookForBoot(line string) {
	m := bootLine.FindStringSubmatch(line)
	if m == nil {
		return
	}
	b := boot{firmware: m[1]}
	for part := range strings.SplitSeq(m[2], ", ") {
		name, rest, _ := strings.Cut(part, " ")
		seconds, err := strconv.ParseFloat(strings.TrimSuffix(rest, " s"), 64)
		if err != nil {
			return
		}
		b.phases = append(b.phases, timing{name, seconds})
	}
	r.boots = append(r.boots, b)
}

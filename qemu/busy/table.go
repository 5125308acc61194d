package main

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/landfall-project/landfall/qemu/vm"
)

// result is what came of one boot.
type result struct {
	number       int
	kexec, login time.Duration // since power-on
	signs        []string      // lines of the console that show a starved guest
	load         string        // the host's load averages at the end
	err          error
}

// verdict is how a boot ended, in a word.
func (r *result) verdict() string {
	var s *vm.Starved
	switch {
	case r.err == nil:
		return passed
	case errors.As(r.err, &s):
		return starved
	}
	return failed
}

const (
	passed  = "passed"
	starved = "starved"
	failed  = "failed"
)

// line is a boot's line of the log.
func (r *result) line() string {
	text := fmt.Sprintf("boot %2d: %s, kexec after %.1f s, login prompt after %.1f s, load averages %s", r.number, r.verdict(), r.kexec.Seconds(), r.login.Seconds(), r.load)
	for _, s := range r.signs {
		text += "\n         " + s
	}
	if r.err != nil {
		text += fmt.Sprintf("\n%v", r.err)
	}
	return text
}

// failure is the first one that is not starvation.
func failure(results []result) error {
	for _, r := range results {
		if r.verdict() == failed {
			return fmt.Errorf("boot %d failed, and the console shows no starvation: %w", r.number, r.err)
		}
	}
	return nil
}

// table is Markdown.
func table(o *options, results []result) string {
	count := map[string]int{}
	signs := 0
	var kexec, login, loads []float64
	for _, r := range results {
		count[r.verdict()]++
		if load, err := strconv.ParseFloat(strings.Fields(r.load)[0], 64); err == nil {
			loads = append(loads, load)
		}
		if r.verdict() != passed {
			continue
		}
		kexec, login = append(kexec, r.kexec.Seconds()), append(login, r.login.Seconds())
		if len(r.signs) > 0 {
			signs++
		}
	}
	var b strings.Builder
	row := func(what string, value any) { fmt.Fprintf(&b, "| %s | %v |\n", what, value) }
	row("boots", fmt.Sprintf("%d, %d at a time beside %d busy loops, %d processors", len(results), o.parallel, o.loops, runtime.NumCPU()))
	b.WriteString("|---|---|\n")
	row("load average over a minute when a boot ended", spread(loads, ""))
	row("passed", count[passed])
	row("of these, showed a sign of starvation", signs)
	row("starved", count[starved])
	row("failed otherwise", count[failed])
	row("power-on → kexec", spread(kexec, " s"))
	row("power-on → login prompt", spread(login, " s"))
	return b.String()
}

// spread is the least, the median and the most of some figures.
func spread(figures []float64, unit string) string {
	if len(figures) == 0 {
		return "–"
	}
	slices.Sort(figures)
	return fmt.Sprintf("%.1f · **%.1f** · %.1f%s", figures[0], figures[len(figures)/2], figures[len(figures)-1], unit)
}

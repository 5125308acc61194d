package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/qemu/scenario"
)

// watch shows the console lines that begin with a prefix, of all machines that
// fn starts and ends.
func (st *story) watch(prefix string, fn func()) {
	st.Watch = func(m *scenario.Machine) { st.follow(m, prefix) }
	fn()
	st.Watch = nil
	st.followers.Wait()
}

// power starts the machine and shows the console lines that begin with a
// prefix, until off.
func (st *story) power(f builder.Flavour, prefix string) *scenario.Machine {
	st.Watch = func(m *scenario.Machine) { st.follow(m, prefix) }
	defer func() { st.Watch = nil }()
	return st.Start(f)
}

func (st *story) off(m *scenario.Machine) {
	st.Check(m.Off())
	st.followers.Wait()
}

// follow shows a machine's console lines that begin with a prefix, with the
// seconds since it was powered on.
func (st *story) follow(m *scenario.Machine, prefix string) {
	st.last = m
	st.s.line("power on")
	if prefix == "" {
		return
	}
	st.followers.Go(func() {
		shown := 0
		for ended := false; !ended; {
			select {
			case <-m.Ended():
				ended = true
			case <-time.After(100 * time.Millisecond):
			}
			lines := strings.Split(m.Console(0).Output(), "\n")
			for _, l := range lines[shown : len(lines)-1] {
				if strings.HasPrefix(l, prefix) && !strings.HasPrefix(l, report.FactoryResultLine) { // the result is for machines
					st.s.line(fmt.Sprintf("%5.1f s  %s", time.Since(m.Started()).Seconds(), l))
				}
			}
			shown = len(lines) - 1
		}
	})
}

// echo shows a command of the operator as it would be typed in the region's
// folder.
func (st *story) echo(name string, args []string) {
	words := []string{"$", name}
	for i := 0; i < len(args); i++ {
		if args[i] == "--region" {
			i++
			continue
		}
		words = append(words, strings.TrimPrefix(args[i], st.Dir+string(filepath.Separator)))
	}
	st.s.line(strings.Join(words, " "))
}

// stages is a table of the boot's steps with a bar for each.
func stages(steps []scenario.Step, kexec, login float64) string {
	const perSecond, most = 8, 40 // characters
	var b strings.Builder
	fmt.Fprintf(&b, "    %-10s %8s %10s\n", "step", "took", "at")
	for _, s := range steps {
		bar := strings.Repeat("▇", min(most, int(s.Took.Seconds()*perSecond+0.5)))
		fmt.Fprintf(&b, "    %-10s %6.2f s %8.2f s  %s\n", s.Name, s.Took.Seconds(), s.At.Seconds(), bar)
	}
	fmt.Fprintf(&b, "\n    took: since the step before; at: since the kernel's start. Counted from power-on,\n"+
		"    firmware included, kexec was at %.1f s and Debian's login prompt at %.1f s.\n", kexec, login)
	return b.String()
}

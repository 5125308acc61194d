// Bench measures what docs/performance.md reports and writes that page.
//
// Synopsis:
//
//	bench [-o FILE] [-runs N] [-sealed DIR]
//	bench [-o FILE] -network | -sealing | -counted
//
// Description:
//
//	It has tests count what needs no clock, seals a server as the demo does, boots
//	it and the yardstick of qemu/floor in turns, looks for the smallest memory,
//	and runs the key server's benchmarks beside Debian's tangd. It needs root and a
//	machine that does nothing else, and takes about ten minutes.
//
//	Counted figures are compared with the page in every `make test`. After a change
//	that moves one on purpose, -counted writes them anew, on any machine.
//
// Options:
//
//	-o FILE      where the page goes (docs/performance.md)
//	-runs N      boots of each kind; medians are reported (5)
//	-sealed DIR  a sealed server kept by an earlier run; sealed and kept there
//	             if the folder does not exist
//	-network     measure links and DHCP only, and put them onto the page
//	-sealing     measure encryption in place only, and put it onto the page
//	-counted     count only, and put that onto the page; needs no root
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/qemu/perfpage"
	"github.com/landfall-project/landfall/qemu/scenario"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// figures is all that was counted and measured.
type figures struct {
	counts perfpage.Counts
	stamps map[string]perfpage.Stamp // of the sections that were measured, by title

	ours, floor boots
	forms       []form
	memory      int // smallest, MiB; 0 before it was looked for, tooMuch if none was enough
	fleet       []load
	links, dhcp []load
	sealing     *sealing
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	out := flags.String("o", perfpage.File, "where the page goes")
	runs := flags.Int("runs", 5, "boots of each kind")
	sealed := flags.String("sealed", "", "a sealed server of an earlier run")
	network := flags.Bool("network", false, "measure links and DHCP only, and put them onto the page that is there")
	sealing := flags.Bool("sealing", false, "measure encryption in place only, and put it onto the page that is there")
	counted := flags.Bool("counted", false, "count only, and put that onto the page that is there")
	if err := flags.Parse(args); err != nil {
		return err
	}
	alone := 0
	for _, one := range []bool{*network, *sealing, *counted} {
		if one {
			alone++
		}
	}
	if flags.NArg() > 0 || *runs < 1 || alone > 1 {
		return errors.New("usage: bench [-o FILE] [-runs N] [-sealed DIR] | bench [-o FILE] -network | -sealing | -counted")
	}
	if *counted {
		return recount(ctx, *out)
	}
	if os.Getuid() != 0 {
		return errors.New("it makes network namespaces, disks and a Debian root, and so must be root: sudo make bench")
	}
	f := &figures{stamps: map[string]perfpage.Stamp{}}
	switch {
	case *network:
		return f.only(ctx, *out, part{networkTitle, f.measureNetwork, f.networkTable})
	case *sealing:
		return f.only(ctx, *out, part{sealingTitle, f.measureInPlace, f.sealingTable})
	}
	return f.all(ctx, *out, *runs, *sealed)
}

// all makes the whole page. It is written after each part: a run that ends early
// leaves what it measured, and says what it did not.
func (f *figures) all(ctx context.Context, out string, runs int, sealed string) (err error) {
	if f.counts, err = count(ctx); err != nil {
		return err
	}
	save := func() error { return os.WriteFile(out, []byte(f.page(runs)), 0o644) }
	err = scenario.Run(ctx, os.Stdout, "bench", func(t scenario.T) {
		l := server(scenario.New(t), sealed)
		step := func(measure func(), titles ...string) {
			l.Check(f.measured(ctx, func(context.Context) error { measure(); return nil }, titles...))
			l.Check(save())
		}
		step(func() { f.measureBoots(l, runs) }, shortTitle, bootTitle)
		step(func() { f.forms = measureForms(l) }, formsTitle)
		step(func() { f.memory = measureMemory(l) }, memoryTitle)
	})
	if err != nil {
		return err
	}
	// The key server shares the machine with nothing.
	for _, p := range []part{{title: fleetTitle, measure: f.measureFleet}, {title: sealingTitle, measure: f.measureInPlace}, {title: networkTitle, measure: f.measureNetwork}} {
		if err := f.measured(ctx, p.measure, p.title); err != nil {
			return err
		}
		if err := save(); err != nil {
			return err
		}
	}
	return nil
}

// server is a sealed server in a live region.
func server(l *scenario.Lab, dir string) *scenario.Life {
	if dir != "" {
		if _, err := os.Stat(dir); err == nil {
			life := l.Thaw(scenario.Sealed{Dir: dir})
			life.ServeDHCP()
			life.Region.Deliver()
			return life
		}
	}
	l.Logf("sealing a server")
	life := l.NewLife()
	life.ServeDHCP()
	life.ApproveImages()
	life.Provision()
	life.WriteDefaultSlice()
	life.Seal()
	if dir != "" {
		life.Freeze(dir)
		life.Region.Start()
	}
	life.Region.Deliver()
	return life
}

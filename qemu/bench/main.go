// Bench measures what docs/performance.md reports and writes that page.
//
// Synopsis:
//
//	bench [-o FILE] [-runs N] [-sealed DIR]
//	bench [-o FILE] -network | -sealing
//
// Description:
//
//	It seals a server as the demo does, boots it and the yardstick of qemu/floor
//	in turns, counts TPM commands on the bus, looks for the smallest memory, and
//	runs the key server's benchmarks beside Debian's tangd. It needs root and a
//	machine that does nothing else, and takes about ten minutes.
//
// Options:
//
//	-o FILE      where the page goes (docs/performance.md)
//	-runs N      boots of each kind; medians are reported (5)
//	-sealed DIR  a sealed server kept by an earlier run; sealed and kept there
//	             if the folder does not exist
//	-network     measure links and DHCP only, and put them onto the page
//	-sealing     measure encryption in place only, and put it onto the page
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/scenario"
	"github.com/landfall-project/landfall/qemu/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// figures is all that was measured.
type figures struct {
	ours, floor boots
	tpm         []string // commands from PID 1 to the unlocked root, in order
	forms       []form
	sizes       []size
	memory      int // smallest, MiB; 0 before it was looked for, tooMuch if none was enough
	fleet       []load
	links, dhcp []load
	sealing     *sealing // nil before it was measured

	loadBegan, loadLater string // load averages over a minute
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	out := flags.String("o", "docs/performance.md", "where the page goes")
	runs := flags.Int("runs", 5, "boots of each kind")
	sealed := flags.String("sealed", "", "a sealed server of an earlier run")
	network := flags.Bool("network", false, "measure links and DHCP only, and put them onto the page that is there")
	sealing := flags.Bool("sealing", false, "measure encryption in place only, and put it onto the page that is there")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return errors.New("it makes network namespaces, disks and a Debian root, and so must be root: sudo make bench")
	}
	if flags.NArg() > 0 || *runs < 1 || *network && *sealing {
		return errors.New("usage: bench [-o FILE] [-runs N] [-sealed DIR] | bench [-o FILE] -network | bench [-o FILE] -sealing")
	}
	f := &figures{loadBegan: loadAverage(), loadLater: notMeasured}
	switch {
	case *network:
		return only(ctx, *out, section{networkHeading, f.measureNetwork, f.networkTable})
	case *sealing:
		return only(ctx, *out, section{sealingHeading, f.measureInPlace, f.sealingTable})
	}
	// The page is written after each part: a run that ends early leaves what it
	// measured, and says what it did not.
	save := func() error { return os.WriteFile(*out, []byte(f.page(*runs)), 0o644) }
	err := scenario.Run(ctx, os.Stdout, "bench", func(t scenario.T) {
		l := server(scenario.New(t), *sealed)
		f.measureBoots(l, *runs)
		f.sizes = measureSizes(l)
		l.Check(save())
		f.forms = measureForms(l)
		l.Check(save())
		f.memory = measureMemory(l)
	})
	if err != nil {
		return err
	}
	f.loadLater = loadAverage()
	if err := save(); err != nil {
		return err
	}
	// The key server shares the machine with nothing.
	if f.fleet, err = measureLoads(ctx, fleetCommand); err != nil {
		return err
	}
	if err := save(); err != nil {
		return err
	}
	if err := f.measureInPlace(ctx); err != nil {
		return err
	}
	if err := save(); err != nil {
		return err
	}
	if err := f.measureNetwork(ctx); err != nil {
		return err
	}
	return save()
}

// loadAverage is the host's over a minute: it tells a reader how far to trust
// the figures.
func loadAverage() string {
	first, _, _ := strings.Cut(vm.HostLoad(), " ")
	return first
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

// size is an image's, in bytes.
type size struct {
	name              string
	with, without     int64 // compressed, with and without kernel modules
	unpacked, modules int64 // of the image with modules
}

// measureSizes builds the images once more without modules.
func measureSizes(l *scenario.Life) []size {
	var sizes []size
	for _, f := range []builder.Flavour{builder.Server, builder.Factory} {
		o := builder.Options{Repo: l.Repo, Cache: l.Cache, Flavour: f, Kernel: l.Kernel()}
		with, err := builder.Build(l.Context(), o)
		l.Check(err)
		o.Kernel = nil
		without, err := builder.Build(l.Context(), o)
		l.Check(err)
		sizes = append(sizes, size{string(f), with.Size, without.Size, with.Raw, with.Raw - without.Raw})
	}
	return sizes
}

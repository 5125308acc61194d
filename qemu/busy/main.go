// Busy boots one sealed server many times beside busy loops and counts what
// came of it: it shows what a busy machine does to a boot.
//
// Synopsis:
//
//	busy [-boots N] [-parallel N] [-loops N] [-patience D] [-sealed DIR] [-logs DIR]
//
// Description:
//
//	It seals a server. Then it boots it, without firmware that measures, from
//	power-on to Debian's login prompt, each time from copies of its disks, its TPM and its
//	region, beside processes that do nothing but keep a processor busy. It
//	prints each boot as it ends, then the table that docs/testing.md holds. It
//	needs root and takes, with the defaults and two cores, the better part of
//	an hour.
//
//	A boot has passed, or was starved (the prompt did not come, and the console
//	shows that the guest got too little time), or has failed otherwise. busy
//	exits 0 if none has failed otherwise. After an interruption the table has
//	the boots that had ended.
//
// Options:
//
//	-boots N      boots in all (40)
//	-parallel N   machines at a time (4)
//	-loops N      busy loops beside them (5)
//	-patience D   how long a boot may take (15m)
//	-sealed DIR   a sealed server kept by an earlier run; sealed and kept there
//	              if the folder does not exist
//	-logs DIR     keep each boot's console, and registers at soft lockups, there
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "busy:", err)
		os.Exit(1)
	}
}

// options are the command line's.
type options struct {
	boots, parallel, loops int
	patience               time.Duration
	sealed, logs           string
}

func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("busy", flag.ContinueOnError)
	f.IntVar(&o.boots, "boots", 40, "boots in all")
	f.IntVar(&o.parallel, "parallel", 4, "machines at a time")
	f.IntVar(&o.loops, "loops", 5, "busy loops beside them")
	f.DurationVar(&o.patience, "patience", 15*time.Minute, "how long a boot may take")
	f.StringVar(&o.sealed, "sealed", "", "a sealed server of an earlier run, or where to keep this one's")
	f.StringVar(&o.logs, "logs", "", "keep each boot's logs there")
	return f
}

// Errors of the command line.
var (
	errUsage = errors.New("usage: busy [-boots N] [-parallel N] [-loops N] [-patience D] [-sealed DIR] [-logs DIR]")
	errRoot  = errors.New("it makes network namespaces, disks and a Debian root, and so must be root")
)

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	var o options
	flags := o.flags()
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if flags.NArg() > 0 || o.boots < 1 || o.parallel < 1 || o.loops < 0 {
		return errUsage
	}
	if os.Getuid() != 0 {
		return errRoot
	}
	if o.sealed == "" {
		dir, err := os.MkdirTemp("", "busy-")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		o.sealed = filepath.Join(dir, "sealed")
	}
	if err := seal(ctx, out, o.sealed); err != nil {
		return err
	}
	stop, err := keepBusy(ctx, o.loops)
	if err != nil {
		return err
	}
	defer stop()
	results := bootAll(ctx, out, &o)
	fmt.Fprint(out, "\n", table(&o, results))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return failure(results)
}

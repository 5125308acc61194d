package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm"
)

// Exit statuses; the factory station sorts machines by them.
const (
	exitUsage  = 2
	exitRetry  = 10 // the same machine may pass next time
	exitReject = 20 // it needs another part first
)

// How long provisioning listens for LLDP: longer than the 30 s of most switches,
// and shorter where nobody speaks at all. A switch made by the standard of 2009
// or later speaks within seconds to a neighbor that is new.
const (
	captureWait  = 35 * time.Second
	captureQuiet = 10 * time.Second
)

// errUsage: wrong arguments.
var errUsage = errors.New("usage: seal provision | seal [--dry-run] [--reseal] | seal --status")

// exitCode sorts an error.
func exitCode(err error) int {
	var refused *disk.RefusedError
	var problem *report.Problem
	switch {
	case errors.Is(err, errUsage):
		return exitUsage
	case errors.As(err, &refused), errors.Is(err, tpm.ErrDevice), errors.Is(err, tpm.ErrNVFull):
		return exitReject
	case errors.As(err, &problem) && slices.Contains([]report.Code{report.TPMMissing, report.TPMBanks, report.TPMNoCert, report.NVFull}, problem.Code):
		return exitReject
	}
	return exitRetry
}

// system is the machine that seal works on.
type system struct {
	tree    disk.Tree
	etc     string // folder of region.pub and policy.pub
	work    string // folder in memory
	openTPM func() (*tpm.TPM, error)
	dial    func(ctx context.Context, network, addr string) (net.Conn, error) // nil: the network
	capture func(ctx context.Context, device string) (*snapshot.Capture, error)
	out     io.Writer
}

func (s *system) logf(format string, args ...any) {
	fmt.Fprintf(s.out, "seal: "+format+"\n", args...)
}

// options are what the arguments may say. Nothing that weakens the result is
// among them.
type options struct {
	provision, dryRun, reseal, status bool
}

func newFlags(o *options) *flag.FlagSet {
	f := flag.NewFlagSet("seal", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.BoolVar(&o.dryRun, "dry-run", false, "print the plan, write nothing")
	f.BoolVar(&o.reseal, "reseal", false, "write the tokens of sealed volumes anew")
	f.BoolVar(&o.status, "status", false, "print what is done so far, without TPM keys or network")
	return f
}

func parse(args []string) (*options, error) {
	o := new(options)
	f := newFlags(o)
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errUsage)
	}
	switch {
	case f.NArg() == 1 && f.Arg(0) == "provision" && f.NFlag() == 0:
		o.provision = true
	case f.NArg() > 0, o.status && f.NFlag() > 1:
		return nil, errUsage
	}
	return o, nil
}

// help prints how to call it, and nothing else.
func (s *system) help() error {
	f := newFlags(new(options))
	f.SetOutput(s.out)
	if _, err := fmt.Fprintf(s.out, "%v\n\n", errUsage); err != nil {
		return err
	}
	f.PrintDefaults()
	return nil
}

func run(ctx context.Context, args []string, _ io.Reader, stdout, _ io.Writer) error {
	s := &system{
		etc:     "/etc/landfall",
		work:    "/run/landfall-seal",
		openTPM: func() (*tpm.TPM, error) { return tpm.Open(tpm.Device) },
		capture: func(ctx context.Context, device string) (*snapshot.Capture, error) {
			return netconf.Capture(ctx, device, netconf.Listen{Wait: captureWait, Quiet: captureQuiet})
		},
		out: stdout,
	}
	return s.run(ctx, args)
}

func (s *system) run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return s.help()
	}
	if err != nil {
		return err
	}
	in, err := s.readInputs()
	if err != nil {
		return err
	}
	switch {
	case o.status:
		return s.status(ctx, in)
	case o.provision:
		return s.provision(ctx, in)
	}
	return s.seal(ctx, in, o)
}

package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/dmi"
	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm"
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

// system is the machine that seal works on.
type system struct {
	tree    disk.Tree
	etc     string // folder of region.pub and policy.pub
	work    string // folder in memory
	openTPM func() (*tpm.TPM, error)
	dial    func(ctx context.Context, network, addr string) (net.Conn, error) // nil: the network
	capture func(ctx context.Context, device string) (*snapshot.Capture, error)
	macs    func() ([]string, error) // of the network ports; nil: none are told to the station
	tighten func() error             // keeps keys off all disks; nil: not in a test
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

const examples = `
Examples, in the factory image:
  seal provision    make the TPM this device's, and enrol it
  seal --dry-run    see what would be done to each disk, or what stands against it
  seal              encrypt the disks, or go on where the last run was cut off
  seal --status     see how far it is, and what earlier runs did

Exit status: 0 passed, 10 try again, 20 reject this hardware, 2 usage. The last
line of a run is "seal: result " and JSON (docs/schema/factory-v1.json).
`

// help prints how to call it, and nothing else.
func (s *system) help() error {
	f := newFlags(new(options))
	f.SetOutput(s.out)
	if _, err := fmt.Fprintf(s.out, "%v\n\n", errUsage); err != nil {
		return err
	}
	f.PrintDefaults()
	_, err := fmt.Fprint(s.out, examples)
	return err
}

func run(ctx context.Context, args []string, _ io.Reader, stdout, _ io.Writer) error {
	s := &system{
		etc:     "/etc/landfall",
		work:    report.FactoryDir,
		openTPM: func() (*tpm.TPM, error) { return tpm.Open(tpm.Device) },
		capture: func(ctx context.Context, device string) (*snapshot.Capture, error) {
			return netconf.Capture(ctx, device, netconf.Listen{Wait: captureWait, Quiet: captureQuiet})
		},
		macs:    macs,
		tighten: func() error { return tighten("/proc/swaps") },
		out:     printable.NewWriter(stdout),
	}
	return s.run(ctx, args)
}

func macs() ([]string, error) {
	links, err := netconf.Links()
	if err != nil {
		return nil, report.Errorf(report.NetNoInterface, "%w", err)
	}
	return addresses(links), nil
}

// addresses are those that the network ports were made with, as a station's list
// has them, sorted.
func addresses(links []netconf.Link) (all []string) {
	for _, l := range links {
		if len(l.Permanent) == 6 {
			all = append(all, l.Permanent.String())
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (s *system) run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return s.help()
	}
	if err != nil {
		return err
	}
	if o.status {
		return s.status(ctx)
	}
	machine, unknown := dmi.Read(cmp.Or(s.tree.Sys, "/sys"))
	t := s.newTrack(machine)
	t.dry = o.dryRun
	if !o.provision {
		t.at(report.PhaseSlice)
	}
	defer t.close()
	if unknown != nil {
		return t.end(ctx, report.Errorf(report.FactoryIdentity, "%w", unknown))
	}
	err = s.make(ctx, o, machine, t)
	if o.dryRun {
		return err // nothing came of it
	}
	return t.end(ctx, err)
}

// make reads what there is to do, and does it.
func (s *system) make(ctx context.Context, o *options, machine dmi.Machine, t *track) error {
	if s.tighten != nil {
		if err := s.tighten(); err != nil {
			return err
		}
	}
	in, err := s.readInputs()
	if err != nil {
		return err
	}
	if !o.dryRun {
		t.openJournal(in)
	}
	if t.floor, err = s.floor(in); err != nil {
		return err
	}
	if t.floor != nil {
		if err := s.ask(ctx, in, machine, t.floor, !o.dryRun); err != nil {
			return err
		}
	}
	if in.slice == nil && in.part.Token != nil {
		t.at(report.PhaseProvision) // whatever was asked for; a later phase would tell the station that the token was used
	}
	t.is(in.device())
	if in.plan != nil {
		if err := in.plan.Fits(in.device(), machine.Product); err != nil {
			return report.Errorf(report.FactoryPlan, "%w", err)
		}
	}
	if o.provision {
		return s.provision(ctx, in, t)
	}
	return s.seal(ctx, in, o, t)
}

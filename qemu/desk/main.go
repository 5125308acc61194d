// Desk is a region on a desk: it plays machines and cables in memory, so that
// one person can take a region's network from the plan to the board without
// hardware. docs/region-network.md tells the way.
//
// Synopsis:
//
//	desk -cables FILE -records DIR
//	desk -cables FILE -region DIR -slices DIR [-off ID] [-reboot ID]
//
// Description:
//
//	Cables are plugged as a file in the DOT language says, which may differ from
//	the one that was planned. With -records, desk writes what the fleet would
//	have of each machine after `seal provision`, in the form of `kekctl device
//	show ID --json`: the names of its TPM's keys, its ports, and what it heard
//	there by LLDP.
//
//	With -slices, each machine boots with its signed slice, asks its neighbors
//	and answers them for a minute. Then desk tells on standard error what each
//	found out, and writes the reports of all to standard output, as `kekctl
//	links --json` does.
//
//	Time, cables, switches and TPMs are played. The key of such a TPM follows
//	from the machine's ID, so that its proofs are worth nothing. All else is what
//	machines run: slices are verified, and package linkcheck, of which uinit and
//	linkcheckd are made, asks, answers and judges.
//
// Options:
//
//	-cables FILE   how the cables are plugged
//	-off ID        this machine is without power; may be given again
//	-reboot ID     once all have proved their links, the others leave for
//	               production, where linkcheckd answers, and this one boots again
//	-records DIR   where to write the records
//	-region DIR    folder that kekctl init made (its public/ is read)
//	-slices DIR    folder of signed slices; may be given again: the newest of a
//	               machine counts
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/landfall-project/landfall/pkg/printable"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "desk:", printable.Text(err.Error()))
		os.Exit(1)
	}
}

// options are the command line's.
type options struct {
	cables, records, region, reboot string
	slices, off                     []string
}

func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("desk", flag.ContinueOnError)
	f.StringVar(&o.cables, "cables", "", "how the cables are plugged: a file in the DOT language")
	f.StringVar(&o.records, "records", "", "where to write the records")
	f.StringVar(&o.region, "region", "", "folder that kekctl init made (its public/ is read)")
	f.StringVar(&o.reboot, "reboot", "", "the others leave for production, and this machine boots again")
	f.Func("slices", "folder of signed slices; may be given again", several(&o.slices))
	f.Func("off", "this machine is without power; may be given again", several(&o.off))
	return f
}

// whole says whether the options are those of one of the two synopses.
func (o *options) whole() bool {
	if o.records != "" {
		return o.cables != "" && len(o.slices)+len(o.off) == 0 && o.region+o.reboot == ""
	}
	return o.cables != "" && len(o.slices) > 0 && o.region != ""
}

// several collects the values of an option that may be given again.
func several(to *[]string) func(string) error {
	return func(s string) error {
		*to = append(*to, s)
		return nil
	}
}

var errUsage = errors.New("usage: desk -cables FILE -records DIR | desk -cables FILE -region DIR -slices DIR [-off ID] [-reboot ID]")

func run(args []string, stdout, stderr io.Writer) error {
	var o options
	f := o.flags()
	f.SetOutput(stderr)
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if f.NArg() > 0 || !o.whole() {
		return errUsage
	}
	c, err := readCables(o.cables)
	if err != nil {
		return err
	}
	if o.records != "" {
		return c.writeRecords(o.records)
	}
	all, err := readSlices(o.region, o.slices)
	if err != nil {
		return err
	}
	w, err := newWorld(c, all)
	if err != nil {
		return err
	}
	if err := w.boot(o.off); err != nil {
		return err
	}
	if o.reboot != "" {
		if err := w.reboot(o.reboot); err != nil {
			return err
		}
	}
	return w.tell(stdout, printable.NewWriter(stderr))
}

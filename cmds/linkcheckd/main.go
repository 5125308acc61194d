// Linkcheckd answers link requests of neighbors while a device runs production,
// so that they can boot although this device has long left its boot image.
//
// Synopsis:
//
//	linkcheckd [-slice FILE] [-region FILE] [-tpm DEVICE] [-check]
//	linkcheckd -version
//
// Description:
//
// It reads the device's signed slice, has the TPM certify a key for this
// purpose, and answers on UDP port 7447 of the slice's ports, which it finds by
// their MAC addresses. It asks nothing, changes nothing on the network or in the
// TPM, and needs no capability: only to read the slice and to use the TPM. The
// TPM must be capped, as uinit leaves it: from a system that did not boot
// through uinit nobody believes an answer. It runs until it gets SIGTERM or
// SIGINT, logs to standard error, and under systemd tells when it is ready
// (Type=notify).
//
// Options:
//
//	-check
//		look at slice, TPM and ports, tell what is found, and exit
//	-region FILE
//		public key of the region root (default /etc/landfall/region.pub)
//	-slice FILE
//		the LANDFALL partition, or a file with the signed slice
//		(default /dev/disk/by-partlabel/LANDFALL)
//	-tpm DEVICE
//		(default /dev/tpmrm0)
//	-version
//		say which build this is, then exit
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/sdnotify"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/pkg/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, tpm.Open, os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "linkcheckd:", printable.Text(err.Error()))
		os.Exit(1)
	}
}

type options struct {
	slice, region, tpm string
	check, version     bool
}

func flags(o *options) *flag.FlagSet {
	fs := flag.NewFlagSet("linkcheckd", flag.ContinueOnError)
	fs.BoolVar(&o.check, "check", false, "look at slice, TPM and ports, tell what is found, and exit")
	fs.StringVar(&o.region, "region", "/etc/landfall/region.pub", "public key of the region root")
	fs.StringVar(&o.slice, "slice", "/dev/disk/by-partlabel/LANDFALL", "the LANDFALL partition, or a file with the signed slice")
	fs.StringVar(&o.tpm, "tpm", "/dev/tpmrm0", "the TPM's device")
	fs.BoolVar(&o.version, "version", false, "say which build this is, then exit")
	return fs
}

// opener opens a TPM device.
type opener func(path string) (*tpm.TPM, error)

func run(ctx context.Context, args []string, getenv func(string) string, open opener, stderr io.Writer) error {
	var o options
	fs := flags(&o)
	fs.SetOutput(stderr)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; see linkcheckd -help", fs.Arg(0))
	}
	if o.version {
		_, err := fmt.Fprintln(stderr, "linkcheckd version", version.String())
		return err
	}
	// The key that answers must not be found in a core dump (prctl(2)).
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	s, err := readSlice(o)
	if err != nil {
		return err
	}
	d := &daemon{slice: s, stderr: stderr, ready: func() error { return sdnotify.Send(getenv("NOTIFY_SOCKET"), sdnotify.Ready) }}
	if err := d.certify(o.tpm, open); err != nil {
		return err
	}
	defer d.session.Wipe()
	if o.check {
		return d.look()
	}
	return d.serve(ctx)
}

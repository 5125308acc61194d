// Command seal makes a device ready for transit, in the factory image.
//
// Synopsis:
//
//	seal provision
//	seal [--dry-run] [--reseal]
//	seal --status
//
// Description:
//
//	`seal provision` makes the keys of the TPM, enrols the device at the
//	fleet with its one-use token, sets the TPM's authorizations and defines
//	the two NV slots. Meanwhile it listens at the network ports for up to 35 s,
//	and posts what it heard and which ports there are (snapshot assemble).
//
//	`seal` encrypts the disks that the device's slice names, each in the way
//	that the seal plan says, or the slice: the data in place, a disk image from
//	the station, or a fresh volume. It has the fleet make a KEK durable, makes a
//	DEK, wraps it, writes it into the TPM, reads it back and opens it, and only
//	then writes to a disk. A volume's token with the MAC of its key comes last.
//	It passes when the fleet has heard from the server image that all volumes
//	were opened; until then the result is "sealed, not accepted yet".
//
//	Whom to trust is in the image (/etc/landfall), what to do on the LANDFALL
//	partition: station document and token before, slice and PCR policies
//	after enrolment. Where the station document names a factory station, these
//	and the seal plan come from there. Both commands may be cut off at any
//	moment and run again: they go on where they stopped. What earlier runs did
//	is in the journal at the end of the LANDFALL partition.
//
//	The last line is "seal: result " and JSON (docs/schema/factory-v1.json).
//	While it is not accepted, the file /run/landfall-seal/next says "reboot"
//	(it was sealed just now) or "hold" (it came back to the factory image).
//
//	Exit status: 0 passed, 10 try again, 20 reject this hardware, 2 usage.
//
// Options:
//
//	--dry-run: print the plan, write nothing
//	--reseal: write the tokens of sealed volumes anew
//	--status: print what is done so far, without TPM keys or network
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/landfall-project/landfall/pkg/printable"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		var told *ended
		if !errors.As(err, &told) {
			fmt.Fprintf(os.Stderr, "seal: %s\n", printable.Text(err.Error()))
		}
		os.Exit(exitCode(err))
	}
}

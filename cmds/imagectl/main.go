// Command imagectl predicts and signs what a boot image measures: the image
// manifest, by which the fleet knows an image, and the PCR policy, which opens a
// device's NV slots to it. It also looks into images, verifies and compares
// them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/landfall-project/landfall/pkg/printable"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "imagectl: %s\n", printable.Text(err.Error()))
		os.Exit(1)
	}
}

// Command snapshot makes, signs and shows the documents that a device carries:
// its slice, and the LANDFALL partition they travel on.
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
		fmt.Fprintf(os.Stderr, "snapshot: %s\n", printable.Text(err.Error()))
		os.Exit(1)
	}
}

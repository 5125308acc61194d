// Command station is the factory station: it tells each machine on the factory
// floor who it is, hands out its token, slice, plan and disk images, and keeps
// what the machine says came of it.
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
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "station: %s\n", printable.Text(err.Error()))
		os.Exit(1)
	}
}

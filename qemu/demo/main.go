// Demo takes one server through its whole life on real parts: sealed in the
// factory, shipped, received, booted to production.
//
// Synopsis:
//
//	demo
//
// Description:
//
//	It prints a story for somebody who has never seen Landfall. It takes a few
//	minutes, needs root (network namespaces, a Debian root) and the Debian
//	packages that `make deps` installs, and exits 0 if everything happened as
//	told. The slow parts are kept in .cache; the machine's disks and the region
//	are thrown away at the end. After a failure the logs stay in out/lab/demo.
//
//	A boot of the sealed server that a busy machine starved is repeated once.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/qemu/scenario"
	"github.com/landfall-project/landfall/qemu/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// errRoot: not started as root.
var errRoot = errors.New("it makes network namespaces, disks and a Debian root, and so must be root: sudo make demo")

func run(ctx context.Context, out io.Writer) error {
	if os.Getuid() != 0 {
		return errRoot
	}
	s := newScreen(out)
	defer s.close()
	var notes bytes.Buffer // of interest after a failure only
	err := scenario.Run(ctx, &notes, "demo", func(t scenario.T) { tell(t, s) })
	if err == nil {
		return nil
	}
	s.close()
	if ctx.Err() != nil {
		return errors.New("interrupted; everything it started was ended, nothing is left behind")
	}
	return fmt.Errorf("stage %d (%s) failed:\n\n%w\n\n%s\n%s", s.number, s.title, err, notes.String(), advice(err))
}

// advice is what to do after a failure.
func advice(err error) string {
	var s *vm.Starved
	if errors.As(err, &s) {
		return fmt.Sprintf("Why: this machine is too busy (load averages %s, %d processors); Landfall is not at fault as far as was seen.\n"+
			"What to do: end what else runs here, then run `make demo` again.", s.Load, runtime.NumCPU())
	}
	return fmt.Sprintf("What to do: read the end of the log above. A HOLD code is explained in docs/runbook.md.\n"+
		"A machine as busy as load averages above %d tell (they are %s) can pass a deadline: run `make demo` again when it is not. A damaged cache is rebuilt after rm -rf .cache",
		runtime.NumCPU(), vm.HostLoad())
}

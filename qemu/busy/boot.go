package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/image/cache"
	"github.com/landfall-project/landfall/qemu/scenario"
	"github.com/landfall-project/landfall/qemu/vm"
)

// seal makes a folder with a sealed server, unless it is there.
func seal(ctx context.Context, out io.Writer, dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	return scenario.Run(ctx, out, "busy-seal", func(t scenario.T) {
		l := scenario.New(t).NewLife()
		l.ServeDHCP()
		l.ApproveImages()
		l.SealOnHost()
		// An incomplete folder must not look like a sealed server to a later run.
		part := dir + ".part"
		l.Freeze(part)
		l.Check(os.Rename(part, dir))
	})
}

// keepBusy starts busy loops. They end with stop, with ctx, and with this
// program however it ends.
func keepBusy(ctx context.Context, n int) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var loops sync.WaitGroup
	stop = func() {
		cancel()
		loops.Wait()
	}
	for range n {
		cmd := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			stop()
			return nil, fmt.Errorf("busy loop: %w", err)
		}
		loops.Go(func() { _ = cmd.Wait() }) // it ends by being killed
	}
	return stop, nil
}

// bootAll boots as often as asked, some machines at a time, and returns what
// came of it; after an interruption, of the boots that had ended.
func bootAll(ctx context.Context, out io.Writer, o *options) []result {
	numbers := make(chan int)
	var workers sync.WaitGroup
	var mu sync.Mutex // of results and out
	var results []result
	for range o.parallel {
		workers.Go(func() {
			for n := range numbers {
				r := boot(ctx, n, o)
				if ctx.Err() != nil {
					continue
				}
				mu.Lock()
				results = append(results, r)
				fmt.Fprintln(out, r.line())
				mu.Unlock()
			}
		})
	}
	for n := 1; n <= o.boots && ctx.Err() == nil; n++ {
		numbers <- n
	}
	close(numbers)
	workers.Wait()
	return results
}

// boot is one boot of a copy of the sealed server.
func boot(ctx context.Context, n int, o *options) (r result) {
	r.number = n
	name := fmt.Sprintf("busy-%02d", n)
	r.err = scenario.Run(ctx, io.Discard, name, func(t scenario.T) {
		l := scenario.New(t).Thaw(scenario.Sealed{Dir: o.sealed})
		l.Quick = true // what a busy machine does to OVMF is a matter of seconds
		l.ServeDHCP()
		l.Region.Deliver()
		m := l.Start(builder.Server, func(c *vm.Config) { c.Deadline = o.patience })
		defer func() {
			r.signs = vm.Starvation(m.Console(0).Output())
			if err := keepLogs(o.logs, name, l.Dir); err != nil {
				l.Logf("%v", err)
			}
		}()
		r.kexec = m.Expect(`landfall: kexec at .*\n`).At
		r.login = m.Prompt().At
		l.Check(m.Off())
	})
	r.load = vm.HostLoad()
	return r
}

// keepLogs copies a boot's logs into a folder, if one is asked for.
func keepLogs(dir, boot, from string) error {
	if dir == "" {
		return nil
	}
	logs, err := filepath.Glob(filepath.Join(from, "*.log"))
	if err != nil {
		return err
	}
	err = os.MkdirAll(dir, 0o755)
	for _, log := range logs {
		err = errors.Join(err, cache.CopyFile(filepath.Join(dir, boot+"."+filepath.Base(log)), log))
	}
	return err
}

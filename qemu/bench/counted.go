package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/landfall-project/landfall/qemu/perfpage"
)

// countCommand runs the tests that count, of the packages that the figures are
// about. The race detector would change allocations.
var countCommand = []string{"go", "test", "-count=1", "-run", "^Test(Counted|Region$|ServerFiles|KeyserverFiles|FactoryFiles|GenericImage)",
	"./uinit", "./image/builder", "./pkg/provision", "./pkg/snapshot", "./pkg/luks2", "./pkg/kekserver", "./qemu/fabric"}

// count has the tests count.
func count(ctx context.Context) (counts perfpage.Counts, err error) {
	dir, err := os.MkdirTemp("", "counted-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Println(strings.Join(countCommand, " "))
	cmd := exec.CommandContext(ctx, countCommand[0], countCommand[1:]...)
	cmd.Env = append(os.Environ(), perfpage.CountEnv+"="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("count: %w", err)
	}
	return perfpage.Collect(dir)
}

// recount counts and puts the counts onto a page that is there.
func recount(ctx context.Context, file string) error {
	counts, err := count(ctx)
	if err != nil {
		return err
	}
	return rewrite(file, func(page string) (string, error) { return perfpage.Update(page, counts) })
}

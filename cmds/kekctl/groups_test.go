package main

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/files/filestest"
)

func TestMistypedCommands(t *testing.T) {
	filestest.Groups(t, func(ctx context.Context, args []string, stdout, stderr io.Writer) error {
		return run(ctx, args, strings.NewReader(""), stdout, stderr)
	}, "links") // of a device
}

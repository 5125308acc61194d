package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/files/filestest"
	"github.com/landfall-project/landfall/pkg/tpm"
)

// Each option, given each kind of file, takes what it is for, and of all else
// says what is wrong and what to do. A file in a TPM's place is not written to.
func TestWrongFiles(t *testing.T) {
	set := filestest.New(t, filestest.Region(t), nil)
	noTPM := errors.New("here is no TPM")
	daemon := func(args []string, out *strings.Builder) error {
		open := func(path string) (*tpm.TPM, error) {
			if path != "/dev/tpmrm0" {
				return tpm.Open(path)
			}
			return nil, noTPM
		}
		err := run(context.Background(), args, os.Getenv, open, out)
		if errors.Is(err, noTPM) {
			return nil // slice and key were taken
		}
		return err
	}
	const slice = "`snapshot sign`|`snapshot part write`"
	set.Sweep(daemon, []filestest.Case{
		{Command: "-check -slice slice.note -region %", Takes: "root.pub", Says: "public/root.pub|" + slice},
		{Command: "-check -region root.pub -slice %", Takes: "slice.note partition", Says: slice},
		{Command: "-check -region root.pub -slice slice.note -tpm %", Says: tpm.Device},
	})
}

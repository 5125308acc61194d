package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/command"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/version"
)

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	root := &cobra.Command{
		Use:     "station",
		Version: version.String(),
		Short:   "Hand out tokens, slices, plans and disk images on the factory floor",
		Long: `station keeps a folder with what each machine of a factory needs to be sealed, and
serves it over HTTPS. The machines know it by its certificate, which is in the
station document on their LANDFALL partitions; it knows them by serial number,
UUID or MAC address. docs/station.md tells the way.

Nothing in the folder is secret but the tokens, which are good for one enrolment
each. The station does not prove to itself who asks: that a machine is the one
that enrolled, the fleet knows by its TPM.`,
		Example: `  station init station --url https://10.9.0.1:8443 --region north
  snapshot part write --station-file station/station.json -o landfall.part
  station add station r07-u12 --serial CZ2342K7 --token r07-u12.token
  station image station images/debian.qcow2
  station serve station
  station add station r07-u12 --slice notes/r07-u12.slice.note
  station show station`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(printable.NewWriter(stdout)) // all of it is for people
	root.SetErr(printable.NewWriter(stderr))
	root.AddCommand(initCommand(), addCommand(), imageCommand(), serveCommand(), showCommand(), assignmentCommand())
	return command.Execute(ctx, root, args)
}

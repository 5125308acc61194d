package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/command"
	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/version"
)

// maxFile bounds every document that is read from a file, in bytes: the largest
// is a region's snapshot.
const maxFile = snapshot.MaxDocumentSize + 64<<10

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	root := &cobra.Command{
		Use:     "snapshot",
		Version: version.String(),
		Short:   "Make, sign and show the snapshot of a region, and what a device carries of it",
		Long: `snapshot assembles the snapshot of a region, cuts it into one slice for each
device, signs those with the region root, and writes a slice onto the LANDFALL
partition together with the PCR policies. docs/region-network.md tells the way.

FILE may be - for standard input or output.`,
		Example: `  kekctl --region north --as alice device show r07-u12 --json >records/r07-u12.json
  snapshot assemble --region north --plan plan.json --record records -o region.json
  snapshot slice --document region.json --all --dir slices
  snapshot sign --region north --dir notes slices
  snapshot verify --key north/public/root.pub --document region.json notes
  snapshot part write --region north --slice notes/r07-u12.slice.note --policy approved/landfall-server-1.4.policy -o r07-u12.part`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(printable.NewWriter(stderr))
	root.AddCommand(captureCommand(), assembleCommand(), sliceCommand(), signCommand(), verifyCommand(), showCommand(), partCommand())
	root.AddCommand(amendCommand(), diffCommand(), importCommand(), renderCommand())
	return command.Execute(ctx, root, args)
}

// readFile reads a document; name may be - for standard input.
func readFile(cmd *cobra.Command, name string) ([]byte, error) {
	r := cmd.InOrStdin()
	if name != "-" {
		f, err := files.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("read %s: more than %d bytes", name, maxFile)
	}
	return b, nil
}

// people is standard output for what is no document.
func people(cmd *cobra.Command) io.Writer { return printable.NewWriter(cmd.OutOrStdout()) }

// terminal says whether a person looks at what is written there.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// output is a file that a command writes.
type output struct {
	name  string // - for standard output
	force bool
}

func (o *output) flags(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVarP(&o.name, "output", "o", "-", usage)
	cmd.Flags().BoolVar(&o.force, "force", false, "overwrite a file that exists")
}

// check refuses early what write would refuse.
func (o *output) check() error {
	if o.name == "-" {
		return nil
	}
	return files.Output{Force: o.force}.Check(o.name)
}

// write writes a document. perm is 0600 for what holds a token.
func (o *output) write(cmd *cobra.Command, perm os.FileMode, b []byte) error {
	if o.name == "-" {
		_, err := cmd.OutOrStdout().Write(b)
		return err
	}
	return files.Output{Perm: perm, Force: o.force}.Write(o.name, b)
}

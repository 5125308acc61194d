package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// maxFile bounds every document that is read from a file, in bytes.
const maxFile = 8 << 20

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	root := &cobra.Command{
		Use:   "snapshot",
		Short: "Make, sign and show the documents that a device carries",
		Long: `snapshot makes a device's slice, signs it with the region root, and writes it
onto the LANDFALL partition together with the PCR policies.

FILE may be - for standard input or output.`,
		Example: `  kekctl --region north device show r07-u12 --json >r07-u12.record.json
  snapshot slice --region north --record r07-u12.record.json r07-u12.json -o r07-u12.slice.json
  snapshot sign --key north/offline/root.key r07-u12.slice.json -o r07-u12.slice.note
  snapshot part write --slice r07-u12.slice.note --policy server.policy.json -o r07-u12.part`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(sliceCommand(), signCommand(), verifyCommand(), showCommand(), partCommand())
	return root.ExecuteContext(ctx)
}

// readFile reads a document; name may be - for standard input.
func readFile(cmd *cobra.Command, name string) ([]byte, error) {
	r := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
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

// writeFile writes a document whole or not at all; name may be - for standard
// output. perm is 0600 for what holds a token.
func writeFile(cmd *cobra.Command, name string, perm os.FileMode, b []byte) (err error) {
	if name == "-" {
		_, err := cmd.OutOrStdout().Write(b)
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".snapshot-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

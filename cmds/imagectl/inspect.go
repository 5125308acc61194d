package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/uki"
)

func inspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect FILE",
		Short: "List what is in a UKI or on a boot volume",
		Long: `inspect lists a UKI's sections, its command line and os-release, whether it is
signed for Secure Boot, and each file in its initrd. Of a disk image it lists the
partitions and what the LANDFALL partition carries. Signatures are not checked.
It reads no file system: for the UKI on a disk image, give it the .efi file that
make image wrote beside it.`,
		Example: `  imagectl inspect landfall-server.efi
  imagectl inspect landfall-server.raw`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := files.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			if isDisk(f) {
				if err := inspectDisk(cmd.OutOrStdout(), filepath.Base(args[0]), f); err != nil {
					return fmt.Errorf("%s: want an image that `make image` wrote: %w", args[0], err)
				}
				return nil
			}
			img, raw, err := readUKI(args[0])
			if err != nil {
				return err
			}
			return inspectUKI(cmd.OutOrStdout(), filepath.Base(args[0]), img, raw)
		},
	}
}

// inspectUKI writes what is in an image. All texts come quoted, since nothing
// says that they are ours.
func inspectUKI(w io.Writer, name string, img *uki.Image, raw []byte) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	signature := "not signed for Secure Boot"
	if img.Signed() {
		signature = "carries a Secure Boot signature (not checked)"
	}
	hash, kernelHash := img.Hash(), img.KernelHash()
	linux, _ := img.Section(".linux")
	cmdline, _ := img.Section(".cmdline")
	fmt.Fprintf(t, "%s:\tunified kernel image, %d bytes, %s\n", name, len(raw), signature)
	fmt.Fprintf(t, "SHA-256\t%x\n", sha256.Sum256(raw))
	fmt.Fprintf(t, "Authenticode\t%x\n", hash)
	fmt.Fprintf(t, "stub\tsystemd-stub %q\n", img.StubVersion())
	fmt.Fprintf(t, "kernel\t%s, Authenticode %x\n", kernelVersion(linux), kernelHash)
	fmt.Fprintf(t, "command line\t%q\n", cmdline)
	for _, line := range osReleaseLines(img) {
		fmt.Fprintf(t, "os-release\t%q\n", line)
	}
	fmt.Fprintf(t, "\nSECTION\tBYTES\tSHA-256\n")
	for _, s := range img.Sections {
		fmt.Fprintf(t, "%s\t%d\t%x\n", printable.Line(s.Name), len(s.Data), sha256.Sum256(s.Data))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return inspectInitrd(w, img)
}

func inspectInitrd(w io.Writer, img *uki.Image) error {
	initrd, ok := img.Section(".initrd")
	if !ok {
		return nil
	}
	files, err := listInitrd(initrd)
	if errors.Is(err, errInitrd) { // the rest was worth showing
		_, err = fmt.Fprintf(w, "\n%s\n", printable.Line(err.Error()))
		return err
	}
	if err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "\ninitrd, %d entries\nMODE         BYTES  SHA-256           NAME\n", len(files))
	for _, e := range files {
		fmt.Fprintln(&b, printable.Line(e.String()))
	}
	_, err = w.Write(b.Bytes())
	return err
}

func osReleaseLines(img *uki.Image) []string {
	text, ok := img.Section(".osrel")
	if !ok {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// sliceInput is what `slice` was asked for: one slice from a description, or
// those of a snapshot.
type sliceInput struct {
	region, record        string
	out                   output
	document, device, dir string
	all                   bool
}

func sliceCommand() *cobra.Command {
	var in sliceInput
	cmd := &cobra.Command{
		Use:   "slice --document SNAPSHOT (--all --dir DIR | --device ID) | --region DIR --record RECORD DESCRIPTION",
		Short: "Make unsigned slices from a region's snapshot, or one from a device's description",
		Long: `slice cuts the snapshot of a region into one slice for each device, or makes that
of one device.

Without a snapshot it completes the description of one device, written by a
person, with what no person should write: the names of its TPM keys from the
fleet's record (kekctl device show ID --json), volume UUIDs, key servers and
fleet CA. It lists every contradiction it finds, and writes nothing then.`,
		Example: `  snapshot slice --document region.json --all --dir slices
  snapshot slice --document region.json --device r07-u12 -o r07-u12.slice.json
  snapshot slice --region north --record r07-u12.record.json r07-u12.json -o r07-u12.slice.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return in.run(cmd, args) },
	}
	f := cmd.Flags()
	f.StringVar(&in.document, "document", "", "snapshot of the region, signed or not")
	f.BoolVar(&in.all, "all", false, "make the slices of all devices (with --document)")
	f.StringVar(&in.dir, "dir", "", "folder to write ID.slice.json into (with --all)")
	f.StringVar(&in.device, "device", "", "make the slice of this device (with --document)")
	f.StringVar(&in.region, "region", "", "folder that kekctl init made (its public/ is read)")
	f.StringVar(&in.record, "record", "", "the fleet's record of the device, JSON")
	in.out.flags(cmd, "file to write")
	cmd.MarkFlagsMutuallyExclusive("document", "region")
	cmd.MarkFlagsMutuallyExclusive("all", "device")
	cmd.MarkFlagsMutuallyExclusive("dir", "output")
	cmd.MarkFlagsOneRequired("document", "region")
	cmd.MarkFlagsRequiredTogether("all", "dir")
	cmd.MarkFlagsRequiredTogether("region", "record")
	return cmd
}

func (in *sliceInput) run(cmd *cobra.Command, args []string) error {
	switch {
	case in.document == "" && len(args) != 1:
		return errors.New("name the description of one device")
	case in.document == "":
		s, err := makeSlice(cmd, in.region, in.record, args[0])
		if err != nil {
			return err
		}
		return writeDocument(cmd, in.out, s)
	case len(args) > 0 || in.all == (in.device != ""):
		return errors.New("with --document: say --all and --dir, or one --device, and no description")
	}
	doc, err := readDocument(cmd, in.document)
	if err != nil {
		return err
	}
	if in.all {
		n, err := writeSlices(in.dir, doc.Slices())
		if err == nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s of snapshot %d of region %s in %s\n", printable.Count(n, "slice"), doc.Generation, doc.Region, in.dir)
		}
		return err
	}
	s := doc.Slice(in.device)
	if s == nil {
		return fmt.Errorf("%s: region %s has no device %q", in.document, doc.Region, in.device)
	}
	return writeDocument(cmd, in.out, s)
}

func writeDocument(cmd *cobra.Command, out output, v any) error {
	text, err := signed.Marshal(v)
	if err != nil {
		return err
	}
	return out.write(cmd, 0o644, text)
}

// writeSlices writes each slice into a folder that is new or empty: a slice of
// another time must not be signed with them.
func writeSlices(dir string, all iter.Seq[*snapshot.Slice]) (n int, err error) {
	if err := emptyDir(dir); err != nil {
		return 0, err
	}
	for s := range all {
		text, err := signed.Marshal(s)
		if err != nil {
			return n, err
		}
		if err := (files.Output{Perm: 0o644, Hasty: true}).Write(filepath.Join(dir, s.Device.ID+".slice.json"), text); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// emptyDir makes a folder, or takes one that is empty.
func emptyDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty: choose another folder", dir)
	}
	return nil
}

// mustRequire panics on a flag that does not exist: a mistake in this program.
func mustRequire(cmd *cobra.Command, flags ...string) {
	for _, f := range flags {
		if err := cmd.MarkFlagRequired(f); err != nil {
			panic(err)
		}
	}
}

func makeSlice(cmd *cobra.Command, regionDir, record, description string) (*snapshot.Slice, error) {
	region, ca, err := readRegion(cmd, regionDir)
	if err != nil {
		return nil, err
	}
	text, err := readFile(cmd, record)
	if err != nil {
		return nil, err
	}
	var info kekproto.DeviceInfo
	if err := json.Unmarshal(text, &info); err != nil {
		return nil, fmt.Errorf("%s: no record of the fleet (`kekctl device show ID --json`): %w", record, signed.Where(text, err))
	}
	if err := untyped(text); err != nil {
		return nil, fmt.Errorf("%s: %w", record, err)
	}
	if info.Device == "" {
		return nil, fmt.Errorf("%s: no record of the fleet (`kekctl device show ID --json`): it names no device", record)
	}
	if text, err = readFile(cmd, description); err != nil {
		return nil, err
	}
	s, err := snapshot.ParseDescription(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", description, likeExample("r07-u12.json", err))
	}
	switch {
	case info.Device != s.Device.ID:
		return nil, fmt.Errorf("%s is of device %q, %s describes %q", record, info.Device, description, s.Device.ID)
	case !info.Enrolled:
		return nil, fmt.Errorf("device %s is not enrolled yet: boot it in the factory image first", info.Device)
	}
	if err := s.Complete(region, ca, tpmKeys(&info)); err != nil {
		return nil, fmt.Errorf("%s:\n%w", description, err)
	}
	return s, nil
}

// readPublic reads a file of a region's folder.
func readPublic(cmd *cobra.Command, dir, file string) ([]byte, error) {
	text, err := readFile(cmd, file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, fmt.Errorf("--region %s is no region's folder, which `kekctl init` makes: it has no %s", dir, file)
	}
	return text, err
}

// readRegion reads public/region.json and the fleet CA (DER).
func readRegion(cmd *cobra.Command, dir string) (*snapshot.Region, []byte, error) {
	file := filepath.Join(dir, "public", "region.json")
	text, err := readPublic(cmd, dir, file)
	if err != nil {
		return nil, nil, err
	}
	if is, isSigned := signed.Type(text); isSigned || is != snapshot.RegionType {
		return nil, nil, fmt.Errorf("%s: want the region.json that `kekctl init` wrote; it is %s", file, signed.Kind(text))
	}
	r := new(snapshot.Region)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, nil, fmt.Errorf("%s: want the region.json that `kekctl init` wrote: %w", file, signed.Where(text, err))
	}
	file = filepath.Join(dir, "public", "ca.pem")
	if text, err = readPublic(cmd, dir, file); err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, nil, fmt.Errorf("%s: want the certificate in PEM that `kekctl init` wrote; it is %s", file, signed.Kind(text))
	}
	if cert, err := x509.ParseCertificate(block.Bytes); err != nil || !cert.IsCA {
		return nil, nil, fmt.Errorf("%s: this certificate is no CA's: put the ca.pem there that `kekctl init` wrote", file)
	}
	for _, m := range r.Members {
		if m.Loopback() {
			fmt.Fprintf(cmd.ErrOrStderr(), "WARNING: key server %s is at %s, which no device but its own machine reaches\n", m.ID, m.URL)
		}
	}
	return r, block.Bytes, nil
}

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/diskimage"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// row is one device of the table.
type row struct {
	Device string          `json:"device"`
	Names  []string        `json:"names"`
	Token  bool            `json:"token"` // not used yet
	Slice  uint64          `json:"slice,omitempty"`
	Plan   string          `json:"plan,omitempty"`
	Result *report.Factory `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

func showCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show DIR [DEVICE...]",
		Short: "List the devices, what they get and what they said last",
		Long: `show lists what the folder has for each device, and what the machine said last. That
a device is accepted, and so safe to ship, the fleet knows: kekctl devices.`,
		Example: `  station show station
  station show station r07-u12 --json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rows, err := folder(args[0]).rows(args[1:])
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				err = e.Encode(rows)
			} else {
				err = table(cmd.OutOrStdout(), rows)
			}
			return errors.Join(err, folder(args[0]).checkModels())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON, with the whole result")
	return cmd
}

func (d folder) rows(ids []string) ([]row, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	for _, id := range ids {
		if !d.has(id) {
			return nil, fmt.Errorf("the station has no device %q", id)
		}
	}
	if len(ids) == 0 {
		var err error
		if ids, err = d.devices(); err != nil {
			return nil, err
		}
	}
	rows := []row{}
	for _, id := range ids {
		r, err := d.row(id)
		if err != nil {
			r.Error = err.Error()
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func (d folder) row(id string) (row, error) {
	r := row{Device: id}
	dev, err := d.device(id)
	if err != nil {
		return r, err
	}
	for key := range dev.keys() {
		r.Names = append(r.Names, key)
	}
	token, err := d.optional(id, tokenFile, maxToken)
	if err != nil {
		return r, err
	}
	r.Token = token != nil
	slice, err := d.optional(id, sliceFile, snapshot.MaxSliceSize)
	if err != nil {
		return r, err
	}
	r.Slice = uint64(sliceOf(slice).Generation)
	if r.Result, err = d.result(id); err != nil {
		return r, err
	}
	model := ""
	if r.Result != nil {
		model = r.Result.Model
	}
	_, r.Plan, err = d.plan(id, model)
	return r, err
}

// checkModels says what is wrong with the plans of the models: no machine says so
// before one of that model asks.
func (d folder) checkModels() error {
	if _, err := d.models(); err != nil {
		return fmt.Errorf("no machine without a plan of its own gets one: %w", err)
	}
	return nil
}

func table(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DEVICE\tTOLD BY\tTOKEN\tSLICE\tPLAN\tSAID LAST")
	for _, r := range rows {
		token, slice := "-", "-"
		if r.Token {
			token = "unused"
		}
		if r.Slice > 0 {
			slice = fmt.Sprint(r.Slice)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Device, orDash(strings.Join(r.Names, ", ")), token, slice, orDash(r.Plan), lastOf(r))
	}
	return t.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func lastOf(r row) string {
	switch f := r.Result; {
	case r.Error != "":
		return "NOT READABLE: " + r.Error
	case f == nil:
		return "-"
	default:
		return strings.TrimPrefix(brief(f), "says: ")
	}
}

func imageCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "image DIR FILE",
		Short: "Print what a plan has to say about a disk image of the folder",
		Long: `image reads a file in the folder images/ and prints the object "image" of a volume
in a seal plan, with size and SHA-256. Formats: a raw image of the volume, the
same compressed with zstd (` + "`zstd FILE`" + `, which keeps the size), or qcow2.`,
		Example: `  cp debian.qcow2 station/images/
  station image station debian.qcow2`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			im, err := folder(args[0]).describe(args[1], format)
			if err != nil {
				return err
			}
			e := json.NewEncoder(cmd.OutOrStdout())
			e.SetIndent("", "  ")
			return e.Encode(im)
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "raw, raw.zst or qcow2 (default: by the file's name)")
	return cmd
}

// describe hashes an image of the folder, named with or without images/.
func (d folder) describe(name, format string) (*snapshot.VolumeImage, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	name = strings.TrimPrefix(strings.TrimPrefix(name, d.path()+"/"), imagesDir+"/")
	if format == "" {
		format = string(formatOf(name))
	}
	f, size, err := d.open(imagesDir, name)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w (it must lie in %s)", name, err, d.path(imagesDir))
	}
	defer f.Close()
	h := sha256.New()
	if n, err := io.Copy(h, f); err != nil || n != size {
		return nil, fmt.Errorf("image %q: read %d of %d bytes: %w", name, n, size, err)
	}
	return &snapshot.VolumeImage{URL: imagesDir + "/" + name, Format: format, SHA256: hex.EncodeToString(h.Sum(nil)), Bytes: size}, nil
}

func formatOf(name string) diskimage.Format {
	switch {
	case strings.HasSuffix(name, ".qcow2"):
		return diskimage.Qcow2
	case strings.HasSuffix(name, ".zst"):
		return diskimage.RawZstd
	}
	return diskimage.Raw
}

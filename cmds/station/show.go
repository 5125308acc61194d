package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// row is one device of the table.
type row struct {
	Device string          `json:"device"`
	Names  []string        `json:"names"`
	Token  bool            `json:"token"` // not used yet
	Used   bool            `json:"token_used,omitempty"`
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
			return errors.Join(err, folder(args[0]).checkShared())
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
	token, err := d.token(id, tokenFile)
	if err != nil {
		return r, err
	}
	used, err := d.token(id, usedFile)
	if err != nil {
		return r, err
	}
	r.Token, r.Used = token != nil, used != nil
	slice, err := d.optional(id, sliceFile, snapshot.MaxSliceSize)
	if err != nil {
		return r, err
	}
	if slice != nil {
		if err := d.verifySlice(d.ofDevice(id, sliceFile), id, slice); err != nil {
			return r, err
		}
		r.Slice = uint64(sliceOf(slice).Generation)
	}
	if r.Result, err = d.result(id); err != nil {
		return r, err
	}
	model := ""
	if r.Result != nil {
		model = r.Result.Model
	}
	p, from, err := d.plan(id, model)
	if err != nil {
		return r, err
	}
	r.Plan = from
	if p != nil && from == fromDevice {
		err = d.checkImages(planFile, p)
	}
	return r, err
}

// checkShared says what is wrong with the plans of the models and with the PCR
// policies: no machine says so before one asks.
func (d folder) checkShared() error {
	var errs []error
	if _, err := d.policies(); err != nil {
		errs = append(errs, fmt.Errorf("no machine gets anything: %w", err))
	}
	models, err := d.models()
	if err != nil {
		errs = append(errs, fmt.Errorf("no machine without a plan of its own gets one: %w", err))
	}
	for _, name := range slices.Sorted(maps.Keys(models)) {
		errs = append(errs, d.checkImages(models[name].from, models[name].plan))
	}
	return errors.Join(errs...)
}

func table(w io.Writer, rows []row) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "no device was added; `station add DIR DEVICE`")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DEVICE\tTOLD BY\tTOKEN\tSLICE\tPLAN\tSAID LAST")
	for _, r := range rows {
		token, slice := "-", "-"
		switch {
		case r.Token:
			token = "unused"
		case r.Used:
			token = "used"
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
		return "NOT READABLE: " + strings.ReplaceAll(r.Error, "\n", "; ")
	case f == nil:
		return "-"
	default:
		return strings.TrimPrefix(brief(f), "says: ")
	}
}

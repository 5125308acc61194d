package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/measure"
)

// prediction is what `measure --json` writes.
type prediction struct {
	File   string           `json:"file"`
	SHA256 measure.Hex      `json:"sha256"`
	Forms  []formPrediction `json:"forms"`
}

type formPrediction struct {
	Form   measure.Form        `json:"form"`
	PCRs   map[int]measure.Hex `json:"pcrs"`
	Events []measure.Event     `json:"events"`
}

func measureCommand() *cobra.Command {
	var (
		forms  []string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "measure UKI",
		Short: "Predict what starting a UKI measures into the image PCRs",
		Long: `measure computes, from the file alone, each event that firmware, systemd-stub
and the kernel's EFI stub extend the PCRs 4, 9, 11 and 12 with, and the values
that result. uinit prints the real ones on a line "measured sha256 ...".`,
		Example: `  imagectl measure landfall-server.efi
  imagectl measure landfall-server.efi --form uki --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := predict(args[0], forms)
			if err != nil {
				return err
			}
			if !asJSON {
				return p.write(cmd.OutOrStdout())
			}
			e := json.NewEncoder(cmd.OutOrStdout())
			e.SetIndent("", "  ")
			return e.Encode(p)
		},
	}
	cmd.Flags().StringArrayVar(&forms, "form", nil, "boot form, may be given again: uki, uki-ipxe or uki-secureboot; else all that the file can be started in")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

func predict(name string, forms []string) (*prediction, error) {
	img, raw, err := readUKI(name)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	p := &prediction{File: filepath.Base(name), SHA256: sum[:]}
	for _, form := range ukiForms(forms, img) {
		events, err := img.Events(form)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		pcrs := map[int]measure.Hex{}
		for n, v := range measure.Replay(events) {
			pcrs[n] = v
		}
		p.Forms = append(p.Forms, formPrediction{form, pcrs, events})
	}
	return p, nil
}

func (p *prediction) write(w io.Writer) error {
	for _, f := range p.Forms {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(t, "%s, form %s\n\nPCR\tEXTENDED WITH\tWHAT\n", p.File, f.Form)
		for _, e := range f.Events {
			fmt.Fprintf(t, "%d\t%s\t%s\n", e.PCR, e.Digest, e.What)
		}
		fmt.Fprintf(t, "\nmeasured sha256")
		for _, n := range measure.ImagePCRs() {
			fmt.Fprintf(t, " %d=%s", n, f.PCRs[n])
		}
		fmt.Fprintf(t, "\n\n")
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/snapshot/draw"
)

// renderInput is what `render` was asked for.
type renderInput struct {
	links, rack, format, color, dir string
	all                             bool
	out                             output
}

func renderCommand() *cobra.Command {
	var in renderInput
	cmd := &cobra.Command{
		Use:   "render SNAPSHOT",
		Short: "Draw a region or a rack, with what is wrong with its links",
		Long: `render draws a snapshot as a tree for a terminal, or as SVG. With the reports
of the devices (kekctl links --json) it lists what is to be repaired, and shows
which devices and ports are concerned; without them it is the cabling plan.

Without --rack an SVG is the overview of a region, and a region of one rack is
that rack. --dir writes the overview as index.svg, and each rack beside it.`,
		Example: `  kekctl --region north --as alice links --json >links.json
  snapshot render region.json --links links.json
  snapshot render region.json --links links.json --rack r07 -o r07.svg
  snapshot render region.json --links links.json --dir board`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return in.run(cmd, args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&in.links, "links", "", "reports of links: JSON, an array or one after the other")
	f.StringVar(&in.rack, "rack", "", "draw this rack alone")
	f.StringVar(&in.format, "format", "", "tree or svg (default: svg if the output's name ends so)")
	f.StringVar(&in.color, "color", "auto", "colours in a tree: auto, always or never")
	in.out.flags(cmd, "file to write")
	f.StringVar(&in.dir, "dir", "", "folder to write index.svg and rack-RACK.svg into")
	f.BoolVar(&in.all, "all", false, "show in a tree what is in order, too")
	cmd.MarkFlagsMutuallyExclusive("dir", "output")
	cmd.MarkFlagsMutuallyExclusive("dir", "rack")
	cmd.MarkFlagsMutuallyExclusive("dir", "format")
	return cmd
}

func (in *renderInput) run(cmd *cobra.Command, name string) error {
	doc, err := readDocument(cmd, name)
	if err != nil {
		return err
	}
	var reports []*report.LinkReport
	if in.links != "" {
		text, err := readFile(cmd, in.links)
		if err != nil {
			return err
		}
		if reports, err = parseReports(text); err != nil {
			return fmt.Errorf("%s: want what `kekctl links --json` prints: %w", in.links, err)
		}
	}
	m := draw.New(doc, reports)
	if in.dir != "" {
		return in.folder(m)
	}
	var out bytes.Buffer
	if err := in.draw(cmd, m, &out); err != nil {
		return err
	}
	return in.out.write(cmd, 0o644, out.Bytes())
}

// parseReports reads reports, strictly: an array of them, or one after the
// other. There may be one for each device of a region. The stream is only split
// here: ParseLinkReport is strict about each.
func parseReports(text []byte) ([]*report.LinkReport, error) {
	var all []*report.LinkReport
	take := func(raw json.RawMessage) error {
		if len(all) == snapshot.MaxDevices {
			return fmt.Errorf("more than %d reports", snapshot.MaxDevices)
		}
		r, err := report.ParseLinkReport(raw)
		if err == nil {
			err = knownVerdicts(r)
		}
		if err != nil {
			return fmt.Errorf("report %d: %w", len(all)+1, err)
		}
		all = append(all, r)
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	for {
		var raw json.RawMessage
		if err := d.Decode(&raw); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, signed.Where(text, err)
		}
		items := []json.RawMessage{raw}
		if raw[0] == '[' {
			if err := json.Unmarshal(raw, &items); err != nil {
				return nil, err
			}
		}
		for _, item := range items {
			if err := take(item); err != nil {
				return nil, err
			}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("there is no report in it: no device has reported its links yet")
	}
	return all, nil
}

// knownVerdicts refuses words that would be drawn as if they meant something.
func knownVerdicts(r *report.LinkReport) error {
	for _, l := range r.Links {
		if _, ok := linkcheck.ParseVerdict(l.Verdict); !ok {
			return fmt.Errorf("%s %s: %q is no verdict that this version knows (docs/spec/linkcheck.md): was the report edited, or made by a newer image?", r.Device, l.Interface, l.Verdict)
		}
	}
	return nil
}

func (in *renderInput) draw(cmd *cobra.Command, m *draw.Model, w io.Writer) error {
	format := in.format
	if format == "" {
		format = "tree"
		if strings.HasSuffix(in.out.name, ".svg") {
			format = "svg"
		}
	}
	switch format {
	case "tree":
		color, err := in.colored(cmd)
		if err != nil {
			return err
		}
		return m.Tree(w, draw.TreeOptions{Rack: in.rack, All: in.all, Color: color})
	case "svg":
		if in.rack == "" {
			return m.SVG(w)
		}
		return m.RackSVG(w, in.rack)
	}
	return fmt.Errorf("--format %q: must be tree or svg", format)
}

// colored decides about colours. NO_COLOR: https://no-color.org
func (in *renderInput) colored(cmd *cobra.Command) (bool, error) {
	switch in.color {
	case "always", "never":
		return in.color == "always", nil
	case "auto":
		return in.out.name == "-" && os.Getenv("NO_COLOR") == "" && terminal(cmd.OutOrStdout()), nil
	}
	return false, fmt.Errorf("--color %q: must be auto, always or never", in.color)
}

// folder writes the overview and all racks, which it leads to.
func (in *renderInput) folder(m *draw.Model) error {
	write := files.Output{Perm: 0o644, Force: in.out.force}
	if err := os.MkdirAll(in.dir, 0o755); err != nil {
		return err
	}
	var out bytes.Buffer
	if err := m.OverviewSVG(&out, true); err != nil {
		return err
	}
	if err := write.Write(filepath.Join(in.dir, "index.svg"), out.Bytes()); err != nil {
		return err
	}
	for rack, file := range m.Files() {
		out.Reset()
		if err := m.RackSVG(&out, rack); err != nil {
			return err
		}
		if err := write.Write(filepath.Join(in.dir, file), out.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

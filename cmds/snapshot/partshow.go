package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

func partShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show PARTITION",
		Short: "List what is on a LANDFALL partition, or on a disk that holds one",
		Long: `show lists a partition's content. It verifies no signature; snapshot verify does.
The token is never shown.`,
		Example: `  snapshot part show /dev/disk/by-partlabel/LANDFALL`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return showPart(cmd, args[0]) },
	}
	return cmd
}

func showPart(cmd *cobra.Command, name string) error {
	f, err := files.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("size of %s: %w", name, err)
	}
	var r io.ReaderAt = f
	off, n, none := findPartition(f)
	if none == nil {
		r, size = io.NewSectionReader(f, off, n), n
	} else if !errors.Is(none, snapshot.ErrNoPartition) {
		return fmt.Errorf("%s: want a LANDFALL partition, as `snapshot part write` makes it: %w", name, none)
	}
	p, err := snapshot.ReadPart(r, size)
	if errors.Is(err, snapshot.ErrPart) && none != nil {
		err = fmt.Errorf("%w (nor is it a disk with one: %w)", err, none)
	}
	if err != nil {
		return fmt.Errorf("%s: want a LANDFALL partition, as `snapshot part write` makes it: %w", name, err)
	}
	w := people(cmd)
	fmt.Fprintln(w, "slice   ", describeSlice(p.Slice))
	for _, b := range p.Policies {
		var head struct{ Role, Image string }
		if err := json.Unmarshal(b, &head); err != nil {
			return fmt.Errorf("%s: a PCR policy is not readable: %w", name, err)
		}
		fmt.Fprintf(w, "policy   for %q, role %q\n", head.Image, head.Role)
	}
	station := "none"
	if p.Station != nil {
		s, err := snapshot.ParseStation(p.Station)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		station = describeStation(s)
	}
	fmt.Fprintln(w, "station ", station)
	token := "none, or used"
	if p.Token != nil {
		token = "unused"
	}
	fmt.Fprintln(w, "token   ", token)
	plan := "none"
	if p.Plan != nil {
		s, err := snapshot.ParseSealPlan(p.Plan)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		plan = fmt.Sprintf("%s, for %s", printable.Count(len(s.Volumes), "volume"), s.For())
	}
	fmt.Fprintln(w, "plan    ", plan)
	return nil
}

func describeStation(s *snapshot.Station) string {
	var members []string
	for _, m := range s.Fleet.Members {
		members = append(members, m.URL)
	}
	text := cmp.Or(s.Device, "any device") + ", key servers " + strings.Join(members, ", ")
	if s.Source != nil {
		text += ", station " + s.Source.URL
	}
	return text
}

// describeSlice decodes the slice without looking at its signature; it quotes
// what it shows, for anybody may have written it.
func describeSlice(note []byte) string {
	if note == nil {
		return "none"
	}
	s, err := snapshot.PeekSlice(note)
	if err != nil {
		return "not readable: " + err.Error()
	}
	return fmt.Sprintf("%d of %q, region %q (not verified)", s.Generation, s.Device.ID, s.Region)
}

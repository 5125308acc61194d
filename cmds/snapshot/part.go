package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

func partCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "part",
		Short: "Write and read the LANDFALL partition",
	}
	cmd.AddCommand(partWriteCommand(), partShowCommand())
	return cmd
}

// partInput is what `part write` was asked for.
type partInput struct {
	slice, token  string
	plan          string
	policies      []string
	region        string
	stationDevice string
	stationFile   string
	diskMiB       int64
	out           string
	force         bool
}

func partWriteCommand() *cobra.Command {
	var in partInput
	cmd := &cobra.Command{
		Use:   "write",
		Short: "Write the content of a LANDFALL partition",
		Long: `write makes the content of a device's LANDFALL partition, or with --disk-mib a
whole disk that holds one. Before enrolment that is a station document and a
one-use token; after it the signed slice and the PCR policies, and where no factory
station hands it out, a seal plan. A file that exists is overwritten with --force only; a device never: copy the file onto it.`,
		Example: `  snapshot part write --region north --station r07-u12 --token r07-u12.token -o r07-u12.part
  snapshot part write --station-file station/station.json -o factory.part
  snapshot part write --slice r07-u12.slice.note --policy server.policy.json --policy factory.policy.json -o r07-u12.part
  snapshot part write --slice r07-u12.slice.note --policy factory.policy.json --plan r07-u12.plan.json -o r07-u12.part
  snapshot part write --slice r07-u12.slice.note --policy server.policy.json --disk-mib 16 -o landfall.img`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return in.write(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&in.slice, "slice", "", "signed slice")
	f.StringArrayVar(&in.policies, "policy", nil, "signed PCR policy; may be given again")
	f.StringVar(&in.stationDevice, "station", "", "device ID for a station document (needs --region)")
	f.StringVar(&in.stationFile, "station-file", "", "station document that station init made, for any device")
	f.StringVar(&in.region, "region", "", "folder that kekctl init made")
	f.StringVar(&in.plan, "plan", "", "seal plan, for a factory without a station")
	f.StringVar(&in.token, "token", "", "file with the one-use enrolment token")
	f.Int64Var(&in.diskMiB, "disk-mib", 0, "write a whole disk of that many MiB with one GPT partition")
	f.StringVarP(&in.out, "output", "o", "-", "file to write")
	f.BoolVar(&in.force, "force", false, "overwrite a file that exists")
	return cmd
}

func (in *partInput) write(cmd *cobra.Command) error {
	if err := in.checkOutput(); err != nil {
		return err
	}
	p, err := in.collect(cmd)
	if err != nil {
		return err
	}
	if p.Slice == nil && p.Policies == nil && p.Station == nil && p.Token == nil && p.Plan == nil {
		return errors.New("nothing to write: name a --slice, a --policy or a --station")
	}
	b, err := p.Bytes()
	if err != nil {
		return err
	}
	if in.diskMiB > 0 {
		if in.diskMiB > 1024 {
			return errors.New("--disk-mib: more than 1024 MiB is never needed")
		}
		if b, err = snapshot.DiskImage(b, in.diskMiB<<20); err != nil {
			return err
		}
	}
	perm := os.FileMode(0o644)
	if p.Token != nil {
		perm = 0o600
	}
	return writeFile(cmd, in.out, perm, b)
}

// checkOutput keeps the partition of another device, or one with an unused
// token, from being lost by a wrong name.
func (in *partInput) checkOutput() error {
	if in.out == "-" {
		return nil
	}
	info, err := os.Stat(in.out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file: write to one, and copy that", in.out)
	case !in.force:
		return fmt.Errorf("%s exists: choose another name, or --force", in.out)
	}
	return nil
}

// readPartFile refuses what a partition would carry as if it were there.
func readPartFile(cmd *cobra.Command, name string) ([]byte, error) {
	b, err := readFile(cmd, name)
	if err == nil && len(bytes.TrimSpace(b)) == 0 {
		return nil, fmt.Errorf("%s is empty", name)
	}
	return b, err
}

func (in *partInput) collect(cmd *cobra.Command) (*snapshot.Part, error) {
	p := new(snapshot.Part)
	var err error
	if in.slice != "" {
		if p.Slice, err = readPartFile(cmd, in.slice); err != nil {
			return nil, err
		}
	}
	for _, name := range in.policies {
		b, err := readPartFile(cmd, name)
		if err != nil {
			return nil, err
		}
		p.Policies = append(p.Policies, b)
	}
	if in.token != "" {
		if p.Token, err = readPartFile(cmd, in.token); err != nil {
			return nil, err
		}
	}
	if in.plan != "" {
		if p.Plan, err = readPartFile(cmd, in.plan); err != nil {
			return nil, err
		}
		if _, err = snapshot.ParseSealPlan(p.Plan); err != nil {
			return nil, fmt.Errorf("%s: %w", in.plan, err)
		}
	}
	switch {
	case in.stationDevice != "" && in.stationFile != "":
		return nil, errors.New("name --station or --station-file, not both")
	case in.stationFile != "":
		if p.Station, err = readPartFile(cmd, in.stationFile); err != nil {
			return nil, err
		}
		_, err = snapshot.ParseStation(p.Station)
		return p, err
	case in.stationDevice == "":
		return p, nil
	}
	region, ca, err := readRegion(cmd, in.region)
	if err != nil {
		return nil, err
	}
	station := &snapshot.Station{Type: snapshot.StationType, Device: in.stationDevice,
		Fleet: snapshot.Fleet{CA: ca, Members: region.Members}}
	p.Station, err = station.Bytes()
	return p, err
}

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
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("size of %s: %w", name, err)
	}
	var r io.ReaderAt = f
	off, n, err := snapshot.FindPartition(f)
	if err == nil {
		r, size = io.NewSectionReader(f, off, n), n
	} else if !errors.Is(err, snapshot.ErrNoPartition) {
		return err
	}
	p, err := snapshot.ReadPart(r, size)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	w := cmd.OutOrStdout()
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
		plan = fmt.Sprintf("%d volumes, for %s", len(s.Volumes), s.For())
	}
	fmt.Fprintln(w, "plan    ", plan)
	return nil
}

func describeStation(s *snapshot.Station) string {
	text := fmt.Sprintf("%s, %d key servers", s.Device, len(s.Fleet.Members))
	if s.Device == "" {
		text = fmt.Sprintf("any device, %d key servers", len(s.Fleet.Members))
	}
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
	var s snapshot.Slice
	if err := json.NewDecoder(bytes.NewReader(note)).Decode(&s); err != nil {
		return "not readable: " + err.Error()
	}
	return fmt.Sprintf("%d of %q, region %q (not verified)", s.Generation, s.Device.ID, s.Region)
}

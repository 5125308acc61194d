package main

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/signed"
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
	region, key   string
	stationDevice string
	stationFile   string
	diskMiB       int64
	sectorSize    int
	onto          string
	out           output
}

func partWriteCommand() *cobra.Command {
	var in partInput
	cmd := &cobra.Command{
		Use:   "write",
		Short: "Write the content of a LANDFALL partition",
		Long: `write makes the content of a device's LANDFALL partition, or with --disk-mib a
whole disk that holds one. Before enrolment that is a station document and a
one-use token; after it the signed slice and the PCR policies, which are verified
with the region's keys, and where no factory station hands it out, a seal plan.

--onto puts it where a machine finds it: into the partition named LANDFALL that a
disk, or the disk image of a boot volume, has. Nothing beside that partition is
written, and what it holds already is overwritten with --force only. A damaged
partition table is refused, and so is one that has two partitions LANDFALL, or one
that lies over something else.

-o writes a file; one that exists is overwritten with --force only.`,
		Example: `  snapshot part write --region north --station r07-u12 --token r07-u12.token -o r07-u12.part
  snapshot part write --station-file station/station.json -o factory.part
  snapshot part write --region north --slice r07-u12.slice.note --policy approved/landfall-server-1.4.policy --policy approved/landfall-factory-1.4.policy -o r07-u12.part
  snapshot part write --region north --slice r07-u12.slice.note --policy approved/landfall-factory-1.4.policy --plan r07-u12.plan.json -o r07-u12.part
  snapshot part write --region north --slice r07-u12.slice.note --policy approved/landfall-server-1.4.policy --disk-mib 16 -o landfall.img
  snapshot part write --region north --slice r07-u12.slice.note --onto out/server.disk
  snapshot part write --region north --slice r07-u12.slice.note --onto /dev/nvme0n1 --force`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return in.write(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&in.slice, "slice", "", "signed slice")
	f.StringArrayVar(&in.policies, "policy", nil, "signed PCR policy; may be given again")
	f.StringVar(&in.stationDevice, "station", "", "device ID for a station document (needs --region)")
	f.StringVar(&in.stationFile, "station-file", "", "station document that station init made, for any device")
	f.StringVar(&in.region, "region", "", "folder that kekctl init made: by its public/ slice and policies are verified")
	f.StringVar(&in.key, "key", "", "file of the region root's public key, where the folder is not at hand")
	f.StringVar(&in.plan, "plan", "", "seal plan, for a factory without a station")
	f.StringVar(&in.token, "token", "", "file with the one-use enrolment token")
	f.Int64Var(&in.diskMiB, "disk-mib", 0, "write a whole disk of that many MiB with one GPT partition")
	f.IntVar(&in.sectorSize, "sector-size", 512, "logical sectors of that disk in bytes: 512 or 4096 (blockdev --getss says it)")
	f.StringVar(&in.onto, "onto", "", "disk, or disk image, with a partition LANDFALL to write into")
	in.out.flags(cmd, "file to write")
	cmd.MarkFlagsMutuallyExclusive("onto", "output")
	cmd.MarkFlagsMutuallyExclusive("onto", "disk-mib")
	cmd.MarkFlagsMutuallyExclusive("onto", "sector-size")
	return cmd
}

func (in *partInput) write(cmd *cobra.Command) error {
	if err := in.out.check(); err != nil {
		return err
	}
	if in.onto == "" && in.out.name == "-" && terminal(cmd.OutOrStdout()) {
		return errors.New("a partition is nothing for a terminal: say --onto DISK, where a machine finds it, or -o FILE")
	}
	p, err := in.collect(cmd)
	if err != nil {
		return err
	}
	if p.Slice == nil && p.Policies == nil && p.Station == nil {
		return errors.New("nothing that a machine could begin with: name a --slice, a --policy, a --station or a --station-file")
	}
	if err := ofOneDevice(p); err != nil {
		return err
	}
	if cmd.Flags().Changed("onto") { // given empty, too: then it is not stdout that was meant
		return in.putOnto(cmd, p)
	}
	b, err := p.Bytes()
	if err != nil {
		return err
	}
	if cmd.Flags().Changed("disk-mib") {
		if in.diskMiB < 3 || in.diskMiB > 1024 {
			return fmt.Errorf("--disk-mib: %d, must be 3 to 1024", in.diskMiB)
		}
		if !slices.Contains(snapshot.SectorSizes(), in.sectorSize) {
			return fmt.Errorf("--sector-size: %d, must be 512 or 4096", in.sectorSize)
		}
		if b, err = snapshot.DiskImage(b, in.diskMiB<<20, in.sectorSize); err != nil {
			return err
		}
	}
	if cmd.Flags().Changed("sector-size") && !cmd.Flags().Changed("disk-mib") {
		return errors.New("--sector-size is of the disk that --disk-mib writes: name both, or neither")
	}
	perm := os.FileMode(0o644)
	if p.Token != nil {
		perm = 0o600
	}
	return in.out.write(cmd, perm, b)
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
		if err := in.verifySlice(cmd, p.Slice); err != nil {
			return nil, err
		}
	}
	policyKey, err := in.policyKey(cmd)
	if err != nil {
		return nil, err
	}
	for _, name := range in.policies {
		b, err := readPartFile(cmd, name)
		if err != nil {
			return nil, err
		}
		policy, err := pcrpolicy.Parse(b)
		if err == nil && policyKey != nil {
			err = policy.Verify(policyKey)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: want a policy of this region, which `imagectl sign` writes: %w", name, err)
		}
		p.Policies = append(p.Policies, b)
	}
	if in.token != "" {
		if p.Token, err = files.Secret(in.token); err != nil {
			return nil, err
		}
		if !kekproto.IsToken(string(bytes.TrimSpace(p.Token))) {
			return nil, fmt.Errorf("%s holds no enrolment token: `kekctl device add DEVICE --token-file FILE` writes one", in.token)
		}
	}
	if in.plan != "" {
		if p.Plan, err = readPartFile(cmd, in.plan); err != nil {
			return nil, err
		}
		if _, err = snapshot.ParseSealPlan(p.Plan); err != nil {
			return nil, fmt.Errorf("%s: %w (docs/spec/seal-plan.md tells its form)", in.plan, err)
		}
	}
	p.Station, err = in.station(cmd)
	return p, err
}

// verifySlice refuses a slice that its machine would refuse.
func (in *partInput) verifySlice(cmd *cobra.Command, msg []byte) error {
	if sliceDevice(msg) == "" {
		return fmt.Errorf("%s is no slice, but %s: `snapshot sign` writes one", in.slice, signed.Kind(msg))
	}
	key := in.key
	switch {
	case key == "" && in.region == "":
		return errors.New("--slice needs --region, the folder that kekctl init made, or --key: a machine refuses a slice that its region's root did not sign, so it is verified before it travels")
	case key == "":
		key = filepath.Join(in.region, "public", "root.pub")
	}
	_, _, err := openSlice(cmd, key, in.slice)
	return err
}

// policyKey is the region's, nil where only another key is at hand.
func (in *partInput) policyKey(cmd *cobra.Command) (*rsa.PublicKey, error) {
	if in.region == "" {
		return nil, nil
	}
	name := filepath.Join(in.region, "public", "policy.pub")
	text, err := readPublic(cmd, in.region, name)
	if err != nil {
		return nil, err
	}
	key, err := pcrpolicy.ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; `kekctl init` wrote it there", name, err)
	}
	return key, nil
}

// station reads or makes the station document; nil where none was asked for.
func (in *partInput) station(cmd *cobra.Command) ([]byte, error) {
	switch {
	case in.stationDevice != "" && in.stationFile != "":
		return nil, errors.New("name --station or --station-file, not both")
	case in.stationFile != "":
		b, err := readPartFile(cmd, in.stationFile)
		if err == nil {
			if _, err = snapshot.ParseStation(b); err != nil {
				err = fmt.Errorf("%s: want the station.json that `station init` wrote: %w", in.stationFile, err)
			}
		}
		return b, err
	case in.stationDevice == "":
		return nil, nil
	case in.region == "":
		return nil, errors.New("--station needs --region, the folder that kekctl init made: it says which key servers there are")
	}
	region, ca, err := readRegion(cmd, in.region)
	if err != nil {
		return nil, err
	}
	s := &snapshot.Station{Type: snapshot.StationType, Device: in.stationDevice,
		Fleet: snapshot.Fleet{CA: ca, Members: region.Members}}
	return s.Bytes()
}

// sliceDevice is the device that a slice says it is of, unverified; "" if it is no slice.
func sliceDevice(note []byte) string {
	s, err := snapshot.PeekSlice(note)
	if err != nil {
		return ""
	}
	return s.Device.ID
}

// ofOneDevice refuses a partition whose documents are of different devices.
func ofOneDevice(p *snapshot.Part) error {
	of := struct{ plan, slice, station string }{slice: sliceDevice(p.Slice)}
	if p.Station != nil {
		s, err := snapshot.ParseStation(p.Station)
		if err != nil {
			return err
		}
		of.station = s.Device
	}
	if p.Plan != nil {
		s, err := snapshot.ParseSealPlan(p.Plan)
		if err != nil {
			return err
		}
		of.plan = s.Device
	}
	what, device := "", ""
	for _, doc := range [][2]string{{"seal plan", of.plan}, {"slice", of.slice}, {"station document", of.station}} {
		switch name, id := doc[0], doc[1]; {
		case id == "":
		case device == "":
			what, device = name, id
		case id != device:
			return fmt.Errorf("the %s is of %s, the %s of %s: a partition is of one device", what, device, name, id)
		}
	}
	return nil
}

package main

import (
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

func sliceCommand() *cobra.Command {
	var region, record, out string
	cmd := &cobra.Command{
		Use:   "slice --region DIR --record RECORD DESCRIPTION",
		Short: "Make an unsigned slice from a device's description and its fleet record",
		Long: `slice completes the description of a device, written by a person, with what no
person should write: the names of its TPM keys from the fleet's record
(kekctl device show ID --json), volume UUIDs, key servers and fleet CA.
It lists every contradiction it finds, and writes nothing then.`,
		Example: `  snapshot slice --region north --record r07-u12.record.json r07-u12.json -o r07-u12.slice.json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := makeSlice(cmd, region, record, args[0])
			if err != nil {
				return err
			}
			text, err := signed.Marshal(s)
			if err != nil {
				return err
			}
			return writeFile(cmd, out, 0o644, text)
		},
	}
	cmd.Flags().StringVar(&region, "region", "", "folder that kekctl init made (its public/ is read)")
	cmd.Flags().StringVar(&record, "record", "", "the fleet's record of the device, JSON")
	cmd.Flags().StringVarP(&out, "output", "o", "-", "file to write")
	mustRequire(cmd, "region", "record")
	return cmd
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
		return nil, fmt.Errorf("%s: not a device record: %w", record, err)
	}
	if text, err = readFile(cmd, description); err != nil {
		return nil, err
	}
	s, err := snapshot.ParseDescription(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", description, err)
	}
	switch {
	case info.Device != s.Device.ID:
		return nil, fmt.Errorf("%s is of device %q, %s describes %q", record, info.Device, description, s.Device.ID)
	case !info.Enrolled:
		return nil, fmt.Errorf("device %s is not enrolled yet: boot it in the factory image first", info.Device)
	}
	keys := snapshot.TPMKeys{EKName: info.EKName, AKName: info.AKName, SRKName: info.SRKName, SRKPublic: info.SRKPublic}
	if err := s.Complete(region, ca, keys); err != nil {
		return nil, fmt.Errorf("%s:\n%w", description, err)
	}
	return s, nil
}

// readRegion reads public/region.json and the fleet CA (DER).
func readRegion(cmd *cobra.Command, dir string) (*snapshot.Region, []byte, error) {
	file := filepath.Join(dir, "public", "region.json")
	text, err := readFile(cmd, file)
	if err != nil {
		return nil, nil, err
	}
	r := new(snapshot.Region)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	if r.Type != snapshot.RegionType {
		return nil, nil, fmt.Errorf("%s: type is %q, expected %q", file, r.Type, snapshot.RegionType)
	}
	file = filepath.Join(dir, "public", "ca.pem")
	if text, err = readFile(cmd, file); err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, nil, fmt.Errorf("%s: no PEM certificate", file)
	}
	return r, block.Bytes, nil
}

func signCommand() *cobra.Command {
	var keys []string
	var out string
	cmd := &cobra.Command{
		Use:   "sign --key KEY SLICE",
		Short: "Sign a slice with the region root",
		Long: `sign checks a slice for contradictions and signs it as a C2SP signed note.
It prints the digest on standard error: what the slice PCR and the fleet hold.`,
		Example: `  snapshot sign --key north/offline/root.key r07-u12.slice.json -o r07-u12.slice.note`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return signSlice(cmd, keys, args[0], out)
		},
	}
	cmd.Flags().StringSliceVar(&keys, "key", nil, "file of the region root's signing key; may be given again for a second signature")
	cmd.Flags().StringVarP(&out, "output", "o", "-", "file to write")
	mustRequire(cmd, "key")
	return cmd
}

func signSlice(cmd *cobra.Command, keys []string, name, out string) error {
	text, err := readFile(cmd, name)
	if err != nil {
		return err
	}
	s := new(snapshot.Slice)
	if err := signed.Unmarshal(text, snapshot.SliceType, s); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	signers, err := readSigners(cmd, keys)
	if err != nil {
		return err
	}
	msg, err := snapshot.SignSlice(s, signers...)
	if err != nil {
		return fmt.Errorf("%s:\n%w", name, err)
	}
	digest := signed.Digest(text)
	fmt.Fprintf(cmd.ErrOrStderr(), "signed slice %d of %s, sha256 %s\n", s.Generation, s.Device.ID, hex.EncodeToString(digest[:]))
	return writeFile(cmd, out, 0o644, msg)
}

func verifyCommand() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:     "verify --key PUBLIC SLICE",
		Short:   "Verify a signed slice as a booting device does",
		Example: `  snapshot verify --key north/public/root.pub r07-u12.slice.note`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, digest, err := openSlice(cmd, key, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "ok: slice %d of %s, region %s, sha256 %s\n",
				s.Generation, s.Device.ID, s.Region, hex.EncodeToString(digest[:]))
			return nil
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "file of the region root's public key")
	mustRequire(cmd, "key")
	return cmd
}

func openSlice(cmd *cobra.Command, key, name string) (*snapshot.Slice, [32]byte, error) {
	text, err := readFile(cmd, key)
	if err != nil {
		return nil, [32]byte{}, err
	}
	root, err := signed.ParseVerifier(text)
	if err != nil {
		return nil, [32]byte{}, fmt.Errorf("%s: %w", key, err)
	}
	msg, err := readFile(cmd, name)
	if err != nil {
		return nil, [32]byte{}, err
	}
	s, digest, err := snapshot.OpenSlice(msg, root)
	if errors.Is(err, signed.ErrSignature) {
		return nil, digest, fmt.Errorf("%s: %w (%s)", name, err, root.Name())
	}
	if err != nil {
		return nil, digest, fmt.Errorf("%s: %w", name, err)
	}
	return s, digest, nil
}

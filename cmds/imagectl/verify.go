package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/uki"
)

func verifyCommand() *cobra.Command {
	var region, image string
	cmd := &cobra.Command{
		Use:   "verify --region DIR [--image UKI] MANIFEST [POLICY]",
		Short: "Verify a manifest, that a policy says the same, and that an image is the one",
		Long: `verify checks the signatures of manifest and policy by the region's keys, that
both say the same PCR values, and with --image that starting this UKI measures
them and that it has the region's keys; else it names what differs.`,
		Example: `  imagectl verify --region north out/landfall-server-1.4.manifest out/landfall-server-1.4.policy
  imagectl verify --region north --image landfall-server.efi out/landfall-server-1.4-uki.manifest`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := openManifest(region, args[0])
			if err != nil {
				return err
			}
			if err := m.CheckRole(); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if len(args) == 2 {
				if err := verifyPolicy(region, args[1], m); err != nil {
					return err
				}
			}
			if image != "" {
				if err := verifyImage(region, image, m); err != nil {
					return err
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "ok: %s %s, role %s, %s\n", m.Image, m.Version, m.Role, m.Form)
			return nil
		},
	}
	regionFlag(cmd, &region)
	cmd.Flags().StringVar(&image, "image", "", "unified kernel image to compare with the manifest")
	return cmd
}

// verifyImage compares what starting an image would measure with a manifest.
func verifyImage(region, name string, m *measure.Manifest) error {
	img, _, err := readUKI(name)
	if err != nil {
		return err
	}
	if err := verifyCarried(region, img, m); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	events, err := img.Events(m.Form)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	differences := m.Explain(measure.Replay(events), events)
	if len(differences) == 0 {
		return nil
	}
	errs := []error{fmt.Errorf("%s is not the image of this manifest (%s %s, form %s)", name, m.Image, m.Version, m.Form)}
	for _, d := range differences {
		errs = append(errs, errors.New(d.String()))
	}
	return errors.Join(errs...)
}

// verifyCarried compares what an image says of itself, its role and whom it
// believes, with manifest and region.
func verifyCarried(region string, img *uki.Image, m *measure.Manifest) error {
	own, err := readCarried(img)
	if err != nil {
		return err
	}
	if err := own.checkRole(m.Role); err != nil {
		return err
	}
	pub, err := readPolicyPublic(filepath.Join(region, "public/policy.pub"))
	if err != nil {
		return err
	}
	t, err := regionTrust(region, pub)
	if err != nil {
		return err
	}
	return t.check(own)
}

func regionFlag(cmd *cobra.Command, region *string) {
	cmd.Flags().StringVar(region, "region", "", "folder that kekctl init made (its public/ is read)")
	if err := cmd.MarkFlagRequired("region"); err != nil {
		panic(err)
	}
}

func manifestKey(region string) string { return filepath.Join(region, "public/manifest.pub") }

func manifestVerifier(region string) (note.Verifier, error) {
	name := manifestKey(region)
	text, err := files.Read(name, maxKey)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, fmt.Errorf("--region %s is no region's folder, which `kekctl init` makes: it has no %s", region, name)
	}
	if err != nil {
		return nil, err
	}
	v, err := signed.ParseVerifier(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; put the one back that `kekctl init` wrote", name, err)
	}
	return v, nil
}

func openManifest(region, name string) (*measure.Manifest, error) {
	v, err := manifestVerifier(region)
	if err != nil {
		return nil, err
	}
	msg, err := files.Read(name, measure.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	m, err := measure.OpenManifest(msg, v)
	if err != nil {
		return nil, fmt.Errorf("%s: want a manifest of this region, which `imagectl sign` writes: %w (by %s)", name, err, manifestKey(region))
	}
	return m, nil
}

func verifyPolicy(region, name string, m *measure.Manifest) error {
	pub, err := readPolicyPublic(filepath.Join(region, "public/policy.pub"))
	if err != nil {
		return err
	}
	text, err := files.Read(name, pcrpolicy.MaxSize)
	if err != nil {
		return err
	}
	p, err := pcrpolicy.Parse(text)
	if err != nil {
		return fmt.Errorf("%s: want a policy of this region, which `imagectl sign` writes: %w", name, err)
	}
	if err := p.Verify(pub); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := p.Fits(m); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func showCommand() *cobra.Command {
	var region string
	cmd := &cobra.Command{
		Use:     "show --region DIR MANIFEST",
		Short:   "Show a verified manifest",
		Example: `  imagectl show --region north out/landfall-server-1.4.manifest`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := openManifest(region, args[0])
			if err != nil {
				return err
			}
			text, err := signed.Marshal(m)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	regionFlag(cmd, &region)
	return cmd
}

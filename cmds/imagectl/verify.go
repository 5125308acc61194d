package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/signed"
)

func verifyCommand() *cobra.Command {
	var region string
	cmd := &cobra.Command{
		Use:   "verify --region DIR MANIFEST [POLICY]",
		Short: "Verify a manifest, and that a policy says the same",
		Example: `  imagectl verify --region north out/landfall-server-1.4.manifest out/landfall-server-1.4.policy
  imagectl verify --region north out/landfall-server-1.4.manifest`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := openManifest(region, args[0])
			if err != nil {
				return err
			}
			if len(args) == 2 {
				if err := verifyPolicy(region, args[1], m); err != nil {
					return err
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "ok: %s %s, role %s, %s\n", m.Image, m.Version, m.Role, m.Form)
			return nil
		},
	}
	regionFlag(cmd, &region)
	return cmd
}

func regionFlag(cmd *cobra.Command, region *string) {
	cmd.Flags().StringVar(region, "region", "", "folder that kekctl init made (its public/ is read)")
	if err := cmd.MarkFlagRequired("region"); err != nil {
		panic(err)
	}
}

func manifestVerifier(region string) (note.Verifier, error) {
	name := filepath.Join(region, "public/manifest.pub")
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	v, err := signed.ParseVerifier(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

func openManifest(region, name string) (*measure.Manifest, error) {
	v, err := manifestVerifier(region)
	if err != nil {
		return nil, err
	}
	msg, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	m, err := measure.OpenManifest(msg, v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

func verifyPolicy(region, name string, m *measure.Manifest) error {
	pub, err := readPolicyPublic(filepath.Join(region, "public/policy.pub"))
	if err != nil {
		return err
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	p, err := pcrpolicy.Parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := p.Verify(pub); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	pcrs := map[int][]byte{}
	for n, v := range m.PCRs {
		pcrs[n] = v
	}
	if !bytes.Equal(p.Digest, pcrpolicy.Compute(pcrs)) || p.Role != m.Role {
		return fmt.Errorf("%s: %w", name, errors.New("is of another image than the manifest"))
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

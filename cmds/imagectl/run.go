package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/command"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/version"
)

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	root := &cobra.Command{
		Use:     "imagectl",
		Version: version.String(),
		Short:   "Measure, look into, sign, verify and compare boot images",
		Long: `imagectl signs, for one boot image, the manifest by which the fleet knows it and
the PCR policy by which a device's TPM opens to it. Both say the same PCR
values; a fleet that does not know the manifest releases nothing, a TPM without
the policy reads nothing.

The values of a unified kernel image (UKI) are predicted from its file. One UKI
has several boot forms, each with a manifest and a policy of its own:

  uki             the firmware starts it, from a disk or by its network boot
  uki-ipxe        iPXE in the network card's ROM starts it
  uki-secureboot  as uki, with Secure Boot on`,
		Example: `  imagectl measure landfall-server.efi
  imagectl sign --region north --role server --uki landfall-server.efi -o approved/
  imagectl verify --region north --image landfall-server.efi \
      approved/landfall-server-1.4-uki.manifest approved/landfall-server-1.4-uki.policy
  imagectl diff landfall-server-1.3.efi landfall-server-1.4.efi`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(stdin)
	root.SetOut(printable.NewWriter(stdout)) // all of it is for people
	root.SetErr(printable.NewWriter(stderr))
	root.AddCommand(measureCommand(), inspectCommand(), signCommand(), verifyCommand(), diffCommand(), showCommand(), entryCommand())
	return command.Execute(ctx, root, args)
}

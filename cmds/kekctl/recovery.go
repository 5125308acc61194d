package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/opsclient"
	"github.com/landfall-project/landfall/pkg/printable"
)

// recoveryCommands are about recovery keys.
type recoveryCommands struct{ *app }

func (a recoveryCommands) group() *cobra.Command {
	c := &cobra.Command{
		Use:   "recovery",
		Short: "Read a device's recovery key, which takes two agents",
		Long: "Read the key of the recovery keyslot of a device's disks, for when its TPM or board is gone. It takes\n" +
			"two agents: one asks, another one approves within a day, and the first one reads within an hour after\n" +
			"that. Requests, approvals, reads and refusals are in the member's audit log. While the region is in\n" +
			"transit there is none.",
		Example: `  kekctl --region r7 --as alice recovery request r07-u12 --reason 'board burnt, disks go to r07-u13'
  kekctl --region r7 --as bob recovery approve r07-u12 k3v2m7aqzd
  kekctl --region r7 --as alice recovery read r07-u12 k3v2m7aqzd | cryptsetup open --key-slot 1 --key-file - /dev/sdb2 rescued`,
	}
	c.AddCommand(a.requestCommand(), a.approveCommand(), a.readCommand(), a.listCommand())
	return c
}

// unasked adds where to look to the error about a request, or a device, that the
// member does not have.
func unasked(err error) error {
	if errors.Is(err, opsclient.ErrNotFound) {
		return fmt.Errorf("%w; see `kekctl device list` and `kekctl recovery list`", err)
	}
	return err
}

func (a recoveryCommands) requestCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:     "request DEVICE --reason TEXT",
		Short:   "Ask for a device's recovery key; another agent must approve it",
		Example: "  kekctl --region r7 --as alice recovery request r07-u12 --reason 'board burnt'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			r, err := c.RequestRecovery(cmd.Context(), args[0], reason)
			if err != nil {
				return unasked(err)
			}
			return a.print(r, func(w io.Writer) {
				line(w, fmt.Sprintf("request %s: another agent approves it until %s with\n  kekctl recovery approve %s %s", r.ID, when(r.Until), r.Device, r.ID))
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "one line, shown to who approves and kept in the audit log")
	if err := c.MarkFlagRequired("reason"); err != nil {
		panic(err) // only for a flag that does not exist
	}
	return c
}

func (a recoveryCommands) approveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "approve DEVICE ID",
		Short: "Let the agent who asked read the key, for one hour",
		Long: "Let the agent who asked read the key, for one hour. Speak with that agent first, by voice: whoever holds\n" +
			"that agent's folder can ask. Nobody approves what they asked for themselves.",
		Example: "  kekctl --region r7 --as bob recovery approve r07-u12 k3v2m7aqzd",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			r, err := c.ApproveRecovery(cmd.Context(), args[0], args[1])
			if err != nil {
				return unasked(err)
			}
			return a.print(r, func(w io.Writer) {
				line(w, fmt.Sprintf("%s, who gave as the reason %q, may read the recovery key of %s until %s with\n  kekctl recovery read %s %s",
					r.Agent, r.Reason, r.Device, when(r.Until), r.Device, r.ID))
			})
		},
	}
}

func (a recoveryCommands) readCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "read DEVICE ID",
		Short: "Print the recovery key of a request that was approved",
		Long: "Print the key, byte for byte the passphrase of keyslot 1 of each of the device's volumes, and no more: a\n" +
			"line end comes after it only on a terminal. Pipe it where it is needed; there is no --json. Each read is\n" +
			"in the audit log.",
		Example: "  kekctl --region r7 --as alice recovery read r07-u12 k3v2m7aqzd | cryptsetup open --key-slot 1 --key-file - /dev/sdb2 rescued",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.json {
				return errors.New("the recovery key is printed as it is, never as JSON: leave --json out")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			key, err := c.ReadRecovery(cmd.Context(), args[0], args[1])
			if err != nil {
				return unasked(err)
			}
			defer key.Wipe()
			text, err := keyblob.RecoveryText(key)
			if err != nil {
				return err
			}
			defer text.Wipe()
			if _, err := a.stdout.Write(text.Expose()); err != nil {
				return fmt.Errorf("print the recovery key: %w", err)
			}
			if _, live := terminal(a.stdout); live {
				_, err = io.WriteString(a.stdout, "\n")
			}
			return err
		},
	}
}

func (a recoveryCommands) listCommand() *cobra.Command {
	var device string
	c := &cobra.Command{
		Use:     "list",
		Short:   "List who asked for which recovery key, and what came of it; newest first",
		Example: "  kekctl --region r7 --as carol recovery list --device r07-u12",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			all, err := c.Recoveries(cmd.Context())
			if err != nil {
				return err
			}
			out := []kekproto.RecoveryRequest{}
			for _, r := range all {
				if device == "" || r.Device == device {
					out = append(out, r)
				}
			}
			return a.print(out, func(w io.Writer) {
				if len(out) == 0 {
					line(w, "nobody asked for a recovery key")
					return
				}
				row(w, "DEVICE", "ID", "ASKED", "BY", "APPROVED BY", "STATE", "UNTIL", "READ", "REASON")
				for _, r := range out {
					row(w, r.Device, r.ID, when(r.Time), r.Agent, r.ApprovedBy, string(r.State), when(r.Until), printable.Count(r.Reads, "time"), r.Reason)
				}
			})
		},
	}
	c.Flags().StringVar(&device, "device", "", "only of this device")
	return c
}

package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/opsclient"
)

// unknown turns the error about a device that the member does not have into one
// that says so.
func unknown(id string, err error) error {
	if errors.Is(err, opsclient.ErrNotFound) {
		return fmt.Errorf("no device %s; see `kekctl device list`", id)
	}
	return err
}

// deviceCommands are about one device.
type deviceCommands struct{ *app }

func (a deviceCommands) group() *cobra.Command {
	c := &cobra.Command{Use: "device", Short: "Add, list, show, approve and remove devices"}
	c.AddCommand(a.addCommand(), a.listCommand(), a.showCommand(), a.approveCommand(), firmwareCommands(a).group(), a.removeCommand())
	return c
}

func (a deviceCommands) addCommand() *cobra.Command {
	var m kekproto.NewDevice
	var name string
	var out files.Output
	c := &cobra.Command{
		Use:   "add DEVICE --token-file FILE",
		Short: "Expect a device, and write its one-use enrolment token",
		Long: "Expect a device to enrol, and write its one-use token into a new file of mode 0600. The token is\n" +
			"shown nowhere else and cannot be had again: the member keeps only its SHA-256.",
		Example: "  kekctl --region r7 --as alice device add r07-u12 --token-file r07-u12.token",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m.Device = args[0]
			c, err := a.connect()
			if err != nil {
				return err
			}
			if m.Again {
				if _, err := c.Device(cmd.Context(), m.Device); err != nil {
					return fmt.Errorf("--again is for a device that was added before: %w", unknown(m.Device, err))
				}
			}
			// The file first: a token that cannot be written is lost.
			file, err := out.Begin(name)
			if err != nil {
				return err
			}
			token, err := c.AddDevice(cmd.Context(), &m)
			if err != nil {
				return file.Abandon(err)
			}
			if err := file.Finish([]byte(token.Token + "\n")); err != nil {
				return err
			}
			a.say("%s may enrol once with the token in %s", m.Device, name)
			return nil
		},
	}
	c.Flags().StringVar(&name, "token-file", "", "where to write the token")
	forceFlag(c, &out)
	c.Flags().BoolVar(&m.Again, "again", false, "a further token for a device that was added before; it must still have the same EK")
	if err := c.MarkFlagRequired("token-file"); err != nil {
		panic(err) // only for a flag that does not exist
	}
	return c
}

func (a deviceCommands) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List all devices; --json is what `snapshot assemble` reads",
		Example: "  kekctl --region r7 --as alice device list --json | jq -r '.[]|select(.sealed==null).device'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			all, err := c.Devices(cmd.Context(), opsclient.DevicesQuery{Full: a.json})
			if err != nil {
				return err
			}
			return a.screen(all, func(w io.Writer) { showDevices(w, all) })
		},
	}
}

func showDevices(w io.Writer, all []kekproto.DeviceInfo) {
	line(w, "DEVICE", "SLICE", "KEK", "STATE; last release; last refusal")
	for _, d := range all {
		state := stateOf(&d)
		if d.Seen != nil {
			state += "; " + seen(&d)
		}
		if d.Refuse != nil {
			state += "; " + briefRefusal(&d)
		}
		line(w, d.Device, dash(d.Slice), dash(uint64(d.Sealed)), state)
	}
}

func (a deviceCommands) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show DEVICE",
		Short:   "Show what the fleet knows of a device; --json is what `snapshot slice` reads",
		Example: "  kekctl --region r7 --as alice device show r07-u12 --json > r07-u12.device.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			d, err := c.Device(cmd.Context(), args[0])
			if err != nil {
				return unknown(args[0], err)
			}
			return a.print(d, func(w io.Writer) { showDevice(w, d) })
		},
	}
}

func showDevice(w io.Writer, d *kekproto.DeviceInfo) {
	line(w, "device", d.Device)
	line(w, "state", stateOf(d))
	line(w, "EK", d.EKName)
	line(w, "AK", d.AKName)
	line(w, "SRK", d.SRKName)
	line(w, "EK certificate", fmt.Sprintf("%d bytes", len(d.EKCert)))
	line(w, "slice", dash(d.Slice)+" "+d.SliceHash)
	if len(d.Capture) > 0 {
		line(w, "capture", fmt.Sprintf("%d bytes, in --json", len(d.Capture)))
	}
	if l := d.Links; l != nil {
		line(w, "links", fmt.Sprintf("%d of %d required ones proved, heard %s; `kekctl links %s`", l.Proved, l.Required, when(l.Time), d.Device))
	}
	line(w, "KEK", fmt.Sprintf("generation %s, sealed under %s", dash(uint64(d.Generation)), dash(uint64(d.Sealed))))
	line(w, "recovery key", map[bool]string{true: "kept; `kekctl recovery request`", false: "none"}[d.Recovery])
	line(w, "last release", seen(d))
	line(w, "last refusal", refusal(d))
	showReport(w, d.Report)
}

func (a deviceCommands) approveCommand() *cobra.Command {
	var ekName string
	c := &cobra.Command{
		Use:   "approve DEVICE --ek-name NAME",
		Short: "Accept a device whose EK certificate proves nothing",
		Long: "Accept a device whose EK certificate is missing or from nobody known. Read the EK's name at the\n" +
			"machine itself (`seal provision` prints it), not from the fleet: comparing is the whole point.",
		Example: "  kekctl --region r7 --as alice device approve r07-u12 --ek-name 000b5f…",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			if err := c.ApproveDevice(cmd.Context(), args[0], ekName); err != nil {
				return unknown(args[0], err)
			}
			a.say("%s is approved", args[0])
			return nil
		},
	}
	c.Flags().StringVar(&ekName, "ek-name", "", "the EK's TPM name in hex")
	if err := c.MarkFlagRequired("ek-name"); err != nil {
		panic(err) // only for a flag that does not exist
	}
	return c
}

func (a deviceCommands) removeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove DEVICE",
		Short: "Take back a device that was added by mistake",
		Long: "Take back an ID under which nothing was sealed: one that was mistyped, or with which another machine\n" +
			"than the one that was meant has enrolled. Its token enrols nobody any more, and the ID may be added\n" +
			"again. A device that was given a key stays; `kekctl ship --unsealed-too` leaves it behind.",
		Example: "  kekctl --region r7 --as alice device remove r07-u21",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			if err := c.RemoveDevice(cmd.Context(), args[0]); err != nil {
				return unknown(args[0], err)
			}
			a.say("%s is removed", args[0])
			return a.elsewhere()
		},
	}
}

func (a deviceCommands) suspendCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:     "suspend DEVICE --reason TEXT",
		Short:   "Stop giving a device its key, until resume",
		Example: "  kekctl --region r7 --as alice suspend r07-u12 --reason 'seal of crate 3 broken'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			if err := c.SuspendDevice(cmd.Context(), args[0], reason); err != nil {
				return unknown(args[0], err)
			}
			a.say("%s is suspended: it holds at its next boot; a running one is not touched", args[0])
			return a.elsewhere()
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "one line, shown on the device's console")
	if err := c.MarkFlagRequired("reason"); err != nil {
		panic(err) // only for a flag that does not exist
	}
	return c
}

func (a deviceCommands) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "resume DEVICE",
		Short:   "End a suspension; a device that holds goes on by itself",
		Example: "  kekctl --region r7 --as alice resume r07-u12",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			if err := c.ResumeDevice(cmd.Context(), args[0]); err != nil {
				return unknown(args[0], err)
			}
			a.say("%s is resumed", args[0])
			return nil
		},
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/kekproto"
)

func devicePath(id, action string) string {
	p := "/v1/devices/" + url.PathEscape(id)
	if action != "" {
		p += "/" + action
	}
	return p
}

// device does one request about a device.
func (a *app) device(ctx context.Context, method, id, action string, in, out any) error {
	err := a.call(ctx, method, devicePath(id, action), in, out)
	if errors.Is(err, errNotFound) {
		return fmt.Errorf("no device %s; see `kekctl device list`", id)
	}
	return err
}

func (a *app) deviceCommand() *cobra.Command {
	c := &cobra.Command{Use: "device", Short: "Add, list, show, approve and remove devices"}
	c.AddCommand(a.deviceAdd(), a.deviceList(), a.deviceShow(), a.deviceApprove(), a.deviceFirmware(), a.deviceRemove())
	return c
}

func (a *app) deviceAdd() *cobra.Command {
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
			if m.Again {
				if err := a.device(cmd.Context(), "GET", m.Device, "", nil, nil); err != nil {
					return fmt.Errorf("--again is for a device that was added before: %w", err)
				}
			}
			// The file first: a token that cannot be written is lost.
			file, err := out.Begin(name)
			if err != nil {
				return err
			}
			var token kekproto.NewToken
			if err := a.call(cmd.Context(), "POST", "/v1/devices", &m, &token); err != nil {
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

func (a *app) deviceList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List all devices; --json is what `snapshot assemble` reads",
		Example: "  kekctl --region r7 --as alice device list --json | jq -r '.[]|select(.sealed==null).device'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := "/v1/devices"
			if a.json { // with public areas and captures
				path += "?full=1"
			}
			var all []kekproto.DeviceInfo
			if err := a.call(cmd.Context(), "GET", path, nil, &all); err != nil {
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

func (a *app) deviceShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show DEVICE",
		Short:   "Show what the fleet knows of a device; --json is what `snapshot slice` reads",
		Example: "  kekctl --region r7 --as alice device show r07-u12 --json > r07-u12.device.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d kekproto.DeviceInfo
			if err := a.device(cmd.Context(), "GET", args[0], "", nil, &d); err != nil {
				return err
			}
			return a.print(&d, func(w io.Writer) { showDevice(w, &d) })
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

func (a *app) deviceApprove() *cobra.Command {
	var m kekproto.Approval
	c := &cobra.Command{
		Use:   "approve DEVICE --ek-name NAME",
		Short: "Accept a device whose EK certificate proves nothing",
		Long: "Accept a device whose EK certificate is missing or from nobody known. Read the EK's name at the\n" +
			"machine itself (`seal provision` prints it), not from the fleet: comparing is the whole point.",
		Example: "  kekctl --region r7 --as alice device approve r07-u12 --ek-name 000b5f…",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.device(cmd.Context(), "POST", args[0], "approve", &m, nil); err != nil {
				return err
			}
			a.say("%s is approved", args[0])
			return nil
		},
	}
	c.Flags().StringVar(&m.EKName, "ek-name", "", "the EK's TPM name in hex")
	if err := c.MarkFlagRequired("ek-name"); err != nil {
		panic(err) // only for a flag that does not exist
	}
	return c
}

func (a *app) deviceRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove DEVICE",
		Short: "Take back a device that was added by mistake",
		Long: "Take back an ID under which nothing was sealed: one that was mistyped, or with which another machine\n" +
			"than the one that was meant has enrolled. Its token enrols nobody any more, and the ID may be added\n" +
			"again. A device that was given a key stays; `kekctl ship --unsealed-too` leaves it behind.",
		Example: "  kekctl --region r7 --as alice device remove r07-u21",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.device(cmd.Context(), "POST", args[0], "remove", nil, nil); err != nil {
				return err
			}
			a.say("%s is removed", args[0])
			return a.elsewhere()
		},
	}
}

func (a *app) suspendCommand() *cobra.Command {
	var m kekproto.Reason
	c := &cobra.Command{
		Use:     "suspend DEVICE --reason TEXT",
		Short:   "Stop giving a device its key, until resume",
		Example: "  kekctl --region r7 --as alice suspend r07-u12 --reason 'seal of crate 3 broken'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.device(cmd.Context(), "POST", args[0], "suspend", &m, nil); err != nil {
				return err
			}
			a.say("%s is suspended: it holds at its next boot; a running one is not touched", args[0])
			return a.elsewhere()
		},
	}
	c.Flags().StringVar(&m.Reason, "reason", "", "one line, shown on the device's console")
	if err := c.MarkFlagRequired("reason"); err != nil {
		panic(err) // only for a flag that does not exist
	}
	return c
}

func (a *app) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "resume DEVICE",
		Short:   "End a suspension; a device that holds goes on by itself",
		Example: "  kekctl --region r7 --as alice resume r07-u12",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.device(cmd.Context(), "POST", args[0], "resume", nil, nil); err != nil {
				return err
			}
			a.say("%s is resumed", args[0])
			return nil
		},
	}
}

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/kekproto"
)

// firmwareCommands are about firmware that changed.
type firmwareCommands struct{ *app }

func (a firmwareCommands) group() *cobra.Command {
	c := &cobra.Command{Use: "firmware", Short: "Decide about firmware that changed since a device's last release"}
	c.AddCommand(a.demandCommand(), a.acceptCommand())
	return c
}

func (a firmwareCommands) demandCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demand hold|record",
		Short: "Say what changed firmware does",
		Long: "With hold this member releases no key to a device whose PCR 0, 2 or 7 is not that of its last\n" +
			"release, until an operator accepts it: the device holds with LF-KEY-14, and goes on by itself then.\n" +
			"That is for boards on which software can reset the TPM, and for whoever wants to hear of each\n" +
			"update before the key has left. With record, as at first, such a release is an alarm.",
		Example:   "  kekctl --region r7 --as alice device firmware demand hold",
		Args:      cobra.ExactArgs(1),
		ValidArgs: []string{string(kekproto.FirmwareHold), string(kekproto.FirmwareRecord)},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(cmd.ValidArgs, args[0]) {
				return fmt.Errorf("no demand %q: want %s", args[0], strings.Join(cmd.ValidArgs, " or "))
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			st, err := c.SetFirmwareDemand(cmd.Context(), kekproto.FirmwareDemand(args[0]))
			if err != nil {
				return err
			}
			if err := a.print(st, func(w io.Writer) { line(w, firmwareLine(st)) }); err != nil {
				return err
			}
			return a.elsewhere()
		},
	}
}

// firmwareLine is the region's demand in words.
func firmwareLine(st *kekproto.Status) string {
	if st.Firmware == kekproto.FirmwareHold {
		return "a release is held where PCR 0, 2 or 7 changed since the last one"
	}
	return "a release where PCR 0, 2 or 7 changed is an alarm"
}

func (a firmwareCommands) acceptCommand() *cobra.Command {
	var yes string
	c := &cobra.Command{
		Use:   "accept DEVICE [--yes DIGEST]",
		Short: "Let a device with changed firmware have its key",
		Long: "In two steps: without --yes it shows what changed and changes nothing; with the digest that it\n" +
			"showed, the device gets its key at its next try, while its firmware is that one. PCR 0 is the\n" +
			"firmware itself, 2 the option ROMs of its cards, 7 Secure Boot's state and databases.",
		Example: "  kekctl --region r7 --as alice device firmware accept r07-u12\n" +
			"  kekctl --region r7 --as alice device firmware accept r07-u12 --yes 5f1d9a2c40b7",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			d, err := c.Device(cmd.Context(), args[0])
			if err != nil {
				return unknown(args[0], err)
			}
			held := d.Held
			switch {
			case held == nil:
				return fmt.Errorf("no release is held for the firmware of %s at this member; a device that is held tries again within minutes", args[0])
			case yes == "":
				return a.print(held, func(w io.Writer) { showHeld(w, args[0], held) })
			case yes != digestOf(held):
				return fmt.Errorf("%s is not what %s shows now, which is %s: look again, without --yes", yes, args[0], digestOf(held))
			}
			if err := c.AcceptFirmware(cmd.Context(), args[0], held.To); err != nil {
				return unknown(args[0], err)
			}
			a.say("%s gets its key at its next try, with this firmware", args[0])
			return a.elsewhere()
		},
	}
	c.Flags().StringVar(&yes, "yes", "", "the digest that the first step showed")
	return c
}

// digestOf names firmware in twelve hexadecimal digits.
func digestOf(d *kekproto.Drift) string {
	sum := sha256.Sum256([]byte(d.To))
	return hex.EncodeToString(sum[:6])
}

func showHeld(w io.Writer, device string, d *kekproto.Drift) {
	line(w, device, "its release was refused at "+when(d.Time)+": PCR "+d.PCRs+" changed")
	old := strings.Fields(d.From)
	for i, now := range strings.Fields(d.To) {
		pcr, value, _ := strings.Cut(now, "=")
		before := "-"
		if i < len(old) {
			_, before, _ = strings.Cut(old[i], "=")
		}
		if before == value {
			line(w, "PCR "+pcr, "as it was")
			continue
		}
		line(w, "PCR "+pcr, "was "+before)
		line(w, "", "is  "+value)
	}
	line(w, "DO", "if this change is yours: kekctl device firmware accept "+device+" --yes "+digestOf(d))
	line(w, "", "if it is not: leave it held, and look at the machine")
}

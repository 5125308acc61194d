package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/eventlog"
	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/opsclient"
)

func (a *app) evidenceCommand() *cobra.Command {
	var name string
	var out files.Output
	c := &cobra.Command{
		Use:   "evidence DEVICE",
		Short: "Show what a device measured when its image was last refused",
		Long: "Show the PCR values that a device quoted when its image was last refused, the firmware's event log\n" +
			"that it sent, and how both differ from the image that was probably meant. The values are the TPM's;\n" +
			"the log is the machine's word, which counts only where it makes the quoted value. -o saves the raw\n" +
			"log for other tools.",
		Example: "  kekctl --region r7 --as alice evidence r07-u12\n  kekctl --region r7 --as alice evidence r07-u12 -o r07-u12.eventlog",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			e, err := c.Evidence(cmd.Context(), args[0])
			if errors.Is(err, opsclient.ErrNotFound) {
				return fmt.Errorf("no event log of %s is here: a member keeps the one of a device whose image it has just refused; see `kekctl explain %s`", args[0], args[0])
			}
			if err != nil {
				return err
			}
			if name == "" {
				return a.print(e, func(w io.Writer) { showEvidence(w, e) })
			}
			if err := out.Write(name, e.Log); err != nil {
				return err
			}
			a.say("%s: event log of %s, %d bytes, of %s", name, e.Device, len(e.Log), when(e.Time))
			return nil
		},
	}
	c.Flags().StringVarP(&name, "output", "o", "", "write the raw event log into this file")
	forceFlag(c, &out)
	return c
}

func showEvidence(w io.Writer, e *kekproto.Evidence) {
	line(w, e.Device, fmt.Sprintf("refused at %s, when it asked for %s", when(e.Time), e.Op))
	if e.Image != "" {
		line(w, "compared with", e.Image)
	} else {
		line(w, "compared with", "nothing: its values are those of a known image, or no image of the role is accepted")
	}
	for _, d := range e.Differences {
		line(w, "DIFFERS", d)
	}
	events, err := eventlog.Parse(e.Log)
	if err != nil {
		line(w, "event log", err.Error())
	}
	replayed := measure.Replay(events)
	for _, n := range slices.Sorted(maps.Keys(e.PCRs)) {
		says := ""
		if slices.Contains(measure.ImagePCRs(), n) {
			says = "the log makes this value"
			if !bytes.Equal(replayed[n], e.PCRs[n]) {
				says = "THE LOG DOES NOT MAKE THIS VALUE: do not believe what it says of it"
			}
		}
		line(w, "PCR "+strconv.Itoa(n), fmt.Sprintf("%x", e.PCRs[n]), says)
	}
	if len(events) == 0 {
		return
	}
	line(w, "")
	row(w, "PCR", "EXTENDED WITH", "BY THE LOG'S WORDS")
	for _, ev := range events {
		if slices.Contains(measure.ImagePCRs(), ev.PCR) {
			row(w, strconv.Itoa(ev.PCR), ev.Digest.String(), ev.What)
		}
	}
}

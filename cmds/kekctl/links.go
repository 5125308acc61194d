package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/opsclient"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
)

// linkCommands are about what devices say of their links.
type linkCommands struct{ *app }

func (a linkCommands) group() *cobra.Command {
	var rack string
	var wrong bool
	c := &cobra.Command{
		Use:   "links [DEVICE]",
		Short: "Show what the devices say about their links, or one device about each",
		Long: "Show what each device last said about its links to its neighbors: how many of those that its slice\n" +
			"requires are proved, and since when which ones are not. It is the word of an accepted image on an\n" +
			"attested device, as it reached this member. With --json the reports themselves, as `snapshot render`\n" +
			"reads them; a member that was restarted has a device's report again after its next request.",
		Example: "  kekctl --region r7 --as alice links --wrong\n  kekctl --region r7 --as alice links r07-u12\n" +
			"  kekctl --region r7 --as alice links --rack r07 --json > r07.links.json",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return a.ofDevice(cmd, args[0])
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			all, err := c.Links(cmd.Context(), opsclient.LinksQuery{Rack: rack, Reports: a.json})
			if err != nil {
				return err
			}
			if a.json {
				return a.reports(all, wrong)
			}
			return a.print(all, func(w io.Writer) { showLinks(w, all, wrong) })
		},
	}
	c.Flags().StringVar(&rack, "rack", "", "only devices of this rack, as their slices name it")
	c.Flags().BoolVar(&wrong, "wrong", false, "only devices that are not all right, or said nothing")
	c.AddCommand(a.demandCommand())
	return c
}

// allRight says whether a device has said that nothing is wrong.
func allRight(l *kekproto.LinksInfo) bool {
	return !l.Time.IsZero() && l.Wrong == "" && l.Proved >= l.Required
}

// linkReports prints the reports as an array.
func (a linkCommands) reports(all []kekproto.LinksInfo, wrong bool) error {
	reports, gone := []json.RawMessage{}, 0
	for i := range all {
		switch l := &all[i]; {
		case wrong && allRight(l):
		case len(l.Report) > 0:
			reports = append(reports, l.Report)
		case !l.Time.IsZero():
			gone++
		}
	}
	if gone > 0 {
		_, _ = fmt.Fprintf(a.stderr, "kekctl: the reports of %s are not here: the member was started since then; they come again with the next request\n", printable.Count(gone, "device"))
	}
	return a.print(reports, nil)
}

func showLinks(w io.Writer, all []kekproto.LinksInfo, wrong bool) {
	right, silent := 0, 0
	row(w, "DEVICE", "PROVED", "SINCE", "LAST HEARD", "WHAT IS WRONG")
	for i := range all {
		l := &all[i]
		if allRight(l) {
			right++
			if wrong {
				continue
			}
		}
		if l.Time.IsZero() {
			silent++
			row(w, l.Device, "", "", "never", "")
			continue
		}
		what := strings.Split(l.Wrong, "; ")
		row(w, l.Device, fmt.Sprintf("%d/%d", l.Proved, l.Required), when(l.Since), when(l.Time), what[0])
		for _, more := range what[1:] {
			line(w, "", "", "", "", more)
		}
	}
	line(w, fmt.Sprintf("%d of %s all right, %d never heard of", right, printable.Count(len(all), "device"), silent))
}

// deviceLinks shows each link of one device.
func (a linkCommands) ofDevice(cmd *cobra.Command, id string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	d, err := c.Device(cmd.Context(), id)
	if err != nil {
		return unknown(id, err)
	}
	if d.Links == nil {
		return fmt.Errorf("%s has said nothing about its links to this member since the region's state changed; `kekctl explain %s`", id, id)
	}
	if a.json {
		return a.reports([]kekproto.LinksInfo{*d.Links}, false)
	}
	return a.print(d.Links, func(w io.Writer) { showDeviceLinks(w, d.Links) })
}

func showDeviceLinks(w io.Writer, l *kekproto.LinksInfo) {
	line(w, l.Device, fmt.Sprintf("%d of %d required links proved, by its slice of generation %d, heard %s, so since %s",
		l.Proved, l.Required, l.Slice, when(l.Time), when(l.Since)))
	r, err := report.ParseLinkReport(l.Report)
	if err != nil { // a newer image's, or the member was restarted
		for _, what := range strings.Split(l.Wrong, "; ") {
			row(w, "WRONG", what)
		}
		return
	}
	line(w, "")
	row(w, "INTERFACE", "BELONGS TO", "VERDICT", "CODE", "WHAT")
	for _, v := range r.Links {
		need := ""
		switch {
		case v.Waived != "":
			need = " (waived: " + v.Waived + ")"
		case !v.Required:
			need = " (advisory)"
		}
		row(w, v.Interface, v.Peer+" "+v.PeerInterface, v.Verdict+need, string(v.Code), v.What)
	}
}

func (a linkCommands) demandCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demand clean|none",
		Short: "Say what a release takes of a device's links",
		Long: "With clean this member releases a key only to a device whose request holds a link report in which\n" +
			"every link that its slice requires is proved; others hold with LF-LINK-09 and go on by themselves\n" +
			"when the links are mended. With none, links are each device's own business: it still holds as its\n" +
			"slice's policy says. Images that send no link report get nothing under clean.",
		Example:   "  kekctl --region r7 --as alice links demand clean",
		Args:      cobra.ExactArgs(1),
		ValidArgs: []string{string(kekproto.DemandClean), string(kekproto.DemandNone)},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(cmd.ValidArgs, args[0]) {
				return fmt.Errorf("no demand %q: want %s", args[0], strings.Join(cmd.ValidArgs, " or "))
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			st, err := c.SetLinkDemand(cmd.Context(), kekproto.LinkDemand(args[0]))
			if err != nil {
				return err
			}
			if err := a.print(st, func(w io.Writer) { line(w, demandLine(st)) }); err != nil {
				return err
			}
			return a.elsewhere()
		},
	}
}

// demandLine is the region's demand in words.
func demandLine(st *kekproto.Status) string {
	if st.LinkReport == kekproto.DemandClean {
		return "a release takes a report that all required links are proved"
	}
	return "a release takes no link report"
}

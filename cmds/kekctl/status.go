package main

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
)

// statusJSON is what `status --json` prints: the member's own words, and the
// verdict that the screen begins with.
type statusJSON struct {
	*kekproto.Status
	Verdict verdictWord `json:"verdict"`
	Why     string      `json:"verdict_text"`
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say on one screen why the region is dark, if it is",
		Long: "Say on one screen whether keys are released, and if not, why. The exit status is 3 where they should\n" +
			"be and none is (DARK), 1 if the member does not answer, else 0; the field verdict of --json tells all\n" +
			"cases apart (docs/commands.md).",
		Example: "  kekctl --region r7 --as alice status\n  kekctl --region r7 --as alice status --json | jq -r .verdict",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			word, why := verdict(st)
			err = a.screen(&statusJSON{st, word, why}, func(w io.Writer) { showStatus(w, st) })
			if err == nil && word == verdictDark {
				err = errDark
			}
			return err
		},
	}
}

// verdictWord is the verdict for programs. Words are added, none changes.
type verdictWord string

const (
	verdictDark      verdictWord = "dark"       // nothing is released, and should be
	verdictInTransit verdictWord = "in-transit" // as it should be
	verdictReceived  verdictWord = "received"   // signed for, not live
	verdictNoImage   verdictWord = "no-image"   // being built: no server image yet
	verdictUnsealed  verdictWord = "unsealed"   // there is no key to release
	verdictRefused   verdictWord = "refused"    // released, but devices are refused
	verdictReleased  verdictWord = "released"
)

// verdict is the first thing to know.
func verdict(st *kekproto.Status) (verdictWord, string) {
	switch image := hasRole(&st.Images, "server"); {
	case st.AuditError != "":
		return verdictDark, "DARK: the audit log cannot be written, so nothing is released: " + st.AuditError
	case st.State == kekproto.StateInTransit:
		return verdictInTransit, "dark as it should be: in transit; agents `kekctl receive`, then `kekctl live`"
	case st.State == kekproto.StateReceived:
		return verdictReceived, "dark: received, not live; `kekctl live`"
	case !image && st.Sealed == 0 && st.State == kekproto.StateBuilding:
		return verdictNoImage, "no server image is accepted yet; `kekctl manifest add`"
	case !image:
		return verdictDark, "DARK: no server image is accepted; `kekctl manifest list`, `kekctl manifest add`"
	case len(st.Refused) > 0:
		return verdictRefused, fmt.Sprintf("%s refused, see below", are(len(st.Refused), "device"))
	case st.Sealed == 0:
		return verdictUnsealed, "no device is sealed yet, so there is no key to release"
	default:
		return verdictReleased, "keys are released"
	}
}

// hasRole says whether an image of a role is accepted.
func hasRole(st *kekproto.Images, role string) bool {
	return slices.ContainsFunc(st.Manifests, func(m kekproto.ManifestInfo) bool {
		return m.Role == role && m.State == kekproto.ManifestAccepted
	})
}

// are is "1 device is", "2 devices are".
func are(n int, thing string) string {
	if n == 1 {
		return printable.Count(n, thing) + " is"
	}
	return printable.Count(n, thing) + " are"
}

func showStatus(w io.Writer, st *kekproto.Status) {
	_, why := verdict(st)
	line(w, "region "+st.Region, string(st.State)+": "+why)
	if st.AllowLab {
		line(w, "LAB PROFILE", "unmeasured boots are accepted: anybody's image gets keys")
	}
	line(w, "member "+st.Member, fmt.Sprintf("up since %s, store epoch %d", when(st.Since), st.StoreEpoch))
	line(w, "audit log", fmt.Sprintf("%s, head begins %.32s", printable.Count(int(st.AuditLines), "line"), st.AuditHead))
	line(w, "devices", fmt.Sprintf("%d added, %d enrolled, %d with slice, %d suspended", st.Devices, st.Enrolled, st.WithSlice, st.Suspended))
	line(w, "", fmt.Sprintf("%d sealed, %d of them accepted", st.Sealed, st.Accepted))
	line(w, "", fmt.Sprintf("%d released to since the region became %s", st.Released, st.State))
	line(w, "links", demandLine(st))
	if st.LinksBroken > 0 {
		line(w, "", are(st.LinksBroken, "device")+" not as wired in the factory; `kekctl links --wrong`")
	}
	if st.Firmware == kekproto.FirmwareHold {
		line(w, "firmware", firmwareLine(st))
	}
	showImages(w, &st.Images)
	if st.RefusedOthers > 0 {
		line(w, "strangers", printable.Count(st.RefusedOthers, "request")+" named no known device")
	}
	for _, id := range st.Unproved {
		line(w, "unproved "+id, "named by somebody whose quote is not by its attestation key; `kekctl explain "+id+"`")
	}
	for _, d := range st.Refused {
		line(w, "refused "+d.Device, d.Refuse.Code+" "+reasons(d.Refuse))
	}
}

func showImages(w io.Writer, st *kekproto.Images) {
	others := 0
	for _, m := range st.Manifests {
		if m.State != kekproto.ManifestAccepted {
			others++
			continue
		}
		line(w, "image", m.Image+" "+m.Version+", role "+m.Role+", boot form "+m.Form)
	}
	if others > 0 {
		line(w, "", fmt.Sprintf("%d more get nothing: revoked, too old or never accepted; `kekctl manifest list`", others))
	}
	for _, role := range slices.Sorted(maps.Keys(st.Minimum)) {
		line(w, "", "role "+role+": what is older than "+st.Minimum[role]+" gets nothing")
	}
}

func (a *app) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "explain DEVICE",
		Short:   "Say why a device was refused, and what to do",
		Example: "  kekctl --region r7 --as alice explain r07-u12",
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
			return a.screen(d, func(w io.Writer) { explain(w, d) })
		},
	}
}

func explain(w io.Writer, d *kekproto.DeviceInfo) {
	line(w, d.Device, stateOf(d))
	if u := d.Unproved; u != nil {
		line(w, "UNPROVED", fmt.Sprintf("%s: somebody named this device, %s, last for %s at %s: %s; "+
			"another TPM is in it, or it was not this device", u.Code, printable.Count(u.Count, "time"), u.Op, when(u.Time), u.Message))
	}
	if f := d.Drift; f != nil {
		line(w, "ALARM", fmt.Sprintf("PCR %s (firmware, option ROMs, Secure Boot) changed at the release of %s: an update of yours, or look at the machine", f.PCRs, when(f.Time)))
		line(w, "", "from "+f.From)
		line(w, "", "to   "+f.To)
	}
	if l := d.Links; l != nil && !allRight(l) {
		line(w, "LINKS", fmt.Sprintf("%d of %d proved since %s; `kekctl links %s`", l.Proved, l.Required, when(l.Since), d.Device))
	}
	r := d.Refuse
	if r == nil {
		switch {
		case d.Suspended:
			line(w, "DO", "`kekctl resume "+d.Device+"`, once you know that it may have its key again")
		case d.Seen != nil:
			line(w, "OK", "its last request was answered: "+seen(d))
		case d.Sealed == 0:
			line(w, "NEVER", "it was never sealed, so it has no key to ask for")
		default:
			line(w, "NEVER", "this member has not heard of it since the region's state changed")
		}
		showReport(w, d.Report)
		return
	}
	info, _ := report.Lookup(report.Code(r.Code))
	line(w, "CODE", r.Code, info.Title)
	line(w, "WHAT", r.Message)
	for _, d := range r.Differences {
		line(w, "DIFFERS", d)
	}
	line(w, "WHY", info.Why)
	line(w, "DO", repair(r, info))
	line(w, "WAIT", string(info.Wait))
	line(w, "WHEN", fmt.Sprintf("%s, %s, %s since this member started", when(r.Time), r.Op, printable.Count(r.Count, "time")))
	if len(r.Differences) > 0 {
		line(w, "MORE", "`kekctl evidence "+d.Device+"` shows what it measured")
	}
}

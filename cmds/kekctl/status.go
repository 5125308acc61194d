package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/opsclient"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/signed"
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

func (a *app) auditCommand() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Show or verify a member's audit log"}
	var device string
	show := &cobra.Command{
		Use:     "show",
		Short:   "Print the audit log of a member, verified",
		Example: "  kekctl --region r7 --as alice audit show --device r07-u12\n  kekctl --region r7 --as alice audit show --json > audit.jsonl",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := a.auditLog(cmd.Context(), nil)
			if err != nil {
				return err
			}
			return a.showAudit(data, device)
		},
	}
	show.Flags().StringVar(&device, "device", "", "only lines about this device")
	c.AddCommand(show, a.auditVerify())
	return c
}

func (a *app) showAudit(data []byte, device string) error {
	var lines []audit.Record
	_, _, err := audit.Verify(data, func(r audit.Record) error {
		if device == "" || r.Device == device {
			lines = append(lines, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if a.json && device == "" {
		_, err := a.stdout.Write(data)
		return err
	}
	return a.print(lines, func(w io.Writer) {
		row(w, "N", "TIME", "EVENT", "DEVICE", "BY", "CODE", "WHAT")
		for _, r := range lines {
			row(w, fmt.Sprint(r.Number), when(r.Time), string(r.Event), r.Device, strings.TrimSpace(r.Agent+" "+r.Peer), r.Code, what(&r))
		}
	})
}

func what(r *audit.Record) string {
	out := r.Detail
	if r.Links != "" {
		out = strings.TrimSpace("links " + r.Links + " " + out)
	}
	for _, p := range []string{r.State, r.Image} {
		if p != "" {
			out = strings.TrimSpace(p + " " + out)
		}
	}
	if r.ResetJump > 0 {
		out += fmt.Sprintf(" ALARM: its TPM was reset %s since the last release", printable.Count(int(r.ResetJump), "time"))
	}
	if r.Changed != "" {
		out += fmt.Sprintf(" ALARM: PCR %s is not that of the last release", r.Changed)
	}
	return out
}

func (a *app) auditVerify() *cobra.Command {
	var head string
	c := &cobra.Command{
		Use:   "verify [FILE]",
		Short: "Check that an audit log is whole, and holds a head that you kept",
		Long: "Check the chain of an audit log: of FILE, or of the member. The chain alone does not show that the\n" +
			"whole log was made up; a head that you noted earlier (--head, as status prints it) does. The exit\n" +
			"status is 1 if it is not whole, or does not hold that head.",
		Example: "  kekctl --region r7 --as alice audit verify --head 3f0c…\n  kekctl audit verify audit.jsonl",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := a.auditLog(cmd.Context(), args)
			if err != nil {
				return err
			}
			if err := a.verifyAudit(data, head); err != nil && len(args) == 1 {
				return fmt.Errorf("%s: %w", args[0], err)
			} else if err != nil {
				return err
			}
			return nil
		},
	}
	c.Flags().StringVar(&head, "head", "", "hash of a line that the log must hold")
	return c
}

// auditLog is the log of a file, else that of the member.
func (a *app) auditLog(ctx context.Context, args []string) ([]byte, error) {
	if len(args) == 1 {
		return readAudit(args[0])
	}
	c, err := a.connect()
	if err != nil {
		return nil, err
	}
	return c.Audit(ctx)
}

// readAudit reads a log that was saved. One that does not begin with a record is
// none: an emptied file would be whole.
func readAudit(name string) ([]byte, error) {
	data, err := files.Read(name, opsclient.MaxAnswer)
	if err != nil {
		return nil, err
	}
	first, _, _ := bytes.Cut(data, []byte("\n"))
	if _, err := audit.Parse(first); err != nil {
		return nil, fmt.Errorf("%s: want an audit log, as `kekctl audit show --json` prints it; it is %s", name, signed.Kind(data))
	}
	return data, nil
}

// minHead is how many digits of a head say which line was meant: 64 bits.
const minHead = 16

func (a *app) verifyAudit(data []byte, kept string) error {
	kept = strings.ToLower(strings.TrimRight(kept, "…"))
	if _, err := hex.DecodeString(kept); kept != "" && (err != nil || len(kept) < minHead || len(kept) > 2*sha256.Size) {
		return fmt.Errorf("--head %q: want %d to %d hexadecimal digits of what `kekctl status` shows as the audit log's head", kept, minHead, 2*sha256.Size)
	}
	found := kept == ""
	head, rest, err := audit.Verify(data, func(r audit.Record) error {
		found = found || strings.HasPrefix(r.Prev, kept)
		return nil
	})
	if err != nil {
		return err
	}
	if found = found || strings.HasPrefix(hex.EncodeToString(head.Hash[:]), kept); !found {
		return fmt.Errorf("the log does not hold the line %s: %w", kept, audit.ErrChain)
	}
	return a.print(map[string]any{"lines": head.Number, "head": head.String(), "torn": head.Torn, "rest": rest}, func(w io.Writer) {
		line(w, fmt.Sprintf("%d lines follow from each other; head %s", head.Number, head))
		if head.Torn > 0 {
			line(w, printable.Count(head.Torn, "time")+" the last lines were torn, by a power cut or by somebody: a head that was kept before tells (--head)")
		}
		if rest > 0 {
			line(w, fmt.Sprintf("%d bytes at the end are of a batch being written, or torn", rest))
		}
	})
}

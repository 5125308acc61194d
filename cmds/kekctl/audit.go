package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/opsclient"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/signed"
)

// auditCommands are about a member's audit log.
type auditCommands struct{ *app }

func (a auditCommands) group() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Show or verify a member's audit log"}
	var device string
	show := &cobra.Command{
		Use:     "show",
		Short:   "Print the audit log of a member, verified",
		Example: "  kekctl --region r7 --as alice audit show --device r07-u12\n  kekctl --region r7 --as alice audit show --json > audit.jsonl",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := a.log(cmd.Context(), nil)
			if err != nil {
				return err
			}
			return a.showLines(data, device)
		},
	}
	show.Flags().StringVar(&device, "device", "", "only lines about this device")
	c.AddCommand(show, a.verifyCommand())
	return c
}

func (a auditCommands) showLines(data []byte, device string) error {
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

func (a auditCommands) verifyCommand() *cobra.Command {
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
			data, err := a.log(cmd.Context(), args)
			if err != nil {
				return err
			}
			if err := a.verify(data, head); err != nil && len(args) == 1 {
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
func (a auditCommands) log(ctx context.Context, args []string) ([]byte, error) {
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

func (a auditCommands) verify(data []byte, kept string) error {
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

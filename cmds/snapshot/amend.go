package main

import (
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// amendInput is what `amend` was asked for.
type amendInput struct {
	document, edited, slice, key string
	reason, dir                  string
	out                          output
	macs, members                []string
	records, waive, unwaive      []string
}

func amendCommand() *cobra.Command {
	var in amendInput
	cmd := &cobra.Command{
		Use:   "amend --document SNAPSHOT --reason TEXT CHANGE... -o SNAPSHOT --dir DIR",
		Short: "Change a snapshot, and make the slices that replace others",
		Long: `amend changes a region's snapshot, writes its next generation, and into --dir the
unsigned slices of the devices that it changes anything for: generation one
more, with the digest of the slice that they replace. A new NIC changes its
device and the DHCP device; a replaced machine its neighbors as well; the URL
of a key server all. Every other change is made in a copy of the snapshot, which
--edited names.

With --slice it amends the signed slice of one device, where no snapshot is at
hand. The slices of others that the change matters to are then yours to find.

A waiver excuses one end of a link: its other end needs one of its own, unless
that device is the one that is dead.`,
		Example: `  snapshot amend --document region.json --reason "NIC replaced" --mac r07-u12/eth1=52:54:00:00:07:99 -o region-2.json --dir slices-2
  snapshot amend --document region.json --reason "r07-u14 is dead" --waive r07-u12/eth1=r07-u14 -o region-2.json --dir slices-2
  snapshot amend --document region.json --edited edited.json --reason "rack r08 added" -o region-2.json --dir slices-2
  snapshot amend --slice r07-u12.slice.note --key north/public/root.pub --reason "NIC replaced" --mac r07-u12/eth1=52:54:00:00:07:99 -o r07-u12-2.slice.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return in.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&in.document, "document", "", "snapshot to amend")
	f.StringVar(&in.edited, "edited", "", "changed copy of it, instead of single changes")
	f.StringVar(&in.slice, "slice", "", "signed slice to amend, without a snapshot")
	f.StringVar(&in.key, "key", "", "file of the region root's public key (with --slice)")
	f.StringVar(&in.reason, "reason", "", "why, for technicians and the audit")
	f.StringArrayVar(&in.macs, "mac", nil, "DEVICE/INTERFACE=MAC of a new NIC; may be given again")
	f.StringArrayVar(&in.records, "record", nil, "the fleet's record of a replaced machine; may be given again")
	f.StringArrayVar(&in.members, "member", nil, "ID=URL of a key server that moved; may be given again")
	f.StringArrayVar(&in.waive, "waive", nil, "DEVICE/INTERFACE=PEER, a link that its end need not prove; may be given again")
	f.StringArrayVar(&in.unwaive, "unwaive", nil, "the same, to end it; may be given again")
	in.out.flags(cmd, "file for the next snapshot, or slice")
	f.StringVar(&in.dir, "dir", "", "folder for the changed slices (with --document)")
	mustRequire(cmd, "reason")
	cmd.MarkFlagsMutuallyExclusive("document", "slice")
	cmd.MarkFlagsMutuallyExclusive("edited", "slice")
	cmd.MarkFlagsOneRequired("document", "slice")
	cmd.MarkFlagsRequiredTogether("slice", "key")
	return cmd
}

func (in *amendInput) run(cmd *cobra.Command) error {
	if err := in.out.check(); err != nil {
		return err
	}
	change, err := in.change(cmd)
	if err != nil {
		return err
	}
	if in.slice != "" {
		old, _, err := openSlice(cmd, in.key, in.slice)
		if err != nil {
			return err
		}
		next, err := snapshot.AmendSlice(old, change, in.reason)
		if err != nil {
			return err
		}
		in.tell(cmd, snapshot.DiffSlices(old, next))
		return writeDocument(cmd, in.out, next)
	}
	if in.dir == "" || in.out.name == "-" {
		return errors.New("name the next snapshot (-o) and a folder for the changed slices (--dir)")
	}
	return in.region(cmd, change)
}

func (in *amendInput) region(cmd *cobra.Command, change *snapshot.Change) error {
	old, err := readDocument(cmd, in.document)
	if err != nil {
		return err
	}
	edited := old
	if in.edited != "" {
		if edited, err = readDocument(cmd, in.edited); err != nil {
			return err
		}
	}
	if edited, err = change.Apply(edited); err != nil {
		return err
	}
	next, changed, err := snapshot.Amend(old, edited, in.reason)
	if err != nil && in.edited != "" {
		err = fmt.Errorf("%s: %w", in.edited, err)
	}
	if err != nil {
		return err
	}
	in.tell(cmd, snapshot.DiffDocuments(old, next))
	// The snapshot comes last: it is there once the slices are.
	if _, err := writeSlices(in.dir, pick(next.Slices(), changed)); err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s to sign in %s\n", printable.Count(len(changed), "slice"), filepath.Clean(in.dir))
	return writeDocument(cmd, in.out, next)
}

func pick(all iter.Seq[*snapshot.Slice], ids []string) iter.Seq[*snapshot.Slice] {
	return func(yield func(*snapshot.Slice) bool) {
		for s := range all {
			if _, found := slices.BinarySearch(ids, s.Device.ID); found && !yield(s) {
				return
			}
		}
	}
}

func (in *amendInput) tell(cmd *cobra.Command, lines []string) {
	for _, l := range lines {
		fmt.Fprintln(cmd.ErrOrStderr(), l)
	}
}

// change reads the single changes, and lists all that are not readable.
func (in *amendInput) change(cmd *cobra.Command) (*snapshot.Change, error) {
	c := &snapshot.Change{MACs: map[snapshot.Port]string{}, Keys: map[string]snapshot.TPMKeys{}}
	var errs []error
	port := func(flag, text string) (snapshot.Port, string) {
		left, value, ok := strings.Cut(text, "=")
		device, ifc, ok2 := strings.Cut(left, "/")
		if !ok || !ok2 || device == "" || ifc == "" || value == "" {
			errs = append(errs, fmt.Errorf("--%s %q: must be DEVICE/INTERFACE=VALUE", flag, text))
		}
		return snapshot.Port{Device: device, Interface: ifc}, value
	}
	for _, text := range in.macs {
		p, mac := port("mac", text)
		c.MACs[p] = mac
	}
	for _, text := range in.waive {
		p, peer := port("waive", text)
		c.Waive = append(c.Waive, snapshot.Waiving{Port: p, Peer: peer, Reason: in.reason})
	}
	for _, text := range in.unwaive {
		p, peer := port("unwaive", text)
		c.Unwaive = append(c.Unwaive, snapshot.Waiving{Port: p, Peer: peer})
	}
	for _, text := range in.members {
		id, url, ok := strings.Cut(text, "=")
		if !ok {
			errs = append(errs, fmt.Errorf("--member %q: must be ID=URL", text))
		}
		c.Members = append(c.Members, snapshot.Member{ID: id, URL: url})
	}
	src := snapshot.Sources{Keys: c.Keys}
	errs = append(errs, eachFile(cmd, in.records, func(text []byte) error { return addRecords(&src, text) }))
	return c, errors.Join(errs...)
}

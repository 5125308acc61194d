package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

func tpmKeys(r *kekproto.DeviceInfo) snapshot.TPMKeys {
	return snapshot.TPMKeys{EKName: r.EKName, AKName: r.AKName, SRKName: r.SRKName, SRKPublic: r.SRKPublic}
}

// assembleInput is what `assemble` was asked for.
type assembleInput struct {
	region                   string
	out                      output
	plans, records, captures []string
}

func assembleCommand() *cobra.Command {
	var in assembleInput
	cmd := &cobra.Command{
		Use:   "assemble --region DIR --record FILE... [--plan PLAN...] [--capture FILE...] [DESCRIPTION...]",
		Short: "Make the snapshot of a region from plan, descriptions, captures and records",
		Long: `assemble puts together what people planned, what the machines found out about
themselves and what the fleet recorded of their TPMs. It lists every
contradiction between them, by name, and writes nothing then.

Plan and descriptions say which devices there are, their addresses, disks and
links; snapshot import makes a plan from a cabling plan. Records are what
kekctl device show ID --json or kekctl device list --json prints: with the
captures that seal provision posted. A folder stands for the *.json in it.`,
		Example: `  snapshot assemble --region north --plan plan.json --record records -o region.json
  snapshot assemble --region north --plan cabling.json --plan people.json --record list.json --capture captures -o region.json`,
		RunE: func(cmd *cobra.Command, args []string) error { return in.run(cmd, args) },
	}
	f := cmd.Flags()
	f.StringVar(&in.region, "region", "", "folder that kekctl init made (its public/ is read)")
	f.StringArrayVar(&in.plans, "plan", nil, "plan of the region, or a part of it; may be given again")
	f.StringArrayVar(&in.records, "record", nil, "records of the fleet; may be given again")
	f.StringArrayVar(&in.captures, "capture", nil, "captures that are not in the records; may be given again")
	in.out.flags(cmd, "file to write")
	mustRequire(cmd, "region", "record")
	return cmd
}

func (in *assembleInput) run(cmd *cobra.Command, descriptions []string) error {
	if err := in.out.check(); err != nil {
		return err
	}
	region, ca, err := readRegion(cmd, in.region)
	if err != nil {
		return err
	}
	src := snapshot.Sources{Region: region, CA: ca, Keys: map[string]snapshot.TPMKeys{}}
	err = eachFile(cmd, in.plans, func(text []byte) error {
		p, err := snapshot.ParsePlan(text)
		src.Plans = append(src.Plans, p)
		return likeExample("north-plan.json", err)
	})
	if err == nil {
		err = eachFile(cmd, descriptions, func(text []byte) error {
			s, err := snapshot.ParseDescription(text)
			src.Descriptions = append(src.Descriptions, s)
			return likeExample("r07-u12.json", err)
		})
	}
	if err == nil {
		err = eachFile(cmd, in.records, func(text []byte) error { return addRecords(&src, text) })
	}
	if err == nil {
		err = eachFile(cmd, in.captures, func(text []byte) error { return addCapture(&src, text) })
	}
	if err != nil {
		return err
	}
	doc, notes, err := snapshot.Assemble(src)
	for _, n := range notes {
		fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
	}
	if err != nil {
		return fmt.Errorf("the sources contradict each other:\n%w", err)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "snapshot 1 of region %s: %s, %s, %d switches\n",
		doc.Region, printable.Count(len(doc.Devices), "device"), printable.Count(len(doc.Links), "link"), len(doc.Switches))
	return writeDocument(cmd, in.out, doc)
}

// likeExample adds which of our examples is such a file.
func likeExample(name string, err error) error {
	if err != nil {
		err = fmt.Errorf("%w; docs/examples/%s is one", err, name)
	}
	return err
}

// eachFile reads files, and the *.json of folders.
func eachFile(cmd *cobra.Command, args []string, do func(text []byte) error) error {
	files, err := expand(args, ".json")
	if err != nil {
		return err
	}
	for _, name := range files {
		text, err := readFile(cmd, name)
		if err != nil {
			return err
		}
		if err := do(text); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// addRecords takes one record, or a list.
func addRecords(src *snapshot.Sources, text []byte) error {
	var list []kekproto.DeviceInfo
	var err error
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("[")) {
		err = json.Unmarshal(text, &list)
	} else {
		list = make([]kekproto.DeviceInfo, 1)
		err = json.Unmarshal(text, &list[0])
	}
	if err != nil {
		return fmt.Errorf("no record of the fleet (`kekctl device show ID --json`): %w", signed.Where(text, err))
	}
	if err := untyped(text); err != nil {
		return err
	}
	for _, r := range list {
		if r.Device == "" {
			return errors.New("no record of the fleet (`kekctl device show ID --json`): it names no device")
		}
		if r.Enrolled {
			src.Keys[r.Device] = tpmKeys(&r)
		}
		if len(r.Capture) == 0 || string(r.Capture) == "null" {
			continue
		}
		if err := addCapture(src, r.Capture); err != nil {
			return fmt.Errorf("record of %s: %w", r.Device, err)
		}
	}
	return nil
}

// untyped refuses a document of another type: a record has none, and other
// documents name a device as well.
func untyped(text []byte) error {
	var head struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(text, &head) == nil && head.Type != "" {
		return fmt.Errorf("no record of the fleet (`kekctl device show ID --json`), but %s", signed.Kind(text))
	}
	return nil
}

func addCapture(src *snapshot.Sources, text []byte) error {
	c, err := snapshot.ParseCapture(text)
	src.Captures = append(src.Captures, c)
	if err != nil {
		err = fmt.Errorf("%w; `snapshot capture` makes one", err)
	}
	return err
}

package main

import (
	"context"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/files/filestest"
)

// Each command, given each kind of file in each place, takes what it is for, and
// of all else says which file is wrong, what is wrong about it and what to do.
func TestWrongFiles(t *testing.T) {
	region := filestest.Region(t)
	set := filestest.New(t, region, nil)
	set.Copy(region, "r7")
	tool := func(args []string, out *strings.Builder) error {
		return run(context.Background(), args, strings.NewReader(""), out, out)
	}
	const (
		record   = "`kekctl device show"
		document = "`snapshot assemble`"
		sign     = "`snapshot sign`"
		region7  = "`kekctl init`"
		slices   = "slice.note document.note"
		both     = "slice.json slice.note document.json document.note"
	)
	set.Sweep(tool, []filestest.Case{
		{Command: "slice --region r7 --record % description.json", Takes: "record.json", Says: record},
		{Command: "slice --region r7 --record record.json %", Takes: "description.json slice.json", Says: "docs/examples"},
		{Command: "slice --document % --device r07-u12", Takes: "document.json document.note", Says: document},
		{Command: "slice --region % --record record.json description.json", Says: "`kekctl init`"},
		{Command: "sign --region r7 %", Takes: both, Says: document},
		{Command: "sign --key % slice.json", Takes: "root.key", Says: "offline/root.key"},
		{Command: "verify --region r7 %", Takes: slices, Says: sign},
		{Command: "verify --key % slice.note", Takes: "root.pub", Says: "public/root.pub|" + sign},
		{Command: "verify --region r7 --document % slice.note", Skip: "document.json document.note", Says: document},
		{Command: "show --key root.pub %", Takes: slices, Says: sign},
		{Command: "show --region r7 %", Takes: slices, Says: sign},
		{Command: "diff document.json %", Takes: "document.json document.note", Says: document},
		{Command: "diff slice.json %", Takes: "slice.json slice.note", Says: document},
		{Command: "assemble --region r7 --plan % --record record.json", Takes: "plan.json", Says: "docs/examples"},
		{Command: "assemble --region r7 --plan plan.json --record %", Takes: "record.json", Says: record},
		{Command: "assemble --region r7 --plan plan.json --record record.json --capture %", Takes: "capture.json", Says: "`snapshot capture`"},
		{Command: "import %", Takes: "plan.dot", Says: "docs/examples"},
		{Command: "render %", Takes: "document.json document.note", Says: document},
		{Command: "render document.json --links %", Takes: "links.json", Says: "`kekctl links --json`"},
		{Command: "amend --document document.json --edited % --reason x -o new --dir d", Skip: "document.json document.note", Says: document},
		{Command: "amend --slice % --key root.pub --reason x --mac r07-u12/eth0=52:54:00:00:99:00", Takes: "slice.note", Says: sign},
		{Command: "part write --key root.pub --slice % -o out", Takes: "slice.note", Says: sign + "|is empty"},
		{Command: "part write --region r7 --policy % -o out", Takes: "image.policy", Says: "`imagectl sign`|is empty"},
		{Command: "part write --station-file % -o out", Takes: "station.json", Says: "`station init`|is empty"},
		{Command: "part write --region r7 --station r07-u12 --token % -o out", Takes: "token", Says: "`kekctl device add"},
		{Command: "part write --key root.pub --slice slice.note --plan % -o out", Takes: "sealplan.json", Says: "docs/spec/seal-plan.md|is empty"},
		{Command: "part write --key root.pub --slice slice.note --onto %", Says: "LANDFALL"},
		{Command: "part show %", Takes: "partition", Says: "`snapshot part write`"},
		{Command: "sign --region r7 slice.json -o %", Takes: "missing", Says: "--force"},
		{Command: "sign --region % slice.json", Says: region7},
		{Command: "verify --region % slice.note", Says: region7},
		{Command: "assemble --region % --plan plan.json --record record.json", Says: region7},
		{Command: "part write --region % --station r07-u12 -o out", Says: region7},
		{Command: "show --key % slice.note", Takes: "root.pub", Says: "public/root.pub|" + sign},
		{Command: "part write --key % --slice slice.note -o out", Takes: "root.pub", Says: "public/root.pub|" + sign},
		{Command: "verify --region r7 slice.note", Place: "r7/public/region.json", Takes: "region.json", Says: region7},
		{Command: "verify --region r7 slice.note", Place: "r7/public/root.pub", Takes: "root.pub", Says: "public/root.pub|" + sign},
		{Command: "slice --region r7 --record record.json description.json", Place: "r7/public/ca.pem", Takes: "ca.pem", Says: region7},
		{Command: "part write --region r7 --policy image.policy -o out", Place: "r7/public/policy.pub", Takes: "policy.pub", Says: region7},
	})
}

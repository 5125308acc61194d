package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/files/filestest"
)

// A member that finds a file of another kind where one of its own should be says
// which, what it is and what to do, and writes nothing.
func TestWrongFiles(t *testing.T) {
	region := filestest.Region(t)
	set := filestest.New(t, region, nil)
	set.Copy(filepath.Join(region, "members", "ks1"), "ks1")
	check := func(args []string, out *strings.Builder) error {
		return run(context.Background(), args, func(string) string { return "" }, out)
	}
	const (
		whole = "-config ks1/kekd.json -check"
		// As long as the store knows of no line of the log, what has no line that
		// ends, or zero bytes, is taken for what a power cut tore.
		torn = "barrier.key bom.json bytes ca.der cut.raw disk.qcow2 partition plan.dot plan.json recovery.txt sealplan.json store.db uki.efi utf16.txt"
	)
	set.Sweep(check, []filestest.Case{
		{Command: "-config % -check", Skip: "kekd.json", Says: "`kekctl init`"},
		{Command: whole, Place: "ks1/tls.crt", Takes: "tls.crt", Says: "put back"},
		{Command: whole, Place: "ks1/tls.key", Takes: "tls.key", Says: "put back"},
		{Command: whole, Place: "ks1/policy.pub", Takes: "policy.pub", Says: "public/policy.pub"},
		{Command: whole, Place: "ks1/barrier.key", Takes: "barrier.key", Says: "bring the member's own"},
		{Command: whole, Place: "ks1/store.db", Takes: "store.db", Says: "`kekctl restore`"},
		{Command: whole, Place: "ks1/audit.jsonl", Takes: "audit.jsonl empty", Skip: torn, Says: "`kekctl restore`"},
	})
}

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/files/filestest"
)

// An image that has something else in the place of a public key says which file
// it is, what it is and what it should be.
func TestWrongFiles(t *testing.T) {
	set := filestest.New(t, filestest.Region(t), nil)
	if err := os.Mkdir("etc", 0o755); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"root.pub": "etc/region.pub", "policy.pub": "etc/policy.pub"} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	set.Sweep(func(args []string, _ *strings.Builder) error { return new(inputs).readKeys(args[0]) }, []filestest.Case{
		{Command: "etc", Place: "etc/region.pub", Takes: "root.pub manifest.pub", Says: "want a public key"},
		{Command: "etc", Place: "etc/policy.pub", Takes: "policy.pub", Says: "want a public key"},
	})
}

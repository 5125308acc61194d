package main

import (
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/files/filestest"
)

// What goes into an image is what it is for: of all else the file is named, what
// is wrong about it and what to do, and no secret is shown.
func TestWrongFiles(t *testing.T) {
	tool := func(args []string, _ *strings.Builder) error { // building is another test's
		var s settings
		if err := s.flags().Parse(args); err != nil {
			return err
		}
		return (&job{settings: s}).read()
	}
	set := filestest.New(t, filestest.Region(t), nil)
	set.Sweep(tool, []filestest.Case{
		{Command: "-flavour server -region-key % -policy-key policy.pub", Takes: "root.pub", Says: "public/root.pub"},
		{Command: "-flavour server -region-key root.pub -policy-key %", Takes: "policy.pub", Says: "public/policy.pub"},
		{Command: "-flavour server -part %", Takes: "partition", Says: "`snapshot part write`"},
	})
}

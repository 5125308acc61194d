package main

import (
	"encoding/json"
	"fmt"
	"path"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

func importCommand() *cobra.Command {
	var out output
	var switches []string
	cmd := &cobra.Command{
		Use:   "import [--switch PATTERN]... PLAN.dot",
		Short: "Make a plan of a cabling plan in the DOT language",
		Long: `import reads a cabling plan as the Prescriptive Topology Manager has it,
"leaf1":"swp1" -- "r07-u12":"eth0", and writes the plan that assemble reads.
docs/spec/dot.md lists the attributes that count.

A node is a switch if its attribute "function" says so, or if its name matches
a --switch, such as 'leaf*'; all others are devices.`,
		Example: `  snapshot import --switch 'leaf*' --switch 'spine*' topology.dot -o plan.json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, p := range switches {
				if _, err := path.Match(p, ""); err != nil {
					return fmt.Errorf("--switch %q: %w", p, err)
				}
			}
			plan, err := readPlan(cmd, args[0], switches)
			if err != nil {
				return err
			}
			b, err := json.MarshalIndent(plan, "", "  ")
			if err != nil {
				return err
			}
			if len(plan.Switches) == 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: all %d nodes are taken as devices; --switch says which are switches\n", args[0], len(plan.Devices))
			}
			return out.write(cmd, 0o644, append(b, '\n'))
		},
	}
	out.flags(cmd, "file to write")
	cmd.Flags().StringArrayVar(&switches, "switch", nil, "pattern of the names of switches, with * and ?")
	return cmd
}

func readPlan(cmd *cobra.Command, name string, switches []string) (*snapshot.Plan, error) {
	text, err := readFile(cmd, name)
	if err != nil {
		return nil, err
	}
	plan, err := snapshot.ParseDOT(text, func(id string) bool {
		for _, p := range switches {
			if ok, _ := path.Match(p, id); ok {
				return true
			}
		}
		return false
	})
	if err != nil {
		return nil, fmt.Errorf("%s:\n%w", name, likeExample("cabling.dot", err))
	}
	return plan, nil
}

// Package command runs the command trees of our programs, with one rule for a
// word that is no command: it is an error which names the word and what was
// probably meant, and nothing is printed. (Cobra shows the help of the group
// and succeeds, and a script goes on.)
package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// near is how many letters of a word may be wrong.
const near = 2

// Execute does what args ask of root.
func Execute(ctx context.Context, root *cobra.Command, args []string) error {
	if err := mistyped(root, args); err != nil {
		return err
	}
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

// mistyped looks for a word where the name of a command belongs. Wrong flags are
// left to cobra, and so is what a shell asks to complete a line.
func mistyped(root *cobra.Command, args []string) error {
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		return nil
	}
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(args...)
	c, rest, _ := root.Find(args) // the error says only that there is a rest
	if c.Name() == "help" && c.Parent() == root {
		c, rest, _ = root.Find(rest)
	}
	// One that does something itself says which arguments it takes, and would parse
	// its flags twice: a list of values would have each twice.
	if !c.HasSubCommands() || c.Runnable() || c.ParseFlags(rest) != nil || c.Flags().NArg() == 0 {
		return nil
	}
	word := c.Flags().Arg(0)
	c.SuggestionsMinimumDistance = near
	if like := c.SuggestionsFor(word); len(like) > 0 {
		return fmt.Errorf("%q is no command of %s; did you mean %s?", word, c.CommandPath(), strings.Join(like, " or "))
	}
	var all []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			all = append(all, sub.Name())
		}
	}
	return fmt.Errorf("%q is no command of %s; it has %s", word, c.CommandPath(), strings.Join(all, ", "))
}

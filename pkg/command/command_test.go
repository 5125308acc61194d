package command

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// tree is a program with a flag for all, a group, a command that takes
// arguments, and one that does something and has commands.
func tree(out *bytes.Buffer) *cobra.Command {
	root := &cobra.Command{Use: "prog", SilenceUsage: true, SilenceErrors: true}
	root.SetOut(out)
	root.SetErr(out)
	root.PersistentFlags().String("region", "", "")
	run := func(*cobra.Command, []string) error { return nil }
	group := &cobra.Command{Use: "image"}
	group.AddCommand(&cobra.Command{Use: "list", RunE: run}, &cobra.Command{Use: "add FILE...", RunE: run})
	var values []string
	both := &cobra.Command{Use: "entry", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		if len(values) > 1 {
			return fmt.Errorf("values %q", values)
		}
		return nil
	}}
	both.Flags().StringArrayVar(&values, "value", nil, "")
	both.AddCommand(&cobra.Command{Use: "key", RunE: run})
	root.AddCommand(group, both, &cobra.Command{Use: "show", RunE: run})
	return root
}

func TestExecute(t *testing.T) {
	for line, want := range map[string]string{
		"":                        "",
		"image":                   "",
		"image --help":            "",
		"image list":              "",
		"image add a b":           "",
		"show a":                  "",
		"help image list":         "",
		"--region r7 image list":  "",
		"__complete image l":      "",
		"completion bash":         "",
		"imag":                    `"imag" is no command of prog; did you mean image?`,
		"image lst":               `"lst" is no command of prog image; did you mean list?`,
		"image lst more":          `"lst" is no command of prog image; did you mean list?`,
		"image --region r7 lst":   `"lst" is no command of prog image; did you mean list?`,
		"--region r7 image lst":   `"lst" is no command of prog image; did you mean list?`,
		"image verify":            `"verify" is no command of prog image; it has add, list`,
		"help image verify":       `"verify" is no command of prog image; it has add, list`,
		"help imag":               `"imag" is no command of prog; did you mean image?`,
		"entry --value a":         "",
		"entry key":               "",
		"entry kye":               `unknown command "kye" for "prog entry"`,
		"completion powershel":    `"powershel" is no command of prog completion; did you mean powershell?`,
		"image list --no-such 1":  "unknown flag: --no-such",
		"image --no-such 1 image": "unknown flag: --no-such",
	} {
		var out bytes.Buffer
		got := ""
		if err := Execute(context.Background(), tree(&out), strings.Fields(line)); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("prog %s: got error %q, want %q", line, got, want)
		}
		if want != "" && out.Len() > 0 {
			t.Errorf("prog %s prints beside its error:\n%s", line, out.String())
		}
	}
}

package filestest

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"
)

// Groups gives a word that is no command to a program and to each group of its
// commands, which it finds by their help: there is an error with the word, and
// nothing on standard output. Those that are named take a word of their own.
func Groups(t *testing.T, run func(ctx context.Context, args []string, stdout, stderr io.Writer) error, named ...string) {
	t.Helper()
	const word = "mistypd"
	todo := [][]string{{}, {"help"}}
	for groups := 0; len(todo) > 0; groups++ {
		group := todo[0]
		todo = todo[1:]
		var out, screen strings.Builder
		err := run(context.Background(), append(slices.Clone(group), word), &out, &screen)
		wrong := err == nil || !strings.Contains(err.Error(), word) || out.Len() > 0 || screen.Len() > 0
		if wrong && !slices.Contains(named, strings.Join(group, " ")) {
			t.Errorf("%v: got error %v and output %q, want an error that names %s and no output", append(group, word), err, out.String()+screen.String(), word)
		}
		if slices.Contains(group, "help") {
			continue
		}
		var help strings.Builder
		if err := run(context.Background(), append(slices.Clone(group), "--help"), &help, &screen); err != nil {
			t.Errorf("%v --help: %v", group, err)
		}
		names := commands(help.String())
		if groups == 0 && len(names) == 0 {
			t.Error("the help names no command")
		}
		for _, name := range names {
			sub := append(slices.Clone(group), name)
			var page strings.Builder
			if err := run(context.Background(), append(slices.Clone(sub), "--help"), &page, &screen); err != nil {
				t.Errorf("%v --help: %v", sub, err)
			}
			if len(commands(page.String())) > 0 {
				todo = append(todo, sub)
			}
		}
	}
}

// commands are those that a help names.
func commands(help string) []string {
	_, list, _ := strings.Cut(help, "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	var names []string
	for l := range strings.Lines(list) {
		if f := strings.Fields(l); len(f) > 0 {
			names = append(names, f[0])
		}
	}
	return names
}

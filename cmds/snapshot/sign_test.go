package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// What was to be taken back and could not is named in the order of the names,
// each time: here folders with something in them.
func TestFaultsOfManyHaveOneOrder(t *testing.T) {
	dir := t.TempDir()
	in := signInput{dir: filepath.Join(dir, "notes")}
	if err := os.Mkdir(in.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var names, missing, want []string
	for _, name := range []string{"h", "c", "a", "g", "b", "f", "d", "e"} {
		names = append(names, filepath.Join(dir, name+".json")) // of which there is none
		missing = append(missing, filepath.Join(dir, name+".json"))
	}
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		want = append(want, filepath.Join(in.dir, name+".note"))
	}
	paths := func(err error) (all []string) {
		joined, _ := err.(interface{ Unwrap() []error })
		for _, err := range joined.Unwrap() {
			var at *fs.PathError
			if !errors.As(err, &at) {
				t.Fatal(err)
			}
			all = append(all, at.Path)
		}
		return all
	}
	if diff := cmp.Diff(missing, paths(in.many(&cobra.Command{}, &keyring{}, names))); diff != "" {
		t.Errorf("faults of the files (-want +got):\n%s", diff)
	}
	for _, name := range want {
		if err := os.MkdirAll(filepath.Join(name, "x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var outputs []string
	seen := map[string]string{"not-there": ""}
	for _, name := range want {
		seen[filepath.Base(name)] = name
	}
	for _, err := range takeBack(in.dir, seen) {
		var at *fs.PathError
		if !errors.As(err, &at) {
			t.Fatal(err)
		}
		outputs = append(outputs, at.Path)
	}
	if diff := cmp.Diff(want, outputs); diff != "" {
		t.Errorf("what is left (-want +got):\n%s", diff)
	}
}

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The documentation above and the flags say the same.
func TestDocumentedFlags(t *testing.T) {
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	doc, _, _ := strings.Cut(string(source), "\npackage main")
	_, text, _ := strings.Cut(doc, "Options:")
	documented := strings.Count(text, "//\t-")
	n := 0
	flags(&options{}, func(string) string { return "" }).VisitAll(func(f *flag.Flag) {
		n++
		if !strings.Contains(text, "//\t-"+f.Name) {
			t.Errorf("-%s is not documented", f.Name)
		}
	})
	if n != documented {
		t.Errorf("%d flags, %d documented", n, documented)
	}
}

func TestArguments(t *testing.T) {
	none := func(string) string { return "" }
	for name, args := range map[string][]string{
		"nothing":         {},
		"an argument":     {"-config", "x", "y"},
		"no such file":    {"-config", filepath.Join(t.TempDir(), "kekd.json")},
		"an unknown flag": {"-insecure"},
	} {
		var out bytes.Buffer
		if err := run(context.Background(), args, none, &out); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	var out bytes.Buffer
	if err := run(context.Background(), []string{"-help"}, none, &out); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-help: %v", err)
	}
}

func TestNoCoreDumps(t *testing.T) {
	if err := noCoreDumps(); err != nil {
		t.Fatal(err)
	}
	if got, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || got != 0 {
		t.Errorf("dumpable is %d, %v", got, err)
	}
}

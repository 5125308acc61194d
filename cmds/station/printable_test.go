package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/landfall-project/landfall/pkg/printable"
)

// A serial number that somebody typed, or firmware brought, drives no terminal.
func TestShowDrivesNoTerminal(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, stationFile), "{}")
	write(t, filepath.Join(dir, devicesDir, "r07-u12", deviceFile), "{\"serial\":\"CZ\u009b31m\u202e7K\"}")
	for _, args := range [][]string{{"show", dir}, {"show", dir, "--json"}} {
		var out, errs bytes.Buffer
		if err := run(context.Background(), args, &out, &errs); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); printable.Text(got) != got || !bytes.Contains(out.Bytes(), []byte(`\u009b`)) {
			t.Errorf("%v: %q", args, got)
		}
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

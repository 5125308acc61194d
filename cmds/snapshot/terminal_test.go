package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A partition is not printed on a terminal; through a pipe it goes.
func TestNoPartitionOnATerminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	dir := t.TempDir()
	if err := makeRegion(dir); err != nil {
		t.Fatal(err)
	}
	args := []string{"part", "write", "--station-file", filepath.Join(dir, "station.json")}
	err = run(context.Background(), args, strings.NewReader(""), screen, screen)
	if err == nil || !strings.Contains(err.Error(), "say --onto DISK, where a machine finds it, or -o FILE") {
		t.Errorf("onto a terminal: %v", err)
	}
	var piped strings.Builder
	if err := run(context.Background(), args, strings.NewReader(""), &piped, &piped); err != nil || piped.Len() == 0 {
		t.Errorf("into a pipe: %d bytes, %v", piped.Len(), err)
	}
}

package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

type badTail struct{ *os.File }

func (badTail) WriteAt([]byte, int64) (int, error) { return 0, errors.New("input/output error") }

// TestLeaveWithoutJournal: a machine whose journal keeps nothing holds, instead
// of restarting for ever.
func TestLeaveWithoutJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "part"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	s := &system{work: t.TempDir(), out: io.Discard}
	for _, tc := range []struct {
		dev       snapshot.PartDevice
		sealedNow bool
		want      string
	}{
		{badTail{f}, true, report.NextReboot},
		{badTail{f}, false, report.NextHold},
		{f, false, report.NextReboot},
	} {
		j, _, err := snapshot.OpenJournal(tc.dev, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.leave(&track{logf: s.logf, journal: j}, tc.sealedNow); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(s.work, report.FactoryNext))
		if got := strings.TrimSpace(string(b)); got != tc.want || err != nil {
			t.Errorf("sealed now %v: %q, %v, want %q", tc.sealedNow, got, err, tc.want)
		}
	}
}

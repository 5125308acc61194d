package kekserver

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
)

// A device has one turn at a time, whatever it sends, so it cannot take the
// others' turns.
func TestTurnsOfEventLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &evidenceStore{slots: make(chan struct{}, evidenceAtOnce)}
		var ends []func()
		turn := func(device string, wait time.Duration, ok bool) {
			t.Helper()
			start := time.Now()
			end, err := s.turn(device)
			if took := time.Since(start); took != wait || (err == nil) != ok {
				t.Errorf("%s waited %v (%v), want %v, success %v", device, took, err, wait, ok)
			}
			ends = append(ends, end)
		}
		turn("a", 0, true)
		for range evidenceAtOnce {
			turn("a", evidenceWait, false)
		}
		for _, device := range []string{"b", "c", "d"} {
			turn(device, 0, true)
		}
		turn("e", evidenceWait, false) // all are taken, by different devices
		for _, end := range ends {
			end()
		}
		ends = nil
		turn("a", 0, true)
		end := ends[0]
		go func() {
			time.Sleep(evidenceWait / 2)
			end()
		}()
		turn("a", evidenceWait/2, true)
		ends[1]()
		if len(s.busy) != 0 || len(s.slots) != 0 {
			t.Errorf("%d devices and %d slots are left", len(s.busy), len(s.slots))
		}
	})
}

// A device that makes up another log each time does not write each to the disk.
func TestEventLogsAreWrittenAtIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &evidenceStore{dir: t.TempDir()}
		save := func(device, log, want string) {
			t.Helper()
			if err := s.save(&kekproto.Evidence{Device: device, Log: []byte(log)}); err != nil {
				t.Fatal(err)
			}
			if e, err := s.load(device); err != nil || string(e.Log) != want {
				t.Errorf("%s: %q is kept, want %q; %v", device, e.Log, want, err)
			}
		}
		save("a", "1", "1")
		save("a", "2", "1")
		save("b", "2", "2")
		time.Sleep(evidenceEvery)
		save("a", "3", "3")
		if err := s.forget("a"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(s.path("a")); !os.IsNotExist(err) {
			t.Errorf("it is still there: %v", err)
		}
		save("a", "3", "3") // the same log again, of another enrolment
		if err := s.forget("c"); err != nil {
			t.Errorf("nothing to forget: %v", err)
		}
	})
}

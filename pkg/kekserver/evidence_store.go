package kekserver

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/report"
)

// evidenceStore keeps the last event log of each device as a file. It is what
// devices said: nothing is decided by it, so it is neither in the store nor
// under its barrier.
type evidenceStore struct {
	dir   string
	slots chan struct{} // one for each log that is being looked at
	mu    sync.Mutex
	busy  map[string]chan struct{} // by device that waits for a slot or has one
	last  map[string]savedFile     // by device
	file  sync.Mutex               // one file at a time
}

// savedFile is what was written last.
type savedFile struct {
	sum [sha256.Size]byte
	at  time.Time
}

// evidenceEvery is how often a device's file is written: a genuine device can
// send another log each time, and each write waits for the disk. What is left
// out comes again, since a device that holds sends its log with every attempt.
const evidenceEvery = 30 * time.Second

// turn waits for a slot, of which a device has one at a time. done is to be
// called in any case.
func (s *evidenceStore) turn(device string) (done func(), err error) {
	wait := time.NewTimer(evidenceWait)
	defer wait.Stop()
	for busy := s.claim(device); busy != nil; busy = s.claim(device) {
		select {
		case <-busy:
		case <-wait.C:
			return func() {}, report.Errorf(report.KeyFleet, "this key server is busy with another event log of %s", device)
		}
	}
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots; s.free(device) }, nil
	case <-wait.C:
		return func() { s.free(device) }, report.Errorf(report.KeyFleet, "this key server is busy with the event logs of other devices")
	}
}

// claim takes a device's place; if it is taken, the result is closed once it is
// free.
func (s *evidenceStore) claim(device string) (busy <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, taken := s.busy[device]; taken {
		return c
	}
	if s.busy == nil {
		s.busy = map[string]chan struct{}{}
	}
	s.busy[device] = make(chan struct{})
	return nil
}

func (s *evidenceStore) free(device string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.busy[device])
	delete(s.busy, device)
}

func (s *evidenceStore) path(device string) string { return filepath.Join(s.dir, device+".json") }

// save replaces the device's file, unless it is about the same log and values,
// which a device that holds sends again and again, or was just written.
func (s *evidenceStore) save(e *kekproto.Evidence) (err error) {
	same := *e
	same.Time = time.Time{}
	key, err := json.Marshal(&same)
	if err != nil {
		return fmt.Errorf("keep event log: %w", err)
	}
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("keep event log: %w", err)
	}
	s.file.Lock()
	defer s.file.Unlock()
	now := savedFile{sha256.Sum256(key), time.Now()}
	if last, ok := s.last[e.Device]; ok && (last.sum == now.sum || now.at.Sub(last.at) < evidenceEvery) {
		return nil
	}
	if err := s.replace(s.path(e.Device), data); err != nil {
		return fmt.Errorf("keep event log: %w", err)
	}
	if s.last == nil {
		s.last = map[string]savedFile{}
	}
	s.last[e.Device] = now
	return nil
}

// forget removes what a device quoted with an AK that is no longer its own.
func (s *evidenceStore) forget(device string) error {
	s.file.Lock()
	defer s.file.Unlock()
	delete(s.last, device)
	if err := os.Remove(s.path(device)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the event log of an earlier enrolment: %w", err)
	}
	return nil
}

// replace writes a file so that a power cut leaves the old or the new one.
func (s *evidenceStore) replace(path string, data []byte) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	return os.Rename(fresh, path)
}

// load returns a device's evidence, or kekstore.ErrNotFound.
func (s *evidenceStore) load(device string) (*kekproto.Evidence, error) {
	data, err := os.ReadFile(s.path(device))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("event log of %s: %w", device, kekstore.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("event log of %s: %w", device, err)
	}
	e := new(kekproto.Evidence)
	if err := kekproto.Decode(data, 2*kekproto.MaxEvidence, e); err != nil {
		return nil, fmt.Errorf("event log of %s: %w", device, err)
	}
	return e, nil
}

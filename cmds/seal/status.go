package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// statusRecords is how much of the journal is shown.
const statusRecords = 20

// status prints what is done, from LANDFALL partition and disks alone.
func (s *system) status(ctx context.Context) error {
	in, err := s.readInputs()
	if err != nil {
		return err
	}
	switch {
	case in.slice != nil:
		s.logf("device %s, region %s, slice generation %d", in.slice.Device.ID, in.slice.Region, in.slice.Generation)
	case in.device() != "":
		s.logf("device %s, no slice yet", in.device())
	default:
		s.logf("no slice yet; the station at %s knows which device this is", in.station.Source.URL)
	}
	token := "used, or never there"
	if in.part.Token != nil {
		token = "unused"
	}
	s.logf("enrolment token: %s", token)
	if err := s.printJournal(in); err != nil {
		s.logf("no journal: %v", err)
	}
	if in.slice == nil {
		return nil
	}
	_, _, err = s.plan(ctx, in)
	return err
}

func (s *system) printJournal(in *inputs) (err error) {
	f, err := os.Open(in.dev.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, entries, err := snapshot.OpenJournal(f, in.dev.Size)
	if err != nil {
		return err
	}
	for _, e := range entries[max(0, len(entries)-statusRecords):] {
		s.logf("journal: %s run %d, %s: %s", e.Time.Format(time.RFC3339), e.Attempt, e.Phase, e.What)
	}
	return nil
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/landfall-project/landfall/pkg/dmi"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// device is the device's ID as far as it is known.
func (in *inputs) device() string {
	switch {
	case in.slice != nil:
		return in.slice.Device.ID
	case in.assigned != "":
		return in.assigned
	case in.station != nil:
		return in.station.Device
	}
	return ""
}

// ask has the station say who this machine is and what there is for it. Where a
// station is named, nothing goes on without its word: a plan that it handed out
// yesterday must not be replaced today by what the slice says without it.
func (s *system) ask(ctx context.Context, in *inputs, machine dmi.Machine, f *floor, write bool) error {
	r, err := s.request(in, machine)
	if err != nil {
		return err
	}
	a, err := f.assignment(ctx, r)
	if err != nil {
		return err
	}
	if known := in.device(); known != "" && known != a.Device {
		return report.Errorf(report.FactoryIdentity, "the LANDFALL partition is that of %s, the station says that this machine is %s", known, a.Device)
	}
	in.assigned = a.Device
	if a.Plan != nil {
		in.plan = a.Plan
	}
	if a.Token != nil {
		in.part.Token = bytes.Clone(a.Token)
		secret.Wipe(a.Token)
	}
	return s.takeDocuments(in, a, write)
}

// takeDocuments puts slice and policies of the station onto the partition, if
// they are newer than what lies there: from then on the machine needs no
// station to boot.
func (s *system) takeDocuments(in *inputs, a *snapshot.Assignment, write bool) error {
	next := &snapshot.Part{Slice: in.part.Slice, Policies: in.part.Policies, Station: in.part.Station, Plan: in.part.Plan}
	if a.Slice != nil {
		slice, _, err := snapshot.OpenSlice(a.Slice, in.region)
		switch {
		case errors.Is(err, signed.ErrSignature):
			return report.Errorf(report.SliceSignature, "the slice that the station has for %s: %w", a.Device, err)
		case err != nil:
			return report.Errorf(report.SliceInvalid, "the slice that the station has for %s: %w", a.Device, err)
		case slice.Device.ID != a.Device:
			return report.Errorf(report.SliceOther, "the slice that the station has for %s is that of %s", a.Device, slice.Device.ID)
		case in.slice == nil || slice.Generation > in.slice.Generation:
			next.Slice = a.Slice
		}
	}
	if len(a.Policies) > 0 {
		next.Policies = a.Policies
	}
	if next.Slice == nil || same(next, in.part) {
		return nil // before there is a slice, the station has to be asked anyway
	}
	if write {
		if err := in.writePart(next); err != nil {
			return err
		}
		s.logf("slice and PCR policies of the station are on the LANDFALL partition now: safe to power off")
	}
	next.Token = in.part.Token
	in.part = next
	return in.readSlice()
}

func same(a, b *snapshot.Part) bool {
	if !bytes.Equal(a.Slice, b.Slice) || len(a.Policies) != len(b.Policies) {
		return false
	}
	for i := range a.Policies {
		if !bytes.Equal(a.Policies[i], b.Policies[i]) {
			return false
		}
	}
	return true
}

// writePart replaces the partition's content. A token is never among it: it
// would leave a copy.
func (in *inputs) writePart(p *snapshot.Part) (err error) {
	f, err := os.OpenFile(in.dev.Path, os.O_RDWR, 0)
	if err != nil {
		return report.Errorf(report.SlicePartition, "%w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	err = snapshot.WritePart(f, in.dev.Size, p)
	var room *snapshot.NoRoomError
	switch {
	case errors.As(err, &room):
		problem := report.Errorf(report.SlicePartition, "%s: %w", in.dev.Path, err)
		problem.Do = fmt.Sprintf("make the LANDFALL partition at least %d KiB", (room.Need+1023)>>10)
		return problem
	case err != nil:
		return report.Errorf(report.FactoryDiskError, "%s: %w", in.dev.Path, err)
	}
	return nil
}

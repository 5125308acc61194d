package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/provision"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/tpm"
)

// seal encrypts the disks. The order is what keeps data from being lost: the
// KEK is durable at the fleet and the DEK safe in the TPM before a disk is
// written to; the token, which makes a volume count as sealed, is the last.
func (s *system) seal(ctx context.Context, in *inputs, o *options) error {
	if in.slice == nil {
		return report.Errorf(report.SliceMissing, "the LANDFALL partition has no slice.note")
	}
	start := time.Now()
	device := in.slice.Device.ID
	s.logf("device %s, region %s, slice generation %d", device, in.slice.Region, in.slice.Generation)
	maker, jobs, err := s.plan(ctx, in)
	if err != nil {
		return err
	}
	if o.dryRun {
		s.logf("dry run: nothing was written")
		return nil
	}
	t, err := s.startTPM()
	if err != nil {
		return err
	}
	defer t.Close()
	slots, err := s.openSlots(t, in)
	if err != nil {
		return provision.Problem(t, err)
	}
	defer slots.Close()
	client, err := s.client(in)
	if err != nil {
		return err
	}
	dev := &provision.Device{TPM: t, Fleet: client, PolicyKey: in.policy, Logf: s.logf}
	key, err := dev.SealKeys(ctx, slots, device, provision.FirstGeneration, slices.ContainsFunc(jobs, (*disk.Job).InUse))
	if err != nil {
		return fmt.Errorf("key of %s: %w", device, err)
	}
	defer key.DEK.Wipe()
	s.logf("the key is durable at the fleet, wrapped in the TPM and was read back")
	for _, job := range jobs {
		if err := maker.Make(ctx, key.DEK, job); err != nil {
			return err
		}
	}
	for _, job := range jobs {
		if err := maker.Seal(ctx, key.DEK, device, job, o.reseal); err != nil {
			return err
		}
	}
	if err := client.Sealed(ctx, provision.Quoter(t), key.Generation); err != nil {
		return fmt.Errorf("tell the fleet that %s is sealed: %w", device, err)
	}
	s.logf("%s is sealed under KEK generation %d, %.1f s: safe to power off", device, key.Generation, time.Since(start).Seconds())
	return nil
}

// plan prints what will be done to each volume, or all that stands against it.
func (s *system) plan(ctx context.Context, in *inputs) (*disk.Maker, []*disk.Job, error) {
	if err := os.MkdirAll(s.work, 0o700); err != nil {
		return nil, nil, err
	}
	maker := &disk.Maker{Tree: s.tree, Dir: s.work, Logf: s.logf}
	jobs, err := maker.Plan(ctx, in.slice.Volumes)
	if err != nil {
		return nil, nil, fmt.Errorf("nothing was written:\n%w", err)
	}
	for _, job := range jobs {
		s.logf("plan: %s", job)
	}
	done := func(j *disk.Job) bool { return j.State != disk.StateSealed }
	if !slices.ContainsFunc(jobs, done) {
		s.logf("plan: all volumes are sealed already and only checked; --reseal writes their tokens anew")
	}
	return maker, jobs, nil
}

// openSlots checks that the slice is this machine's, measures it, and prepares
// the NV slots.
func (s *system) openSlots(t *tpm.TPM, in *inputs) (*nvslot.Slots, error) {
	if err := t.CheckAK(in.slice.Device.AKName); err != nil {
		if errors.Is(err, tpm.ErrOtherTPM) {
			return nil, report.Errorf(report.SliceOther, "the slice is of %s: %w", in.slice.Device.ID, err)
		}
		return nil, err
	}
	pcrs, err := measureSlice(t, in.digest)
	if err != nil {
		return nil, err
	}
	policy, err := pcrpolicy.Select(in.policies, pcrs)
	if err != nil {
		return nil, report.Errorf(report.NVNoPolicy, "%w", err)
	}
	slots := &nvslot.Slots{TPM: t, SRKPublic: in.slice.Device.SRKPublic, PolicyKey: in.policy}
	if err := slots.Prepare(policy); err != nil {
		return nil, err
	}
	return slots, nil
}

// measureSlice extends the slice PCR once per power-on, however often seal runs.
func measureSlice(t *tpm.TPM, digest [32]byte) (map[int][]byte, error) {
	pcrs, err := t.ReadPCRs()
	if err != nil {
		return nil, err
	}
	want := measure.SliceValue(digest[:])
	switch got := pcrs[measure.SlicePCR]; {
	case bytes.Equal(got, want):
		return pcrs, nil
	case !bytes.Equal(got, make([]byte, sha256.Size)):
		return nil, report.Errorf(report.SliceOther, "another slice was measured since power-on (PCR %d is %s): power-cycle the machine",
			measure.SlicePCR, hex.EncodeToString(got))
	}
	if err := t.Extend(measure.SlicePCR, digest[:]); err != nil {
		return nil, err
	}
	return t.ReadPCRs()
}

// status prints what is done, from the disks alone.
func (s *system) status(ctx context.Context, in *inputs) error {
	switch {
	case in.slice != nil:
		s.logf("device %s, region %s, slice generation %d", in.slice.Device.ID, in.slice.Region, in.slice.Generation)
	case in.station != nil:
		s.logf("device %s, no slice yet", in.station.Device)
	}
	token := "used, or never there"
	if in.part.Token != nil {
		token = "unused"
	}
	s.logf("enrolment token: %s", token)
	if in.slice == nil {
		return nil
	}
	_, _, err := s.plan(ctx, in)
	return err
}

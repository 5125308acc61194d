package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/diskimage"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/provision"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm"
)

// seal encrypts the disks. The order is what keeps data from being lost: the
// KEK is durable at the fleet and the DEK safe in the TPM before a disk is
// written to; the token, which makes a volume count as sealed, is the last.
func (s *system) seal(ctx context.Context, in *inputs, o *options, tr *track) error {
	switch {
	case in.slice == nil && in.part.Token != nil:
		return notEnrolled()
	case in.slice == nil:
		tr.phase(ctx, report.PhaseSlice, "has no slice yet")
		return noSlice(in)
	}
	tr.at(report.PhaseKeys)
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
	tr.plan(jobs)
	maker.Progress = tr.progress
	k, err := s.openKeys(ctx, in, tr, jobs)
	if err != nil {
		return err
	}
	defer k.close()
	if err := s.recoveryKey(ctx, k, tr, maker, jobs); err != nil {
		return err
	}
	defer maker.Recovery.Wipe()
	sealedNow := slices.ContainsFunc(jobs, func(j *disk.Job) bool { return j.State != disk.StateSealed })
	if err := s.makeDisks(ctx, k, tr, maker, jobs, o.reseal); err != nil {
		return err
	}
	if err := k.client.Sealed(ctx, provision.Quoter(k.tpm), k.key.Generation); err != nil {
		return fmt.Errorf("tell the fleet that %s is sealed: %w", device, err)
	}
	s.logf("%s is sealed under KEK generation %d, %.1f s: safe to power off", device, k.key.Generation, time.Since(start).Seconds())
	tr.phase(ctx, report.PhaseSealed, "sealed under KEK generation %d", k.key.Generation)
	return s.acceptance(ctx, tr, sealedNow)
}

// notEnrolled says what comes before sealing.
func notEnrolled() error {
	p := report.Errorf(report.SliceMissing, "this machine has not enrolled: its token is unused, and it has no slice")
	p.Do = "run `seal provision`"
	return p
}

// noSlice says where the slice would come from.
func noSlice(in *inputs) error {
	p := report.Errorf(report.SliceMissing, "the LANDFALL partition has no slice.note")
	if in.station != nil && in.station.Source != nil {
		p = report.Errorf(report.SliceMissing, "the station at %s has no slice for %s yet", in.station.Source.URL, in.device())
		p.Do = "have the slice signed, and `station add DIR " + in.device() + " --slice FILE`; seal goes on by itself"
	}
	return p
}

// acceptance ends a run: it passes when the server image has opened all volumes
// since they were sealed, and told the fleet.
func (s *system) acceptance(ctx context.Context, tr *track, sealedNow bool) error {
	if tr.isAccepted() {
		tr.phase(ctx, report.PhaseAccepted, "the server image has opened all volumes")
		s.logf("accepted by the fleet: the server image has opened all volumes. Safe to ship")
		return nil
	}
	if err := s.leave(tr, sealedNow); err != nil {
		return err
	}
	return report.Errorf(report.FactoryAcceptance, "all volumes are sealed; the fleet has not heard from the server image that it opened them")
}

// keys is what sealing needs beside the disks.
type keys struct {
	tpm    *tpm.TPM
	client *kekclient.Client
	slots  *nvslot.Slots
	key    *provision.Key
}

func (k *keys) close() {
	k.key.DEK.Wipe()
	k.slots.Close()
}

// openKeys makes the key of the device safe, or gets it back.
func (s *system) openKeys(ctx context.Context, in *inputs, tr *track, jobs []*disk.Job) (*keys, error) {
	x, err := s.startTPM()
	if err != nil {
		return nil, err
	}
	tr.tpm = x
	slots, err := s.openSlots(x, in, tr)
	if err != nil {
		return nil, provision.Problem(x, err)
	}
	client, err := s.client(in)
	if err != nil {
		slots.Close()
		return nil, err
	}
	tr.fleet = progress(client, x)
	tr.phase(ctx, report.PhaseKeys, "makes the KEK durable and wraps the DEK")
	dev := &provision.Device{TPM: x, Fleet: client, PolicyKey: in.policy, Logf: s.logf}
	key, err := dev.SealKeys(ctx, slots, in.slice.Device.ID, provision.FirstGeneration, slices.ContainsFunc(jobs, (*disk.Job).InUse))
	if err != nil {
		slots.Close()
		return nil, fmt.Errorf("key of %s: %w", in.slice.Device.ID, err)
	}
	s.logf("the key is durable at the fleet, wrapped in the TPM and was read back")
	return &keys{x, client, slots, key}, nil
}

// recoveryKey has the fleet keep a recovery key, before it is in any volume.
func (s *system) recoveryKey(ctx context.Context, k *keys, tr *track, maker *disk.Maker, jobs []*disk.Job) error {
	if !slices.ContainsFunc(jobs, func(j *disk.Job) bool { return j.Spec.Factory.Recovers() }) {
		s.logf("recovery: the plan wants no recovery key. Without this TPM, nothing opens these disks")
		return nil
	}
	tr.phase(ctx, report.PhaseRecovery, "has the recovery key kept by the fleet")
	var err error
	if maker.Recovery, err = k.client.Recovery(ctx, provision.Quoter(k.tpm)); err != nil {
		return report.Errorf(report.FactoryRecovery, "the fleet keeps no recovery key: %w", err)
	}
	s.logf("recovery: the fleet keeps a recovery key for this device")
	return nil
}

// makeDisks brings all volumes to their end, the tokens last.
func (s *system) makeDisks(ctx context.Context, k *keys, tr *track, maker *disk.Maker, jobs []*disk.Job, again bool) error {
	if err := begin(ctx, tr, jobs, again); err != nil {
		return err
	}
	return tr.while(ctx, func() error {
		for _, job := range jobs {
			before := job.State
			if before != disk.StateSealed {
				tr.note("%s", job)
			}
			if err := maker.Make(ctx, k.key.DEK, job); err != nil {
				return err
			}
			tr.state(job)
			if job.State != before {
				tr.note("volume %s is encrypted", job.Spec.Name)
			}
		}
		for _, job := range jobs {
			if err := maker.Seal(ctx, k.key.DEK, k.client.Device, job, again); err != nil {
				return err
			}
			tr.state(job)
			tr.note("volume %s is sealed and checked", job.Spec.Name)
		}
		return nil
	})
}

// begin tells everybody that volumes are made. Where that is so, the fleet must
// have heard it before the first write: it takes back that the device was
// accepted, by what it opened until now.
func begin(ctx context.Context, tr *track, jobs []*disk.Job, again bool) error {
	tr.at(report.PhaseDisks)
	tr.note("the key is safe; %s", disksLeft(jobs))
	made := again
	for _, j := range jobs {
		made = made || j.State != disk.StateSealed
	}
	if again {
		tr.volumesAgain()
	}
	if err := tr.post(ctx); err != nil && made {
		return fmt.Errorf("tell the fleet that volumes are made: %w", err)
	}
	return nil
}

// disksLeft counts what is still to be made.
func disksLeft(jobs []*disk.Job) string {
	n := 0
	for _, j := range jobs {
		if j.State != disk.StateSealed {
			n++
		}
	}
	return fmt.Sprintf("%d of %s to make", n, printable.Count(len(jobs), "volume"))
}

// plan prints what will be done to each volume, or all that stands against it.
func (s *system) plan(ctx context.Context, in *inputs) (*disk.Maker, []*disk.Job, error) {
	if err := os.MkdirAll(s.work, 0o700); err != nil {
		return nil, nil, err
	}
	volumes := in.slice.Volumes
	if in.plan != nil {
		var err error
		if volumes, err = in.plan.Apply(in.slice); err != nil {
			return nil, nil, report.Errorf(report.FactoryPlan, "%w", err)
		}
	}
	maker := &disk.Maker{Tree: s.tree, Dir: s.work, Logf: s.logf}
	if in.station != nil && in.station.Source != nil {
		client, err := diskimage.PinnedClient(in.station.Source.CA, s.dial)
		if err != nil {
			return nil, nil, report.Errorf(report.FactoryStation, "%w", err)
		}
		maker.Images = &images{in.station.Source.URL, &diskimage.Fetcher{HTTP: client, Logf: s.logf}}
	}
	jobs, err := maker.Plan(ctx, volumes)
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

// images brings disk images from the station.
type images struct {
	station string
	fetcher *diskimage.Fetcher
}

// Open implements disk.Images.
func (i *images) Open(ctx context.Context, image *snapshot.VolumeImage) (io.ReadCloser, int64, error) {
	source, err := diskimage.Planned(image, i.station)
	if err != nil {
		return nil, 0, report.Errorf(report.FactoryPlan, "%w", err)
	}
	im, err := i.fetcher.Open(ctx, source)
	if err != nil {
		return nil, 0, err
	}
	return im, im.Size, nil
}

// openSlots checks that the slice is this machine's, measures it, and prepares
// the NV slots.
func (s *system) openSlots(t *tpm.TPM, in *inputs, tr *track) (*nvslot.Slots, error) {
	if err := t.CheckAK(in.slice.Device.AKName); err != nil {
		if errors.Is(err, tpm.ErrOtherTPM) {
			p := report.Errorf(report.SliceOther, "the slice is of %s: %w", in.slice.Device.ID, err)
			p.Do = "with another TPM or board: `kekctl device add --again`, and the LANDFALL partition written anew, without its slice; else put the boot volume back into its own machine"
			return nil, p
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
	tr.image(policy.Image)
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

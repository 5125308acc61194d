package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// State is how far a volume is on its way.
type State string

// The states of a volume in the factory.
const (
	StateToDo       State = "to do"             // nothing was written yet
	StateInProgress State = "being encrypted"   // a cut-off encryption, to be resumed
	StateTorn       State = "cut off early"     // cut off while the header was written; undone, then begun again
	StateEncrypted  State = "without its token" // encrypted, the MAC is missing
	StateSealed     State = "sealed"            // it has its token; only the DEK can tell whether a true one
)

// RefusedError says why a volume cannot be made. Nothing was written.
type RefusedError struct {
	Volume string
	Device string // path, or what the slice calls it
	Why    string
	Do     string
	// Part says that only another disk helps; what is left, a person or a plan mends.
	Part bool
}

// Error implements error.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("volume %s on %s: %s; %s", e.Volume, e.Device, e.Why, e.Do)
}

// refuser refuses a volume on a device.
type refuser func(why, do string) *RefusedError

func refusal(v snapshot.Volume, dev *Device) refuser {
	return func(why, do string) *RefusedError {
		return &RefusedError{Volume: v.Name, Device: dev.Path, Why: why, Do: do}
	}
}

// part refuses the disk itself.
func (r refuser) part(why, do string) *RefusedError {
	e := r(why, do)
	e.Part = true
	return e
}

// NeedsPart says whether any refusal in err is one that only another disk mends.
func NeedsPart(err error) bool {
	if e, ok := err.(*RefusedError); ok && e.Part {
		return true
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return NeedsPart(e.Unwrap())
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), NeedsPart)
	}
	return false
}

// Job is one volume to be made.
type Job struct {
	Spec    snapshot.Volume
	Device  Device
	State   State
	Content Content
	Shrink  int64 // bytes to take off the filesystem first; 0: its tail is free

	halfShrunk bool // a shrink of ours was cut off: to be repaired
}

// InUse says whether data on the device is encrypted under a DEK already, so
// that losing that DEK would lose data.
func (j *Job) InUse() bool { return j.State != StateToDo && j.State != StateTorn }

// String tells an operator what will be done.
func (j *Job) String() string {
	what := ""
	switch {
	case j.State == StateSealed:
		what = "sealed already: checked only"
	case j.State == StateInProgress:
		what = "encryption in place goes on where it was cut off"
	case j.State == StateEncrypted:
		what = "encrypted already, data kept: gets its token, if this device's key opens it"
	case j.Spec.Factory.Way == snapshot.WayInPlace:
		what = fmt.Sprintf("%s encrypted in place, data kept", j.Content)
		if j.Shrink > 0 {
			what = fmt.Sprintf("%s shrunk by %s, then encrypted in place, data kept; shrinking is the one step that a power cut may harm: have a copy of the data", j.Content, size(j.Shrink))
		}
		if j.halfShrunk {
			what = fmt.Sprintf("%s whose shrinking was cut off: repaired, then encrypted in place, data kept", j.Content)
		}
	case j.Spec.Factory.Way == snapshot.WayImage:
		what = "formatted, and " + j.Spec.Factory.Image.URL + " written to it, encrypted on its way"
	default:
		what = "formatted"
		if fs := j.Spec.Factory.Filesystem; fs != "" {
			what += " with a fresh " + fs
		}
	}
	return fmt.Sprintf("volume %-8s %s (%s): %s", j.Spec.Name, j.Device.Path, size(j.Device.Size), what)
}

// size prints bytes for people.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	default:
		return fmt.Sprintf("%d MiB", n>>20)
	}
}

// Maker makes volumes in the factory.
type Maker struct {
	Tree Tree
	Dir  string // empty folder in memory, for cryptsetup
	// Images brings the disk images of way "image".
	Images Images
	// Recovery is the recovery key of the device (keyblob.RecoverySize bytes) for
	// keyslot 1 of every volume whose plan wants one. It is the caller's.
	Recovery *secret.Bytes
	// Logf is told what happens; lines say when it is safe to power off.
	Logf func(format string, args ...any)
	// Progress is told how far a volume is: bytes done of total, bytes per second.
	// It is called a few times per second at most, and may be nil.
	Progress func(volume string, done, total, rate int64)
}

func (m *Maker) logf(format string, args ...any) {
	if m.Logf != nil {
		m.Logf(format, args...)
	}
}

func (m *Maker) tools() *tools { return &tools{dir: m.Dir} }

// Plan finds the device of each volume that the slice has the factory make,
// and everything that speaks against making it: a *report.Problem with the code
// FactoryDisk and all reasons at once, each a *RefusedError. It writes nothing.
func (m *Maker) Plan(ctx context.Context, volumes []snapshot.Volume) ([]*Job, error) {
	devs, err := m.Tree.Scan()
	if err != nil {
		return nil, err
	}
	var jobs []*Job
	var errs []error
	taken := map[string]string{}
	for _, v := range volumes {
		if v.Factory == nil {
			continue
		}
		job, err := m.plan(ctx, devs, v)
		if err == nil && taken[job.Device.Name] != "" {
			err = &RefusedError{Volume: v.Name, Device: job.Device.Path, Why: "volume " + taken[job.Device.Name] + " lies there too", Do: "correct the slice"}
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		taken[job.Device.Name] = v.Name
		jobs = append(jobs, job)
	}
	return jobs, refusals(errs)
}

func (m *Maker) plan(ctx context.Context, devs []Device, v snapshot.Volume) (*Job, error) {
	dev, err := locate(devs, v)
	if err != nil {
		return nil, err
	}
	refuse := refusal(v, dev)
	switch {
	case dev.ReadOnly:
		return nil, refuse.part("the disk is read-only", "remove its write protection, or replace it")
	case len(dev.Holders) > 0:
		return nil, refuse("it is in use by "+strings.Join(dev.Holders, ", "), "stop that mapping or array first")
	case dev.Partition == 0 && hasPartitions(devs, dev.Name):
		return nil, refuse("the disk has partitions, the slice means all of it", "name the partition in the slice, or wipe the disk")
	}
	file, err := os.OpenFile(dev.Path, os.O_RDONLY|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, refuse("it is in use: mounted, or part of an array", "unmount it first")
	}
	if err != nil {
		return nil, refuse.part(err.Error(), "replace the disk if this comes back")
	}
	defer file.Close()
	job := &Job{Spec: v, Device: *dev}
	if job.Content, err = probe(file, dev.Size); err != nil {
		return nil, refuse.part(err.Error(), "replace the disk")
	}
	if err := m.examine(ctx, job, file); err != nil {
		return nil, err
	}
	return job, nil
}

// examine finds out the job's state.
func (m *Maker) examine(ctx context.Context, job *Job, file *os.File) error {
	refuse := refusal(job.Spec, &job.Device)
	meta, uuid, luks, err := m.tools().dump(ctx, job.Device.Path)
	switch {
	case err != nil:
		return refuse(err.Error(), "look at the header with cryptsetup luksDump")
	case luks && uuid != job.Spec.UUID:
		return refuse("it holds LUKS volume "+uuid+", not this one", "wrong disk; or wipe it (cryptsetup erase, wipefs) if its data may go")
	case luks && meta.inProgress() && job.fresh():
		return refuse("it is being encrypted in place, the plan says "+job.Spec.Factory.Way, "correct the slice, or wipe the disk")
	case luks && meta.inProgress() && meta.costly() != "":
		return refuse("its encryption was begun, and keyslot "+meta.costly()+" is none that it begins with: somebody changed the header",
			"remove that keyslot (cryptsetup luksKillSlot) if you know whose it is, or wipe the disk if its data may go")
	case luks && meta.inProgress():
		job.State = StateInProgress
		return nil
	case luks && isSealed(job.Device):
		job.State = StateSealed
		return nil
	case luks && !job.fresh() && unfinished(job.Device, meta):
		return refuse("it is being made anew, the plan says "+job.Spec.Factory.Way, "correct the plan, or wipe the disk")
	case luks && (!job.fresh() || !unfinished(job.Device, meta)):
		job.State = StateEncrypted
		return nil
	}
	job.State = StateToDo
	if why, do := job.uneven(); why != "" {
		return refuse(why, do)
	}
	if job.fresh() {
		return examineFresh(job, file, luks, refuse)
	}
	return examineInPlace(job, file, refuse)
}

// examineFresh looks for what formatting would destroy, and for a disk that the
// volume does not fit on.
func examineFresh(job *Job, file *os.File, luks bool, refuse refuser) error {
	ours, err := wasBlank(file, job.Device, job.Spec.UUID)
	if err != nil {
		return refuse.part(err.Error(), "replace the disk")
	}
	// The mark is of a cut-off format, which leaves random bytes and half a header
	// at most: with a filesystem there, somebody used the disk since.
	ours = ours && (job.Content == ContentUnknown || job.Content == ContentLUKS2)
	if !luks && !ours && job.Content != ContentBlank {
		return refuse("it holds "+string(job.Content)+", which formatting would destroy", "if its data may go: wipefs --all, then dd if=/dev/zero bs=1M count=1 of="+job.Device.Path)
	}
	room := job.Device.Size - headerSize
	if room < leastVolume {
		return refuse.part(size(job.Device.Size)+" is too small for a volume", "use a larger disk or partition")
	}
	if image := job.Spec.Factory.Image; image != nil && image.Format == "raw" && image.Bytes > room {
		return refuse(fmt.Sprintf("the image %s has %d bytes, the volume has room for %d", image.URL, image.Bytes, room), "use a larger disk, or a smaller image")
	}
	return nil
}

func hasPartitions(devs []Device, disk string) bool {
	return slices.ContainsFunc(devs, func(d Device) bool { return d.Disk == disk && d.Partition > 0 })
}

// locate finds the block device that a slice means: a kernel name, a disk's
// serial number, or pci-ADDRESS for the only disk behind a PCI function.
func locate(devs []Device, v snapshot.Volume) (*Device, error) {
	f := v.Factory
	name := f.Disk
	if f.Partition > 0 {
		name = fmt.Sprintf("%s partition %d", f.Disk, f.Partition)
	}
	var found []Device
	for _, d := range devs {
		if d.Partition == f.Partition && (d.Disk == f.Disk || d.Serial == f.Disk || slices.ContainsFunc(d.PCI, func(a string) bool { return "pci-"+a == f.Disk })) {
			found = append(found, d)
		}
	}
	found = slices.CompactFunc(found, samePlace)
	switch {
	case len(found) == 0:
		return nil, &RefusedError{Volume: v.Name, Device: name, Why: "no such disk; there are " + names(devs), Do: "seat the disk, or correct the slice"}
	case len(found) > 1:
		return nil, &RefusedError{Volume: v.Name, Device: name, Why: "several disks answer to it: " + names(found), Do: "name it by its serial number"}
	}
	return &found[0], nil
}

func names(devs []Device) string {
	var out []string
	for _, d := range devs {
		s := d.Name
		if d.Serial != "" && d.Partition == 0 {
			s += " (serial " + d.Serial + ")"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

// fresh says whether the volume is made anew, so that nothing may be on the disk.
func (j *Job) fresh() bool { return j.Spec.Factory.Way != snapshot.WayInPlace }

// Make brings a volume to StateEncrypted. It may be cut off at any moment, by
// any cause, and run again after a fresh Plan, with the same DEK. Its errors are
// *report.Problem, or the context's.
func (m *Maker) Make(ctx context.Context, dek *secret.Bytes, job *Job) error {
	var err error
	switch {
	case job.State == StateSealed:
	case job.fresh() && job.State == StateEncrypted: // it may hold data: only its token is missing
	case job.fresh():
		err = m.format(ctx, dek, job)
	default:
		err = m.inPlace(ctx, dek, job)
	}
	return problem(job, report.FactoryTool, err)
}

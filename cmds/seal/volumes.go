package main

import (
	"time"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/report"
)

// plan tells what there is to do.
func (t *track) plan(jobs []*disk.Job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun = map[string]time.Time{}
	for _, j := range jobs {
		t.f.Volumes = append(t.f.Volumes, report.FactoryVolume{
			Name: j.Spec.Name, Disk: clip(j.Device.Name), Way: j.Spec.Factory.Way, State: string(j.State), Bytes: j.Device.Size,
		})
	}
}

// volumesAgain says of all volumes that their tokens are to be written.
func (t *track) volumesAgain() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.f.Volumes {
		t.f.Volumes[i].State = string(disk.StateEncrypted)
	}
}

// state tells how far a volume is.
func (t *track) state(j *disk.Job) {
	t.volume(j.Spec.Name, func(v *report.FactoryVolume) {
		v.State = string(j.State)
		if j.State == disk.StateSealed || j.State == disk.StateEncrypted {
			v.Done, v.Rate = v.Bytes, 0
		}
	})
}

// progress tells how much of a volume is done; disk.Maker calls it.
func (t *track) progress(volume string, done, total, rate int64) {
	now := time.Now()
	t.volume(volume, func(v *report.FactoryVolume) {
		if t.begun[volume].IsZero() {
			t.begun[volume] = now
		}
		v.State = string(disk.StateInProgress)
		v.Bytes, v.Done, v.Rate = max(total, done, 0), max(done, 0), max(rate, 0)
		v.Seconds = now.Sub(t.begun[volume]).Seconds()
	})
}

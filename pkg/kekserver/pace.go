package kekserver

import "time"

// pace bounds what a genuine device can cost in writes that wait for the disk:
// some at once, then one for each pause. Its zero value has had none yet.
type pace struct{ free time.Time }

// The paces of what a device posts without getting anything for it.
const (
	progressPause, progressBurst = 30 * time.Second, 16 // all phases of two runs
	capturePause, captureBurst   = 30 * time.Second, 8
	reportPause, reportBurst     = 30 * time.Second, 8 // a machine takes longer to boot
)

// take says whether one more fits, and takes it. at has a monotonic reading, so
// that setting the clock changes nothing.
func (p *pace) take(at time.Time, pause time.Duration, burst int) bool {
	if p.free.Before(at) {
		p.free = at
	}
	if p.free.Sub(at) > time.Duration(burst-1)*pause {
		return false
	}
	p.free = p.free.Add(pause)
	return true
}

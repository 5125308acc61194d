// Package sightings is what a member of the fleet has seen and heard of its
// devices: for people, and to bound what goes into the audit log. Nothing that is
// Released is decided by it. It lives in memory and is rebuilt from the audit log
// at start, so that a release writes no store.
package sightings

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
)

// OpEnroll names enrolment in refusals, audit log and metrics.
const OpEnroll = kekproto.Op("enroll")

// refusalPause is how long a refusal of one device for one operation and reason
// is not recorded again: a region that holds asks every few seconds, by the
// thousands.
const refusalPause = time.Hour

// Sightings are all that was seen. They are safe for concurrent use.
type Sightings struct {
	mu        sync.Mutex
	devices   map[string]*sighting
	strangers int
}

type sighting struct {
	seen     *kekproto.Seen
	refusal  *kekproto.RefusalInfo
	recorded map[reason]time.Time // when such a refusal was last put into the audit log
	unproved *kekproto.RefusalInfo
	report   string
	links    *kekproto.LinksInfo // replaced, never changed
	progress *heardProgress
	event    audit.Event // the last step of its record
	changed  *time.Time

	progressPace, capturePace, reportPace pace
}

// reason is what refusals are told apart by.
type reason struct {
	op   kekproto.Op
	code string // of evidence and links: what is wrong
}

// New has seen nothing.
func New() *Sightings { return &Sightings{devices: map[string]*sighting{}} }

func (s *Sightings) of(id string) *sighting {
	d, ok := s.devices[id]
	if !ok {
		d = new(sighting)
		s.devices[id] = d
	}
	return d
}

// Replay takes one line of the audit log at start.
func (s *Sightings) Replay(r audit.Record) error {
	s.stepped(&r, r.Time)
	s.mended(&r)
	switch r.Event {
	case audit.EventProgress:
		s.replayProgress(r)
	case audit.EventRelease:
		if l, ok := parseLinkCount(r.Device, r.Links, "", r.Time); ok {
			s.remember(l)
		}
		s.Released(r.Device, &kekproto.Seen{Time: r.Time, Image: r.Image, ResetCount: r.Reset, Firmware: r.Firmware})
	case audit.EventLinks:
		if l, ok := parseLinkCount(r.Device, r.Links, r.Detail, r.Time); ok {
			s.remember(l)
		}
	case audit.EventRefuse:
		s.Refused(r.Device, kekproto.Op(r.Op), kekproto.Refusal{Code: r.Code, Message: r.Detail}, r.Time)
	case audit.EventEvidence:
		var differences []string
		if r.Detail != "" {
			differences = strings.Split(r.Detail, "; ")
		}
		s.Explained(r.Device, differences, r.Time)
	case audit.EventReport:
		s.Reported(r.Device, r.Detail, r.Time)
	case audit.EventDeviceRemoved:
		s.remove(r.Device)
	case audit.EventRegion:
		s.forget()
	}
	return nil
}

// Recorded takes a line that is durable now.
func (s *Sightings) Recorded(r *audit.Record, at time.Time) {
	s.stepped(r, at)
	s.mended(r)
	switch r.Event {
	case audit.EventDeviceRemoved:
		s.remove(r.Device)
	case audit.EventRegion:
		s.forget()
	}
}

// stepped notes when a device's record last took another step than before.
func (s *Sightings) stepped(r *audit.Record, at time.Time) {
	switch r.Event {
	case audit.EventDeviceAdded, audit.EventEnrol, audit.EventDeviceApproved, audit.EventSlice, audit.EventSealed, audit.EventAccepted:
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.of(r.Device)
	if d.event != r.Event {
		d.event, d.changed = r.Event, new(at.UTC())
	}
	if r.Event == audit.EventAccepted {
		d.progress = nil // what seal said is over
	}
}

// Released keeps a release, after which nothing is left of what was refused before.
func (s *Sightings) Released(id string, now *kekproto.Seen) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.of(id)
	d.seen = now
	d.refusal, d.recorded, d.report = nil, nil, ""
}

// Refused keeps a refusal of a device that showed who it is, and says whether it should go into the audit log.
func (s *Sightings) Refused(id string, op kekproto.Op, r kekproto.Refusal, at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.of(id)
	old := d.refusal
	d.refusal = &kekproto.RefusalInfo{Refusal: r, Op: op, Time: at, Count: 1}
	if old != nil {
		d.refusal.Count += old.Count
		if old.Op == op && old.Refusal == r {
			d.refusal.Differences = old.Differences // until the next evidence comes
		}
	}
	return d.record(reason{op, r.Code}, at)
}

// record says whether something that a device repeats should be recorded again.
func (d *sighting) record(why reason, at time.Time) bool {
	maps.DeleteFunc(d.recorded, func(_ reason, last time.Time) bool { return at.Sub(last).Abs() >= refusalPause })
	if _, ok := d.recorded[why]; ok {
		return false
	}
	if d.recorded == nil {
		d.recorded = map[reason]time.Time{}
	}
	d.recorded[why] = at
	return true
}

// maxExplained is how many different accounts of itself, of a kind, a device gets
// into the audit log within refusalPause.
const maxExplained = 8

// Explained adds to the last refusal how the image differs, and says whether it
// should go into the audit log.
func (s *Sightings) Explained(id string, differences []string, at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.of(id)
	if d.refusal != nil {
		now := *d.refusal // the old one may be under way to an operator
		now.Differences = differences
		d.refusal = &now
	}
	return d.few(kekproto.OpEvidence, strings.Join(differences, "; "), at)
}

// few says whether what a device says should be recorded: it is new, and the
// device has not said too many different things of that kind.
func (d *sighting) few(op kekproto.Op, text string, at time.Time) bool {
	n := 0
	for r, last := range d.recorded {
		if r.op == op && at.Sub(last).Abs() < refusalPause {
			n++
		}
	}
	return n < maxExplained && d.record(reason{op, text}, at)
}

// Once says whether something that a device repeats should be recorded now.
func (s *Sightings) Once(id string, op kekproto.Op, what string, at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(id).record(reason{op, what}, at)
}

// Impostor keeps a request that named a device without a quote by its AK. It
// stands beside the device's own refusal: anybody can send one.
func (s *Sightings) Impostor(id string, op kekproto.Op, r kekproto.Refusal, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, count := s.of(id), 1
	if d.unproved != nil {
		count += d.unproved.Count
	}
	d.unproved = &kekproto.RefusalInfo{Refusal: r, Op: op, Time: at, Count: count}
}

// Reported keeps a device's last boot report, and says whether there is room for
// it in the audit log.
func (s *Sightings) Reported(id, text string, at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.of(id)
	d.report = text
	return d.reportPace.take(at, reportPause, reportBurst)
}

// Stranger counts a request that no device is known to have sent.
func (s *Sightings) Stranger() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strangers++
}

// forget drops who was released and refused when the region changes its state.
func (s *Sightings) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		d.seen, d.refusal, d.recorded, d.unproved, d.report, d.links, d.progress = nil, nil, nil, nil, "", nil, nil
	}
}

// remove drops all that was seen of a device.
func (s *Sightings) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.devices, id)
}

// Renew drops what a device said with an AK that is no longer its own.
func (s *Sightings) Renew(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.of(id)
	*d = sighting{seen: d.seen, progressPace: d.progressPace, capturePace: d.capturePace, reportPace: d.reportPace}
}

// Put fills in what was seen of a device.
func (s *Sightings) Put(info *kekproto.DeviceInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devices[info.Device]
	if !ok {
		return
	}
	if d.seen != nil {
		info.Seen = d.seen
	}
	info.Changed = d.changed
	if d.progress != nil {
		info.Progress = d.progress.ProgressInfo
	}
	info.Refuse, info.Unproved, info.Report, info.Links = d.refusal, d.unproved, d.report, d.links
}

// Summary counts devices released to, and lists the refused and those that
// somebody named without proof, newest first.
func (s *Sightings) Summary() (released, strangers int, refused, unproved []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		if d.seen != nil {
			released++
		}
	}
	refused = s.newest(func(d *sighting) *kekproto.RefusalInfo { return d.refusal })
	unproved = s.newest(func(d *sighting) *kekproto.RefusalInfo { return d.unproved })
	return released, s.strangers, refused, unproved
}

// newest lists the devices that have a refusal of a kind, newest first.
func (s *Sightings) newest(of func(*sighting) *kekproto.RefusalInfo) []string {
	ids := slices.DeleteFunc(slices.Collect(maps.Keys(s.devices)), func(id string) bool { return of(s.devices[id]) == nil })
	slices.SortFunc(ids, func(a, b string) int { return of(s.devices[b]).Time.Compare(of(s.devices[a]).Time) })
	return ids
}

// MayCapture says whether a device may have another capture written now.
func (s *Sightings) MayCapture(id string, at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(id).capturePace.take(at, CapturePause, captureBurst)
}

// pace bounds what a genuine device can cost in writes that wait for the disk:
// some at once, then one for each pause. Its zero value has had none yet.
type pace struct{ free time.Time }

// The paces of what a device posts without getting anything for it.
const (
	progressPause, progressBurst = 30 * time.Second, 16 // all phases of two runs
	CapturePause, captureBurst   = 30 * time.Second, 8
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

package kekserver

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// refusalPause is how long a refusal of one device for one operation and reason
// is not recorded again: a region that holds asks every few seconds, by the
// thousands.
const refusalPause = time.Hour

// sightings is what this member has seen of the devices. It lives in memory and
// is rebuilt from the audit log at start, so that a release writes no store.
type sightings struct {
	mu        sync.Mutex
	devices   map[string]*sighting
	strangers int
}

type sighting struct {
	seen     *kekproto.Seen
	refusal  *kekproto.RefusalInfo
	recorded map[reason]time.Time // when such a refusal was last put into the audit log
	unproved *kekproto.RefusalInfo
	drift    *kekproto.Drift
	held     *kekproto.Drift // for which the last release was refused
	report   string
	links    *kekproto.LinksInfo // replaced, never changed
	progress *heardProgress
	event    string // the last step of its record, as the audit log calls it
	changed  *time.Time

	progressPace, capturePace, reportPace pace
}

// reason is what refusals are told apart by.
type reason struct {
	op   kekproto.Op
	code string // of evidence and links: what is wrong
}

func newSightings() *sightings { return &sightings{devices: map[string]*sighting{}} }

func (s *sightings) of(id string) *sighting {
	d, ok := s.devices[id]
	if !ok {
		d = new(sighting)
		s.devices[id] = d
	}
	return d
}

// replay takes one line of the audit log at start.
func (s *sightings) replay(r audit.Record) error {
	s.stepped(&r, r.Time)
	s.mended(&r)
	switch r.Event {
	case "progress":
		s.replayProgress(r)
	case "release":
		if l, ok := parseLinkCount(r.Device, r.Links, "", r.Time); ok {
			s.remember(l)
		}
		s.released(r.Device, &kekproto.Seen{Time: r.Time, Image: r.Image, ResetCount: r.Reset, Firmware: r.Firmware})
	case "links":
		if l, ok := parseLinkCount(r.Device, r.Links, r.Detail, r.Time); ok {
			s.remember(l)
		}
	case "refuse":
		s.refused(r.Device, kekproto.Op(r.Op), kekproto.Refusal{Code: r.Code, Message: r.Detail}, r.Time)
	case "evidence":
		var differences []string
		if r.Detail != "" {
			differences = strings.Split(r.Detail, "; ")
		}
		s.explained(r.Device, differences, r.Time)
	case "report":
		s.reported(r.Device, r.Detail, r.Time)
	case "device-removed":
		s.remove(r.Device)
	case "region":
		s.forget()
	}
	return nil
}

// recorded takes a line that is durable now.
func (s *sightings) recorded(r *audit.Record, at time.Time) {
	s.stepped(r, at)
	s.mended(r)
	switch r.Event {
	case "device-removed":
		s.remove(r.Device)
	case "region":
		s.forget()
	}
}

// stepped notes when a device's record last took another step than before.
func (s *sightings) stepped(r *audit.Record, at time.Time) {
	switch r.Event {
	case "device-added", "enrol", "device-approved", "slice", "sealed", "accepted":
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.of(r.Device)
	if d.event != r.Event {
		d.event, d.changed = r.Event, new(at.UTC())
	}
	if r.Event == "accepted" {
		d.progress = nil // what seal said is over
	}
}

func (s *sightings) released(id string, now *kekproto.Seen) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.of(id)
	if d.seen != nil {
		if pcrs := changedPCRs(d.seen.Firmware, now.Firmware); pcrs != "" {
			d.drift = &kekproto.Drift{Time: now.Time, PCRs: pcrs, From: d.seen.Firmware, To: now.Firmware}
		}
	}
	d.seen, d.held = now, nil
	d.refusal, d.recorded, d.report = nil, nil, ""
}

// refused keeps a refusal of a device that showed who it is, and says whether it should go into the audit log.
func (s *sightings) refused(id string, op kekproto.Op, r kekproto.Refusal, at time.Time) bool {
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

// explained adds to the last refusal how the image differs, and says whether it
// should go into the audit log.
func (s *sightings) explained(id string, differences []string, at time.Time) bool {
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

// once says whether something that a device repeats should be recorded now.
func (s *sightings) once(id string, why reason, at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(id).record(why, at)
}

// impostor keeps a request that named a device without a quote by its AK. It
// stands beside the device's own refusal: anybody can send one.
func (s *sightings) impostor(id string, op kekproto.Op, r kekproto.Refusal, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, count := s.of(id), 1
	if d.unproved != nil {
		count += d.unproved.Count
	}
	d.unproved = &kekproto.RefusalInfo{Refusal: r, Op: op, Time: at, Count: count}
}

// reported keeps a device's last boot report, and says whether there is room for
// it in the audit log.
func (s *sightings) reported(id, text string, at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.of(id)
	d.report = text
	return d.reportPace.take(at, reportPause, reportBurst)
}

func (s *sightings) stranger() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strangers++
}

// forget drops who was released and refused when the region changes its state;
// the TPM's history stays.
func (s *sightings) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		d.refusal, d.recorded, d.unproved, d.report, d.links, d.progress = nil, nil, nil, "", nil, nil
		if d.seen != nil {
			d.seen = &kekproto.Seen{ResetCount: d.seen.ResetCount, Firmware: d.seen.Firmware}
		}
	}
}

// renew drops what a device said with an AK that is no longer its own; the TPM's
// history stays.
func (s *sightings) renew(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.of(id)
	*d = sighting{seen: d.seen, drift: d.drift, held: d.held, progressPace: d.progressPace, capturePace: d.capturePace, reportPace: d.reportPace}
}

// reset compares a TPM's resetCount with the last release. It only falls when
// the TPM was cleared or replaced by an earlier copy of itself. jump is how far
// it rose, if by more than one: several power-ons without a release, or a TPM
// that was reset on its own (interposer).
func (s *sightings) reset(id string, now uint32) (jump int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devices[id]
	if !ok || d.seen == nil {
		return 0, nil
	}
	last := d.seen.ResetCount
	if now < last {
		return 0, report.Errorf(report.KeyQuote, "the TPM of %s counts %d resets, at its last release it was %d: cleared, or an older copy of it", id, now, last)
	}
	if now > last+1 {
		return int64(now) - int64(last), nil
	}
	return 0, nil
}

// put fills in what was seen of a device.
func (s *sightings) put(info *kekproto.DeviceInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devices[info.Device]
	if !ok {
		return
	}
	if d.seen != nil && !d.seen.Time.IsZero() {
		info.Seen = d.seen
	}
	info.Drift, info.Held, info.Changed = d.drift, d.held, d.changed
	if d.progress != nil {
		info.Progress = d.progress.ProgressInfo
	}
	info.Refuse, info.Unproved, info.Report, info.Links = d.refusal, d.unproved, d.report, d.links
}

// summary counts devices released to, and lists the refused and those that
// somebody named without proof, newest first.
func (s *sightings) summary() (released, strangers int, refused, unproved []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		if d.seen != nil && !d.seen.Time.IsZero() {
			released++
		}
	}
	refused = s.newest(func(d *sighting) *kekproto.RefusalInfo { return d.refusal })
	unproved = s.newest(func(d *sighting) *kekproto.RefusalInfo { return d.unproved })
	return released, s.strangers, refused, unproved
}

// newest lists the devices that have a refusal of a kind, newest first.
func (s *sightings) newest(of func(*sighting) *kekproto.RefusalInfo) []string {
	ids := slices.DeleteFunc(slices.Collect(maps.Keys(s.devices)), func(id string) bool { return of(s.devices[id]) == nil })
	slices.SortFunc(ids, func(a, b string) int { return of(s.devices[b]).Time.Compare(of(s.devices[a]).Time) })
	return ids
}

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

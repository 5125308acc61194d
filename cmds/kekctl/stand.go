package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/lifecycle"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
)

// quiet is how long a running device may say nothing before that is said: it
// posts at least every 15 s while it encrypts.
const quiet = 90 * time.Second

// mood sorts states for the summary, and is what a colour repeats: no colour
// says anything that the words do not.
type mood int

const (
	works mood = iota
	waits      // for somebody
	holds      // something is wrong
	fine
)

// stand is where a device stands on its way through the factory.
type stand struct {
	device, rack, unit string

	state string // "disks 43 % 210 MiB/s 3m"
	kind  string // the state without numbers
	since time.Time
	mood  mood
	what  string // one line: what it does, waits for, or what is wrong
	do    string // the repair, of what is wrong
}

// standOf makes the row of a device in a region. now is the member's time, as all
// times of the device are.
func standOf(d *kekproto.DeviceInfo, region kekproto.RegionState, now time.Time) stand {
	at := lifecycle.Of(lifecycle.FactsOf(d), region)
	s := stand{device: d.Device, rack: d.Rack, unit: d.Unit}
	if d.Changed != nil {
		s.since = *d.Changed
	}
	p := new(report.Factory)
	if d.Progress == nil || json.Unmarshal(d.Progress.Factory, p) != nil {
		p = nil // a newer seal's words: the record says enough
	}
	if p != nil && d.Approved && p.Code == report.KeyEnroll && d.Changed != nil && d.Changed.After(d.Progress.Time) {
		p = nil // it said so before it was approved
	}
	switch {
	case s.ofRecord(d, at):
	case p != nil && s.ofResult(p):
		s.since = d.Progress.Since
	case refusedNow(d):
		s.hold("HOLD "+d.Refuse.Code, reasons(d.Refuse), d.Refuse.Repair)
		s.since = d.Refuse.Time
	case p != nil && p.Phase != report.PhaseApproval:
		s.ofPhase(d, p, at, now)
		s.since = d.Progress.Since
	default:
		s.atRest(at)
	}
	if s.kind == "" {
		s.kind = s.state
	}
	s.what, s.do = visible(s.what), visible(s.do)
	return s
}

func (s *stand) set(m mood, state, what string) { s.mood, s.state, s.what = m, state, what }

func (s *stand) hold(state, what, do string) {
	s.set(holds, state, what)
	code := report.Code(state[strings.LastIndexByte(state, ' ')+1:])
	info, _ := report.Lookup(code)
	s.kind, s.do = "HOLD", cmp.Or(do, info.Do)
}

// ofRecord is where an operator comes first, or the device is not known yet.
func (s *stand) ofRecord(d *kekproto.DeviceInfo, at lifecycle.State) bool {
	switch {
	case at.Stage == lifecycle.Suspended:
		s.set(holds, at.Stage.String(), d.Reason)
		s.do = "`kekctl resume " + d.Device + "` ends it"
	case at.Stage == lifecycle.Expected && d.Refuse != nil:
		s.hold("HOLD "+d.Refuse.Code, reasons(d.Refuse), d.Refuse.Repair)
		s.since = d.Refuse.Time
	case at.Stage <= lifecycle.Unapproved:
		s.atRest(at)
	default:
		return false
	}
	return true
}

// ofResult is a run of seal that ended badly.
func (s *stand) ofResult(p *report.Factory) bool {
	switch {
	case p.Result == report.ResultReject:
		s.hold("REJECT "+string(p.Code), p.What, p.Do)
		s.kind = "REJECT"
	case p.Result == report.ResultRetry && p.Code != report.FactoryAcceptance:
		s.hold("HOLD "+string(p.Code), p.What, p.Do)
	default:
		return false
	}
	return true
}

// refusedNow says whether the last that was heard of a device is a refusal, of
// something that it should get by now.
func refusedNow(d *kekproto.DeviceInfo) bool {
	r := d.Refuse
	return r != nil && d.Slice > 0 && (d.Changed == nil || r.Time.After(*d.Changed)) && (d.Progress == nil || r.Time.After(d.Progress.Time))
}

// ofPhase is a run of seal that goes on, or went well.
func (s *stand) ofPhase(d *kekproto.DeviceInfo, p *report.Factory, at lifecycle.State, now time.Time) {
	s.set(works, p.Phase, p.What)
	switch p.Phase {
	case report.PhaseSlice:
		if at.Stage == lifecycle.Provisioned {
			s.atRest(at)
			return
		}
		s.what = "takes its slice of generation " + dash(d.Slice)
	case report.PhaseDisks:
		s.kind = p.Phase
		s.state, s.what = disks(p)
	case report.PhaseSealed, report.PhaseAccepted:
		s.atRest(at) // the fleet's own record says which, and may have moved on
		return
	}
	if age := now.Sub(d.Progress.Time); age > quiet {
		s.mood, s.what = waits, "not heard for "+span(age)+": is it on?"
	}
}

// atRest is what the fleet's own record says.
func (s *stand) atRest(at lifecycle.State) {
	m := waits
	switch at.Who {
	case lifecycle.Nobody:
		m = fine
	case lifecycle.Device:
		m = works
	}
	s.set(m, at.Stage.String(), at.What)
}

// disks sums up the volumes: "disks 43 % 210 MiB/s 3m", and which one is under
// way.
func disks(p *report.Factory) (state, what string) {
	var all, done, rate int64
	open := -1
	for i, v := range p.Volumes {
		all, done = all+v.Bytes, done+v.Done
		if v.Done < v.Bytes {
			rate += v.Rate
			if open < 0 {
				open = i
			}
		}
	}
	state = p.Phase
	if all > 0 {
		state += fmt.Sprintf(" %d %%", int64(float64(done)/float64(all)*100))
	}
	if rate > 0 {
		state += fmt.Sprintf(" %d MiB/s %s", rate>>20, span(time.Duration(float64(all-done)/float64(rate)*float64(time.Second))))
	}
	if open >= 0 {
		v := p.Volumes[open]
		what = fmt.Sprintf("%s on %s, %s, %d of %d", v.Name, v.Disk, v.Way, open+1, len(p.Volumes))
	}
	return state, what
}

// span is a duration in at most five characters: 45s, 12m, 3h05m, 12d.
func span(d time.Duration) string {
	switch d = max(d, 0).Round(time.Second); {
	case d < 100*time.Second:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 100*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 10*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	default:
		return fmt.Sprintf("%dd", min(d/(24*time.Hour), 9999))
	}
}

// visible is a text as one line that drives no console.
func visible(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' {
			return ' '
		}
		return c
	}, s)
	return printable.Line(strings.Join(strings.Fields(s), " "))
}

// inRack says whether a device is of a rack. Until it has a slice only its ID
// can tell: r07-u12 is of r07.
func inRack(d *kekproto.DeviceInfo, rack string) bool {
	if d.Rack == "" {
		return strings.HasPrefix(d.Device, rack+"-")
	}
	return d.Rack == rack
}

// byPlace sorts as the machines stand: by rack, then by unit as a number.
func byPlace(all []stand) {
	slices.SortFunc(all, func(a, b stand) int {
		return cmp.Or(natural(a.rack, b.rack), natural(a.unit, b.unit), natural(a.device, b.device))
	})
}

// natural compares texts, numbers in them as numbers.
func natural(a, b string) int {
	for a != "" && b != "" {
		x, y := digits(a), digits(b)
		if x > 0 && y > 0 {
			n, m := strings.TrimLeft(a[:x], "0"), strings.TrimLeft(b[:y], "0")
			if c := cmp.Or(cmp.Compare(len(n), len(m)), strings.Compare(n, m)); c != 0 {
				return c
			}
			a, b = a[x:], b[y:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

// digits is how many digits a text starts with.
func digits(s string) int { return len(s) - len(strings.TrimLeft(s, "0123456789")) }

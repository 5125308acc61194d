package sightings

import (
	"fmt"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
)

// opLinks names link reports in the audit log's limits.
const opLinks = kekproto.Op("links")

// maxWrong bounds what is wrong with a device's links in words, in bytes. The
// report itself has more of them.
const maxWrong = 1 << 10

// LinksInfo sums a link report up, in words that stay the same for as long as
// the same is wrong.
func LinksInfo(r *report.LinkReport, now time.Time) *kekproto.LinksInfo {
	var wrong []string
	for _, l := range r.Links {
		if l.Code == "" {
			continue
		}
		text := fmt.Sprintf("%s %s to %s %s: %s", l.Code, l.Interface, l.Peer, l.PeerInterface, l.Verdict)
		for _, more := range []struct{ what, text string }{{"seen", l.Seen}, {"switch port", l.LLDPSeen}, {"waived", l.Waived}} {
			if more.text != "" {
				text += ", " + more.what + " " + more.text
			}
		}
		wrong = append(wrong, text)
	}
	return &kekproto.LinksInfo{Device: r.Device, Time: now.UTC(), Since: now.UTC(), Slice: r.Slice,
		Required: r.Required, Proved: r.Proved, Wrong: printable.Cut(strings.Join(wrong, "; "), maxWrong)}
}

// LinkCount is audit.Record.Links of a report; nil is none.
func LinkCount(r *report.LinkReport) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf("%d/%d of slice %d", r.Proved, r.Required, r.Slice)
}

// parseLinkCount is the summary that a line of the audit log holds.
func parseLinkCount(device, count, wrong string, at time.Time) (*kekproto.LinksInfo, bool) {
	l := &kekproto.LinksInfo{Device: device, Time: at, Since: at, Wrong: wrong}
	n, err := fmt.Sscanf(count, "%d/%d of slice %d", &l.Proved, &l.Required, &l.Slice)
	return l, err == nil && n == 3
}

// Heard keeps a device's link report, and says whether what it says is new
// enough to go into the audit log. What is all right goes there with the
// release.
func (s *Sightings) Heard(id string, now *kekproto.LinksInfo) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.of(id)
	old := d.links
	d.links = now
	if old != nil && old.Wrong == now.Wrong && old.Slice == now.Slice && old.Proved == now.Proved && old.Required == now.Required {
		now.Since = old.Since
		return false
	}
	if now.Wrong == "" && now.Proved >= now.Required {
		return false
	}
	return d.few(opLinks, now.Wrong, now.Time)
}

// remember takes a summary from the audit log.
func (s *Sightings) remember(l *kekproto.LinksInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.of(l.Device)
	if old := d.links; old != nil && old.Wrong != "" && l.Wrong == "" && old.Proved == l.Proved && old.Required == l.Required && old.Slice == l.Slice {
		l.Wrong = old.Wrong // a release's line has no words
	}
	if old := d.links; old != nil && old.Wrong == l.Wrong && old.Slice == l.Slice {
		l.Since = old.Since
	}
	d.links = l
}

// LinksOf returns what a device last said, or nil.
func (s *Sightings) LinksOf(id string) *kekproto.LinksInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.devices[id]; ok {
		return d.links
	}
	return nil
}

// Broken counts the devices whose last report says that a link is not proved
// that has to be.
func (s *Sightings) Broken() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		if d.links != nil && d.links.Proved < d.links.Required {
			n++
		}
	}
	return n
}

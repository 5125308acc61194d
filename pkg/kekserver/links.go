package kekserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// opLinks names link reports in the audit log's limits.
const opLinks = kekproto.Op("links")

// maxWrong bounds what is wrong with a device's links in words, in bytes. The
// report itself has more of them.
const maxWrong = 1 << 10

// hearLinks takes the link report of a request. The request is of an accepted
// image by now, whose word it is; whether the slice is the right one is not
// known yet, and the report says which one it is about.
func (s *Server) hearLinks(ctx context.Context, r *request) error {
	if len(r.Body) == 0 || (r.Op != kekproto.OpRelease && r.Op != kekproto.OpSlice) {
		return nil
	}
	links, err := report.ParseLinkReport(r.Body)
	if err == nil && links.Device != r.Device {
		err = errors.New("link report of another device")
	}
	if err != nil {
		return requestProblem(err)
	}
	r.links = links
	info := linksInfo(links, s.now())
	info.Report = json.RawMessage(r.Body)
	if !s.seen.heard(r.Device, info) {
		return nil
	}
	rec := r.event("links")
	rec.Links, rec.Detail = linkCount(links), info.Wrong
	return s.record(ctx, rec)
}

// linksInfo sums a link report up, in words that stay the same for as long as
// the same is wrong.
func linksInfo(r *report.LinkReport, now time.Time) *kekproto.LinksInfo {
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
		Required: r.Required, Proved: r.Proved, Wrong: cut(strings.Join(wrong, "; "), maxWrong)}
}

// linkCount is audit.Record.Links of a report; nil is none.
func linkCount(r *report.LinkReport) string {
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

// checkLinks is what the region demands of a device's links before a release.
func checkLinks(demand kekproto.LinkDemand, r *request) error {
	if r.Op != kekproto.OpRelease || demand != kekproto.DemandClean {
		return nil
	}
	recorded := r.device.slice.Generation
	switch l := r.links; {
	case l == nil:
		return report.Errorf(report.LinkDemand, "the fleet demands a link report, and %s sent none", r.Device)
	case l.Slice != recorded:
		return report.Errorf(report.LinkDemand, "%s checked its links against its slice of generation %d, recorded is %d", r.Device, l.Slice, recorded)
	case !l.Clean():
		return report.Errorf(report.LinkDemand, "%d of the %d links that %s must prove are proved: %s", l.Proved, l.Required, r.Device,
			cut(linksInfo(l, time.Time{}).Wrong, maxDifference))
	}
	return nil
}

// heard keeps a device's link report, and says whether what it says is new
// enough to go into the audit log. What is all right goes there with the
// release.
func (s *sightings) heard(id string, now *kekproto.LinksInfo) bool {
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
func (s *sightings) remember(l *kekproto.LinksInfo) {
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

// linksOf returns what a device last said, or nil.
func (s *sightings) linksOf(id string) *kekproto.LinksInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.devices[id]; ok {
		return d.links
	}
	return nil
}

// broken counts the devices whose last report says that a link is not proved
// that has to be.
func (s *sightings) broken() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		if d.links != nil && d.links.Proved < d.links.Required {
			n++
		}
	}
	return n
}

// getLinks answers what each device last said about its links. A device that
// said nothing has no time, also one that has not enrolled or has no slice yet. The query takes a rack, and leaves the
// reports themselves out unless reports=1.
func (s *Server) getLinks(w http.ResponseWriter, r *http.Request, _ *Agent) error {
	ctx, query := r.Context(), r.URL.Query()
	v, err := s.state.view(ctx)
	if err != nil {
		return err
	}
	ids, err := s.state.living(ctx, v)
	if err != nil {
		return err
	}
	out := []kekproto.LinksInfo{}
	for _, id := range ids {
		d, err := s.state.device(ctx, v, id)
		if err != nil {
			return err
		}
		rack := ""
		if d.slice != nil {
			rack = d.slice.Rack
		}
		if query.Has("rack") && query.Get("rack") != rack {
			continue
		}
		info := kekproto.LinksInfo{Device: id}
		if l := s.seen.linksOf(id); l != nil {
			info = *l
		}
		info.Rack = rack
		if query.Get("reports") != "1" {
			info.Report = nil
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b kekproto.LinksInfo) int { return strings.Compare(a.Device, b.Device) })
	writeJSON(w, http.StatusOK, out)
	return nil
}

// setLinkDemand changes what a release takes of a device's links.
func (s *Server) setLinkDemand(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	var m kekproto.SetLinkDemand
	if err := readJSON(w, r, &m); err != nil {
		return err
	}
	if m.Demand != kekproto.DemandNone && m.Demand != kekproto.DemandClean {
		return fmt.Errorf("%w: a demand %q: want %s or %s", errRequest, m.Demand, kekproto.DemandClean, kekproto.DemandNone)
	}
	ev := auditBy(agent, "link-demand")
	ev.Detail = string(m.Demand)
	if err := s.demand(r.Context(), ev, func(rec *regionRecord) { rec.LinkReport = m.Demand }); err != nil {
		return err
	}
	return s.getStatus(w, r, agent)
}

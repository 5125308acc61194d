package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/sightings"
)

// hearLinks takes the link report of a request. The request is of an accepted
// image by now, whose word it is; whether the slice is the right one is not
// known yet, and the report says which one it is about.
func (r *request) hearLinks(ctx context.Context) error {
	if len(r.Body) == 0 || (r.Op != kekproto.OpRelease && r.Op != kekproto.OpSlice) {
		return nil
	}
	links, err := report.ParseLinkReport(r.Body)
	if err == nil && links.Device != r.Device {
		err = errors.New("link report of another device")
	}
	if err != nil {
		return malformed(err)
	}
	r.links = links
	info := sightings.LinksInfo(links, r.member.now())
	info.Report = json.RawMessage(r.Body)
	if !r.member.seen.Heard(r.Device, info) {
		return nil
	}
	rec := r.event(audit.EventLinks)
	rec.Links, rec.Detail = sightings.LinkCount(links), info.Wrong
	return r.member.ledger.Record(ctx, rec)
}

// linksAreClean is what the region demands of a device's links before a release.
func (r *request) linksAreClean(_ context.Context) error {
	if r.Op != kekproto.OpRelease || r.view.region.LinkReport != kekproto.DemandClean {
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
			printable.Cut(sightings.LinksInfo(l, time.Time{}).Wrong, maxDifference))
	}
	return nil
}

// Links is what each device last said about its links, by ID; of one rack only, if
// rack is not nil. A device that said nothing has no time, also one that has not
// enrolled or has no slice yet.
func (m *Member) Links(ctx context.Context, rack *string) ([]kekproto.LinksInfo, error) {
	v, err := m.state.view(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := m.state.living(ctx, v)
	if err != nil {
		return nil, err
	}
	out := []kekproto.LinksInfo{}
	for _, id := range ids {
		d, err := m.state.device(ctx, v, id)
		if err != nil {
			return nil, err
		}
		of := ""
		if d.slice != nil {
			of = d.slice.Rack
		}
		if rack != nil && *rack != of {
			continue
		}
		info := kekproto.LinksInfo{Device: id}
		if l := m.seen.LinksOf(id); l != nil {
			info = *l
		}
		info.Rack = of
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b kekproto.LinksInfo) int { return strings.Compare(a.Device, b.Device) })
	return out, nil
}

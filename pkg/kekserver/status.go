package kekserver

import (
	"cmp"
	"context"
	"encoding/hex"
	"net/http"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/lifecycle"
)

// maxRefused is how many refused devices a status lists: one screen.
const maxRefused = 20

func (s *Server) getStatus(w http.ResponseWriter, r *http.Request, _ *Agent) error {
	st, err := s.Status(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, st)
	return nil
}

// Status sums up the region as this member sees it.
func (s *Server) Status(ctx context.Context) (*kekproto.Status, error) {
	v, err := s.state.view(ctx)
	if err != nil {
		return nil, err
	}
	head, broken := s.ledger.Head()
	st := &kekproto.Status{
		Member: s.cfg.Member, Region: v.region.Region, State: v.region.State, Shipment: v.region.Shipment,
		AllowLab: s.cfg.AllowLab, Since: s.since.UTC(), StoreEpoch: v.epoch,
		AuditLines: head.Number, AuditHead: hex.EncodeToString(head.Hash[:]),
	}
	if broken != nil {
		st.AuditError = broken.Error()
	}
	st.LinkReport = cmp.Or(v.region.LinkReport, kekproto.DemandNone)
	st.Firmware = cmp.Or(v.region.Firmware, kekproto.FirmwareRecord)
	st.LinksBroken = s.seen.broken()
	st.Images = v.images.info(s.cfg.AllowLab)
	all, err := s.infos(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[string]*kekproto.DeviceInfo{}
	for i := range all {
		count(st, &all[i])
		byID[all[i].Device] = &all[i]
	}
	released, strangers, refused, unproved := s.seen.summary()
	st.Released, st.RefusedOthers = released, strangers
	st.Unproved = unproved[:min(len(unproved), maxRefused)]
	for _, id := range refused {
		if info := byID[id]; info != nil && len(st.Refused) < maxRefused {
			st.Refused = append(st.Refused, brief(*info))
		}
	}
	return st, nil
}

// brief is a device without what is long.
func brief(d kekproto.DeviceInfo) kekproto.DeviceInfo {
	d.EKPublic, d.AKPublic, d.SRKPublic, d.EKCert, d.Report, d.Links = nil, nil, nil, nil, "", nil
	return d
}

func count(st *kekproto.Status, d *kekproto.DeviceInfo) {
	st.Devices++
	way := lifecycle.FactsOf(d).Way()
	for _, c := range []struct {
		is bool
		n  *int
	}{
		{d.Enrolled, &st.Enrolled},
		{d.Slice > 0, &st.WithSlice},
		{way == lifecycle.Sealed || way == lifecycle.Accepted, &st.Sealed},
		{way == lifecycle.Accepted, &st.Accepted},
		{d.Suspended, &st.Suspended},
	} {
		if c.is {
			*c.n++
		}
	}
}

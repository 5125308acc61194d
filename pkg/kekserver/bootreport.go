package kekserver

import (
	"context"
	"net/http"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
)

// report takes a boot report on a connection that released a key.
func (s *Server) report(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(w, r)
	if err != nil {
		s.refuse(w, r, kekproto.OpReport, "", report.Errorf(report.KeyProtocol, "%w", err))
		return
	}
	id, kek := connectionOf(r).attested()
	req, err := kekproto.ParseRequest(body, kekproto.OpReport)
	switch {
	case err != nil:
		err = requestProblem(err)
	case id == "" || id != req.Device:
		id, err = "", report.Errorf(report.KeyQuote, "a report is taken only on the connection that released a key to that device")
	default:
		err = s.mayReport(r.Context(), id)
	}
	accepted := false
	if err == nil {
		accepted, err = s.takeReport(r, req, kek)
	}
	if err != nil {
		s.refuse(w, r, kekproto.OpReport, id, err)
		return
	}
	writeJSON(w, http.StatusOK, &kekproto.Response{Protocol: req.Protocol, Accepted: accepted})
}

// mayReport refuses the report of a device that could not have booted now.
func (s *Server) mayReport(ctx context.Context, id string) error {
	v, err := s.state.view(ctx)
	if err != nil {
		return err
	}
	d, err := s.state.device(ctx, v, id)
	if err != nil {
		return err
	}
	if d.Suspended {
		return suspended(id, d)
	}
	return allowed(v.region.State, kekproto.OpRelease, measure.RoleServer)
}

// takeReport records a report and hears what it says. One for which there is no
// room in the audit log is heard all the same.
func (s *Server) takeReport(r *http.Request, req *kekproto.Request, kek uint32) (accepted bool, err error) {
	text := printable.Text(string(req.Body))
	if s.seen.reported(req.Device, text, s.now()) {
		rec := audit.Record{Event: "report", Device: req.Device, Detail: text, Peer: r.RemoteAddr}
		if err := s.record(r.Context(), rec); err != nil {
			return false, err
		}
	}
	return s.heardBoot(r.Context(), req.Device, kek, req.Body, r.RemoteAddr)
}

package kekserver

import (
	"context"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// vouched says why nobody but an operator can approve the TPM, or nil: its maker
// vouches for it, and where the region has a delivery, that lists it.
func (s *Server) vouched(m *kekproto.EnrollBegin, rec *deviceRecord) error {
	switch {
	case len(m.EKCert) == 0:
		return errors.New("there is no EK certificate")
	case s.cfg.EKRoots == nil:
		return errors.New("this member knows no roots to check EK certificates with")
	}
	if err := attest.CheckEKCert(m.EKCert, m.EKPublic, s.cfg.EKRoots, s.cfg.EKIssuers...); err != nil {
		return err
	}
	if s.cfg.Delivery != nil && !s.cfg.Delivery.Has(rec.EKName, m.EKCert) {
		return errors.New("its maker vouches for it, but it is none of those in the list of delivered TPMs (ek_delivery)")
	}
	return nil
}

func (s *Server) checkEKCert(m *kekproto.EnrollBegin, rec *deviceRecord) error {
	err := s.vouched(m, rec)
	if err == nil {
		rec.Approved = true
		return nil
	}
	if s.cfg.EKPolicy == EKRequired {
		return &report.Problem{Code: report.TPMNoCert, Err: err,
			What: fmt.Sprintf("this region enrols TPMs with their maker's certificate only; that of %s, EK name %s: %v", m.Device, rec.EKName, err),
			Do: "look whether the EK certificate is in the TPM, the maker's roots are in --ek-roots and the TPM is in --ek-delivery, if there is one; to take such TPMs after an operator compared the EK name, set \"ek_certificates\": \"record\" in kekd.json " +
				"(kekctl init --ek-cert record), restart the member, provision again, and `kekctl device approve`; or replace the TPM"}
	}
	return nil // recorded; waits for approval
}

// uniqueEK refuses a TPM that is another device already. The caller of
// finishEnrolment's holds s.deciding, so that no two become one TPM at once.
func (s *Server) uniqueEK(ctx context.Context, v *view, id string, ekPublic []byte) error {
	ids, err := s.state.living(ctx, v)
	if err != nil {
		return err
	}
	for _, other := range ids {
		if other == id {
			continue
		}
		d, err := s.state.device(ctx, v, other)
		if err != nil {
			return err
		}
		if d.enrolled() && attest.SameEK(d.EKPublic, ekPublic) {
			return refuseEnroll("this TPM is %s already (EK %s): a machine is one device; if that name was the mistake, take it back with `kekctl device remove %s`",
				other, d.EKName, other)
		}
	}
	return nil
}

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/provision"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/tpm"
)

// provision makes the TPM this device's.
func (s *system) provision(ctx context.Context, in *inputs) error {
	client, err := s.client(in)
	if err != nil {
		return err
	}
	t, err := s.startTPM()
	if err != nil {
		return err
	}
	defer t.Close()
	token := in.takeToken()
	defer token.Wipe()
	if token == nil {
		s.logf("no enrolment token: it was used, or this device is known already")
		token = secret.New(0)
	}
	device := &provision.Device{TPM: t, Fleet: client, PolicyKey: in.policy, Logf: s.logf}
	keys, err := device.Provision(ctx, token)
	if err != nil {
		return fmt.Errorf("provision %s: %w", client.Device, err)
	}
	// A used token opens nothing, yet it has no business in transit.
	if err := in.blankToken(); err != nil {
		return err
	}
	for _, k := range []struct {
		name string
		area []byte
	}{{"EK", keys.EK}, {"AK", keys.AK}, {"SRK", keys.SRK}} {
		name, err := attest.Name(k.area)
		if err != nil {
			return err
		}
		s.logf("%-3s name %s", k.name, name)
	}
	s.logf("%s is provisioned: have its slice signed, then run seal", client.Device)
	return nil
}

// startTPM opens the TPM and prints the image PCRs: public values, by which a
// golden boot teaches the fleet a new image.
func (s *system) startTPM() (*tpm.TPM, error) {
	t, err := s.openTPM()
	if err != nil {
		return nil, report.Errorf(report.TPMMissing, "%w", err)
	}
	pcrs, err := t.ReadPCRs()
	if err != nil {
		_ = t.Close() // the error that matters is err
		return nil, err
	}
	var line strings.Builder
	for _, n := range measure.ImagePCRs() {
		fmt.Fprintf(&line, " %d=%x", n, pcrs[n])
	}
	s.logf("measured sha256%s", line.String())
	return t, nil
}

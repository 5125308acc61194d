package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/provision"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm"
)

// provision makes the TPM this device's.
func (s *system) provision(ctx context.Context, in *inputs, tr *track) error {
	client, err := s.client(in)
	if err != nil {
		return err
	}
	tr.phase(ctx, report.PhaseProvision, "makes keys and enrols as %s", client.Device)
	t, err := s.startTPM()
	if err != nil {
		return err
	}
	tr.tpm = t
	ctx, stop := context.WithCancel(ctx)
	defer stop() // what still listens when provisioning fails
	listening := s.startCapture(ctx, client.Device)
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
	s.postCapture(ctx, client, t, <-listening)
	tr.fleet = progress(client, t)
	tr.phase(ctx, report.PhaseSlice, "provisioned, waits for its slice")
	s.logf("%s is provisioned: have its slice signed, then run seal", client.Device)
	return nil
}

// captured is what startCapture found: c is nil when it found nothing.
type captured struct {
	c   *snapshot.Capture
	err error
}

// startCapture listens at the network ports while the TPM is busy.
func (s *system) startCapture(ctx context.Context, device string) <-chan captured {
	done := make(chan captured, 1)
	go func() {
		c, err := s.capture(ctx, device)
		done <- captured{c, err}
	}()
	return done
}

// postCapture tells the fleet what the machine found out about itself. The
// device is provisioned without it: its MAC addresses can be written by hand.
func (s *system) postCapture(ctx context.Context, client *kekclient.Client, t *tpm.TPM, found captured) {
	if found.err != nil {
		s.logf("capture: %v", found.err)
	}
	if found.c == nil {
		return
	}
	for _, p := range found.c.Ports {
		words := "no carrier"
		if p.Carrier {
			words = "carrier, hears nobody"
		}
		if len(p.Heard) > 0 {
			words = fmt.Sprintf("hears %s %s, one of %d", cmp.Or(p.Heard[0].System, p.Heard[0].ChassisID), p.Heard[0].PortID, len(p.Heard))
		}
		s.logf("port %s %s %s", p.Name, p.MAC, words)
	}
	text, err := found.c.Bytes()
	if err == nil {
		err = client.Capture(ctx, provision.Quoter(t), text)
	}
	if err != nil {
		s.logf("the fleet did not take the capture: %v; run seal provision again", err)
	}
}

// startTPM opens the TPM and prints the image PCRs: public values, by which a
// golden boot teaches the fleet a new image.
func (s *system) startTPM() (*tpm.TPM, error) {
	t, err := s.openTPM()
	if err != nil {
		return nil, report.Errorf(report.TPMMissing, "%w", err)
	}
	// A killed run leaves sessions and keys loaded, of which a TPM has room for
	// three; no other program uses it now.
	err = t.Flush()
	if err == nil {
		err = t.CheckBanks()
	}
	var pcrs map[int][]byte
	if err == nil {
		pcrs, err = t.ReadPCRs()
	}
	if err != nil {
		err = provision.Problem(t, err)
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

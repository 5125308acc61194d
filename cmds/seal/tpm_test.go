package main

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

// awaits has the fleet expect the device, with its token on the partition.
func (s *station) awaits() {
	s.t.Helper()
	var token kekproto.NewToken
	s.must("POST", "/v1/devices", &kekproto.NewDevice{Device: testDevice}, &token)
	st := &snapshot.Station{Type: snapshot.StationType, Device: testDevice, Fleet: s.fleet()}
	text, err := st.Bytes()
	if err != nil {
		s.t.Fatal(err)
	}
	s.part(&snapshot.Part{Station: text, Token: []byte(token.Token + "\n")})
}

func required(s *station, o *fleetdir.Options) {
	s.write("ek.pem", s.sim.CertsPEM)
	o.EKPolicy, o.EKRoots = "required", filepath.Join(s.dir, "ek.pem")
}

// TestOddTPMs: each is told by its code, with what the technician needs, and
// the exit status that sorts the machine.
func TestOddTPMs(t *testing.T) {
	platform := tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}
	for _, tc := range []struct {
		name  string
		spoil func(s *station)
		fleet func(*station, *fleetdir.Options)
		code  report.Code
		exit  int
		words []string
	}{
		{"SHA-1 only", func(s *station) { s.sim = tpmtest.StartBanks(s.t, "sha1") }, nil, report.TPMBanks, exitReject, []string{"it keeps SHA-1"}},
		{"NV full", func(s *station) { s.sim.Bus().Fill(s.t, 0x01500000, 2048); s.sim.Bus().Fill(s.t, 0x01580000, 16) }, nil,
			report.NVFull, exitReject, []string{"made by an owner", "EK certificate, RSA-2048"}},
		{"locked out", func(s *station) {
			s.sim.Bus().LockoutParameters(s.t, 32, 7200, 7800)
			s.sim.Bus().WrongLockoutAuth(s.t)
		}, required,
			report.TPMLockout, exitRetry, []string{"clears in 2 h 10 min at the latest, if the machine stays powered"}},
		{"owned by another", func(s *station) { s.sim.Bus().ChangeAuth(s.t, tpm2.TPMRHOwner, "", "theirs") }, required,
			report.TPMFailed, exitRetry, []string{"the owner authorization is set"}},
		{"endorsement of another", func(s *station) { s.sim.Bus().ChangeAuth(s.t, tpm2.TPMRHEndorsement, "", "theirs") }, required,
			report.TPMFailed, exitRetry, []string{"TPM refuses the authorization"}},
		{"no certificate", func(s *station) { s.sim.Bus().Undefine(s.t, platform, 0x01C00002) }, required,
			report.TPMNoCert, exitReject, []string{"EK name 000b"}},
		{"a valid certificate", func(*station) {}, required, "", 0, []string{"is provisioned"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var edit []func(*station, *fleetdir.Options)
			if tc.fleet != nil {
				edit = append(edit, tc.fleet)
			}
			s := newStation(t, edit...)
			s.images()
			s.awaits()
			s.sim.PowerOn()
			tc.spoil(s)
			err := s.seal("provision")
			text := s.out.String()
			var p *report.Problem
			switch {
			case tc.code == "":
				if err != nil {
					t.Fatal(err)
				}
			case !errors.As(err, &p) || p.Code != tc.code || exitCode(err) != tc.exit:
				t.Fatalf("got %v, exit %d, want %s, exit %d", err, exitCode(err), tc.code, tc.exit)
			default:
				text += err.Error()
			}
			for _, want := range tc.words {
				if !strings.Contains(text, want) {
					t.Errorf("it does not say %q:\n%s", want, text)
				}
			}
		})
	}
}

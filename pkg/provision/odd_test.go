package provision_test

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/provision"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

// onTPM is a factory with a TPM as it was found.
func onTPM(t *testing.T, s *tpmtest.Sim) *provision.Device {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &provision.Device{TPM: s.TPM(), Fleet: newFleet(s), PolicyKey: &key.PublicKey, Logf: t.Logf}
}

// refused provisions, which must fail with a code, and returns the problem.
func refused(t *testing.T, d *provision.Device, want report.Code) *report.Problem {
	t.Helper()
	_, err := d.Provision(t.Context(), secret.Take([]byte("one use")))
	var p *report.Problem
	if !errors.As(err, &p) || p.Code != want {
		t.Fatalf("got %v, want %s", err, want)
	}
	return p
}

func passes(t *testing.T, d *provision.Device) {
	t.Helper()
	if _, err := d.Provision(t.Context(), secret.Take([]byte("one use"))); err != nil {
		t.Errorf("provision: %v", err)
	}
}

// TestSHA1Only: a TPM whose PCRs no policy can use is refused before anything is
// made in it or the fleet is asked.
func TestSHA1Only(t *testing.T) {
	t.Parallel()
	s := tpmtest.StartBanks(t, "sha1")
	d := onTPM(t, s)
	p := refused(t, d, report.TPMBanks)
	if !strings.Contains(p.What, "SHA-1") {
		t.Errorf("%s does not name the bank that there is", p.What)
	}
	for _, made := range []tpm2.TPMCC{tpm2.TPMCCCreatePrimary, tpm2.TPMCCEvictControl, tpm2.TPMCCNVDefineSpace, tpm2.TPMCCHierarchyChanegAuth} {
		if slices.Contains(s.Bus().Commands(), uint32(made)) {
			t.Errorf("command %#x was sent", uint32(made))
		}
	}
	if d.Fleet.(*fleet).token == nil {
		t.Error("the token was used")
	}
}

// TestFullTPM: a TPM that others have filled is refused with the list of what is
// in it, none of which is touched. Room made, provisioning goes on.
func TestFullTPM(t *testing.T) {
	t.Parallel()
	for _, rest := range []uint16{16, 512} { // not even for a key; for the keys, and not for the slots
		t.Run(fmt.Sprint(rest), func(t *testing.T) {
			s := tpmtest.Start(t)
			s.Bus().Fill(t, 0x01500000, 2048)
			s.Bus().Fill(t, 0x01580000, rest)
			before, err := s.TPM().NVIndices()
			if err != nil {
				t.Fatal(err)
			}
			d := onTPM(t, s)
			p := refused(t, d, report.NVFull)
			if !strings.Contains(p.What, "made by an owner: the platform's maker") || !strings.Contains(p.What, "EK certificate") {
				t.Errorf("what is there is not listed: %s", p.What)
			}
			if want := "`tpm2_nvundefine -C o 0x1500000`"; !strings.Contains(p.Do, want) {
				t.Errorf("the repair %q does not name %s", p.Do, want)
			}
			after, err := s.TPM().NVIndices()
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range before {
				if !slices.Contains(after, n) {
					t.Errorf("%+v is gone", n)
				}
			}
			if d.Fleet.(*fleet).token == nil {
				t.Error("the token was used")
			}
			owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)} // as the command that is named
			for index := uint32(0x01500000); index < 0x01500004; index++ {
				s.Bus().Undefine(t, owner, index)
			}
			passes(t, d)
		})
	}
}

// TestLockedOut: the wait is told, and afterwards provisioning goes on.
func TestLockedOut(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	s.Bus().LockoutParameters(t, 3, 3, 3)
	s.Bus().WrongLockoutAuth(t)
	d := onTPM(t, s)
	p := refused(t, d, report.TPMLockout)
	for _, text := range []string{p.What, p.Do} {
		if !strings.Contains(text, "clears in 3 s at the latest, if the machine stays powered") {
			t.Errorf("%q does not say when it clears", text)
		}
	}
	time.Sleep(3500 * time.Millisecond)
	passes(t, d)
}

// TestFailuresOfOthers: the lockout of other software's objects does not stop
// provisioning, which uses none that are subject to it.
func TestFailuresOfOthers(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	d := f.boot(t)
	f.Bus().LockOut(t)
	if l, err := d.TPM.Lockout(); err != nil || !l.In {
		t.Fatalf("%+v, %v: not in lockout", l, err)
	}
	if _, err := f.run(t.Context(), d, false); err != nil {
		t.Error(err)
	}
}

func TestProblem(t *testing.T) {
	t.Parallel()
	x := tpmtest.Start(t).TPM()
	fleets := report.Errorf(report.KeyState, "the region is live")
	for _, tc := range []struct {
		err  error
		code report.Code
		do   string
	}{
		{tpm.ErrBanks, report.TPMBanks, ""},
		{tpm.ErrLockout, report.TPMLockout, "stays powered"},
		{tpm.ErrNVFull, report.NVFull, "clear the TPM"},
		{tpm.ErrCleared, report.TPMCleared, ""},
		{tpm.ErrOtherTPM, report.TPMOther, ""},
		{tpm.ErrDevice, report.TPMFailed, ""},
		{tpm.ErrAuth, report.TPMFailed, "clear the TPM"},
		{tpm.ErrState, report.TPMFailed, "clear the TPM"},
		{tpm.ErrPolicy, report.NVPolicyBad, ""},
		{tpm.ErrNVLocked, report.NVLocked, ""},
		{tpm.ErrNVBlank, report.NVMissing, ""},
		{nvslot.ErrForeign, report.NVForeign, "clear the TPM"},
		{keyblob.ErrBlank, report.NVMissing, ""},
		{keyblob.ErrCorrupt, report.NVDamaged, ""},
		{keyblob.ErrVersion, report.NVDamaged, ""},
		{keyblob.ErrMismatch, report.NVForeign, ""},
		{keyblob.ErrAuth, report.NVForeign, ""},
		{fmt.Errorf("%w: %w", provision.ErrInUse, keyblob.ErrCorrupt), report.NVDamaged, "write nothing"},
		{fleets, report.KeyState, ""},
	} {
		err := provision.Problem(x, fmt.Errorf("step: %w", tc.err))
		var p *report.Problem
		if !errors.As(err, &p) || p.Code != tc.code || !errors.Is(err, tc.err) || !strings.Contains(err.Error(), "step: ") ||
			!strings.Contains(p.Do, tc.do) || (p.Do != "") != (tc.do != "") {
			t.Errorf("%v: got %v, do %q, want %s, %q", tc.err, err, p.Do, tc.code, tc.do)
		}
	}
	if err := provision.Problem(x, nil); err != nil {
		t.Errorf("nil: got %v", err)
	}
}

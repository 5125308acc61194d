package tpm_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

func TestBanks(t *testing.T) {
	t.Parallel()
	for banks, want := range map[string]string{"sha1": "SHA-1", "sha1,sha384": "SHA-1 and SHA-384", "sha256": "", "sha1,sha256,sha384": ""} {
		t.Run(banks, func(t *testing.T) {
			x := tpmtest.StartBanks(t, banks).TPM()
			_, read := x.ReadPCRs()
			for _, err := range []error{x.CheckBanks(), read} {
				if errors.Is(err, tpm.ErrBanks) != (want != "") {
					t.Errorf("got %v", err)
				}
			}
			if err := x.CheckBanks(); want != "" && !strings.HasSuffix(err.Error(), "it keeps "+want) {
				t.Errorf("got %v, want it to name %s", err, want)
			}
		})
	}
}

func TestLockout(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	fresh, err := s.TPM().Lockout()
	if want := (tpm.Lockout{Max: 3, Interval: 1000 * time.Second, Recovery: 1000 * time.Second}); err != nil || fresh != want {
		t.Fatalf("fresh: got %+v, %v, want %+v", fresh, err, want)
	}
	s.Bus().LockoutParameters(t, 5, 7200, 600)
	s.Bus().LockOut(t)
	got, err := s.TPM().Lockout()
	want := tpm.Lockout{Failures: 5, Max: 5, Interval: 2 * time.Hour, Recovery: 10 * time.Minute, In: true}
	if err != nil || got != want {
		t.Fatalf("in lockout: got %+v, %v, want %+v", got, err, want)
	}
	explained := s.TPM().Explain(tpm.ErrLockout)
	var e *tpm.LockoutError
	if !errors.As(explained, &e) || !errors.Is(explained, tpm.ErrLockout) ||
		!strings.Contains(explained.Error(), "5 of 5 failed authorizations are counted; it clears in 2 h at the latest, if the machine stays powered") {
		t.Errorf("explained: %v", explained)
	}
}

// TestLockoutClears: what is said holds, on a TPM whose times are short.
func TestLockoutClears(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	s.Bus().LockoutParameters(t, 3, 2, 4)
	x := s.TPM()
	keys, err := x.CreateKeys()
	if err != nil {
		t.Fatal(err)
	}
	s.Bus().WrongLockoutAuth(t)
	auths := &tpm.Auths{Owner: nonZero(), Lockout: nonZero()}
	err = x.SetAuths(auths, keys.SRK)
	if !errors.Is(err, tpm.ErrLockout) {
		t.Fatalf("after a wrong lockout authorization: got %v, want ErrLockout", err)
	}
	var e *tpm.LockoutError
	if !errors.As(x.Explain(err), &e) {
		t.Fatalf("not explained: %v", err)
	}
	after, restart := e.Clears()
	if after != 4*time.Second || restart {
		t.Errorf("clears after %v, restart %v, want 4s", after, restart)
	}
	time.Sleep(after + 500*time.Millisecond)
	if err := x.SetAuths(auths, keys.SRK); err != nil {
		t.Errorf("after %v: %v", after, err)
	}
}

// TestLockoutUntilRestart: a TPM may want a restart, and time does not help.
func TestLockoutUntilRestart(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	s.Bus().LockoutParameters(t, 3, 1000, 0)
	keys, err := s.TPM().CreateKeys()
	if err != nil {
		t.Fatal(err)
	}
	s.Bus().WrongLockoutAuth(t)
	auths := &tpm.Auths{Owner: nonZero(), Lockout: nonZero()}
	err = s.TPM().Explain(s.TPM().SetAuths(auths, keys.SRK))
	if err == nil || !strings.Contains(err.Error(), "clears when the machine is powered off and on") {
		t.Fatalf("got %v", err)
	}
	if err := s.Restart().SetAuths(auths, keys.SRK); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

func TestClears(t *testing.T) {
	for _, tc := range []struct {
		l       tpm.Lockout
		after   time.Duration
		restart bool
	}{
		{tpm.Lockout{Failures: 32, Max: 32, Interval: 130 * time.Minute, Recovery: time.Hour, In: true}, 130 * time.Minute, false},
		{tpm.Lockout{Failures: 34, Max: 32, Interval: 10 * time.Minute, Recovery: time.Minute, In: true}, 30 * time.Minute, false},
		{tpm.Lockout{Failures: 1, Max: 32, Interval: 10 * time.Minute, Recovery: 24 * time.Hour}, 24 * time.Hour, false},
		{tpm.Lockout{Failures: 3, Max: 3, Interval: 10 * time.Minute, In: true}, 10 * time.Minute, true},
		{tpm.Lockout{Max: 32}, 0, true},
	} {
		if after, restart := tc.l.Clears(); after != tc.after || restart != tc.restart {
			t.Errorf("%+v clears after %v, %v, want %v, %v", tc.l, after, restart, tc.after, tc.restart)
		}
	}
}

func TestWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", 12 * time.Second: "12 s", 1000 * time.Second: "16 min 40 s", 130 * time.Minute: "2 h 10 min",
		24 * time.Hour: "1 days", 50*time.Hour + 3*time.Second: "2 days 2 h", 7200 * time.Second: "2 h",
	} {
		if got := tpm.Words(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

// TestFull: who takes the room is listed, by size, and nothing is removed.
func TestFull(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	big, small := s.Bus().Fill(t, 0x01500000, 2048), s.Bus().Fill(t, 0x01880000, 32)
	before, err := s.TPM().NVIndices()
	if err != nil {
		t.Fatal(err)
	}
	err = s.TPM().Explain(tpm.ErrNVFull)
	var full *tpm.FullError
	if !errors.As(err, &full) || !errors.Is(err, tpm.ErrNVFull) {
		t.Fatalf("got %v", err)
	}
	platform, total := 0, 0
	for _, n := range full.Indices {
		total += n.Size
		if n.Platform {
			platform++
		}
	}
	if want := 2048*big + 32*small; total <= want || len(full.Indices) != big+small+platform || platform == 0 {
		t.Errorf("%d indices of %d bytes; defined were %d and %d of %d bytes", len(full.Indices), total, big, small, want)
	}
	if got := len(full.Removable()); got != big+small {
		t.Errorf("%d can be undefined by an owner, want %d", got, big+small)
	}
	for _, want := range []string{
		fmt.Sprintf("0x01500000 to %#08x: %d bytes in %d indices, made by an owner: the platform's maker", 0x01500000+big-1, 2048*big, big),
		"in 1 index, made by the firmware: EK certificate, RSA-2048", "an owner's software", "a persistent key, an EK by its handle",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the list does not say %q:\n%v", want, err)
		}
	}
	if lines := strings.Count(err.Error(), "\n"); lines > 20 {
		t.Errorf("%d lines", lines)
	}
	after, err := s.TPM().NVIndices()
	if err != nil || len(after) != len(before) {
		t.Errorf("%d indices before, %d after, %v", len(before), len(after), err)
	}
}

// TestFullOfKeys: persistent keys take room as well; ours are no news.
func TestFullOfKeys(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	if _, err := s.TPM().CreateKeys(); err != nil {
		t.Fatal(err)
	}
	const theirs = 0x81000005
	key, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(s.Bus())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.EvictControl{
		Auth:         tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		ObjectHandle: &tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name}, PersistentHandle: theirs,
	}.Execute(s.Bus())
	if err != nil {
		t.Fatal(err)
	}
	var full *tpm.FullError
	if err := s.TPM().Explain(tpm.ErrNVFull); !errors.As(err, &full) || !slices.Equal(full.Evictable(), []uint32{theirs}) ||
		!strings.Contains(err.Error(), "0x81000005: a persistent key, made by an owner") {
		t.Errorf("got %v", err)
	}
}

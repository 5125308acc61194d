package linkcheck_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
	"github.com/landfall-project/landfall/qemu/fabric"
)

func newTPM(t testing.TB) *fabric.TPM {
	t.Helper()
	tpm, err := fabric.NewTPM()
	if err != nil {
		t.Fatal(err)
	}
	return tpm
}

func newSession(t testing.TB, tpm *fabric.TPM, device string) *linkcheck.Session {
	t.Helper()
	s, err := tpm.Session("sea1", device)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Wipe)
	return s
}

// certify has a TPM certify its session key, as a device does.
func certify(sim *tpmtest.Sim, ak []byte) (*linkcheck.Session, error) {
	return linkcheck.Certify("sea1", "r07-u12", ak, func(qualifying []byte) (kekproto.Quote, error) {
		pcrs, err := sim.TPM().ReadPCRs()
		if err != nil {
			return kekproto.Quote{}, err
		}
		return sim.TPM().Quote(qualifying, pcrs)
	})
}

// TestCertifyByTPM makes a certificate with a software TPM, before and after
// the cap.
func TestCertifyByTPM(t *testing.T) {
	t.Parallel()
	sim := tpmtest.Start(t)
	keys, err := sim.TPM().CreateKeys()
	if err != nil {
		t.Fatal(err)
	}
	name, err := attest.Name(keys.AK)
	if err != nil {
		t.Fatal(err)
	}
	for _, capped := range []bool{false, true} {
		if capped {
			if err := sim.TPM().Extend(measure.CapPCR, measure.CapDigest()); err != nil {
				t.Fatal(err)
			}
		}
		s, err := certify(sim, keys.AK)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Wipe()
		peer, err := linkcheck.VerifyCertificate(s.Certificate(), name)
		if err != nil {
			t.Fatal(err)
		}
		if peer.Device != "r07-u12" || peer.Region != "sea1" || peer.Capped != capped {
			t.Errorf("got %+v, want r07-u12 of sea1, capped: %t", peer, capped)
		}
	}
}

// TestVerifyCertificateRefuses holds what a certificate must never pass with.
func TestVerifyCertificateRefuses(t *testing.T) {
	t.Parallel()
	tpm, other, recapped, release := newTPM(t), newTPM(t), newTPM(t), newTPM(t)
	good := newSession(t, tpm, "r07-u12").Certificate()
	recapped.Cap()
	recapped.Extend(measure.CapPCR, make([]byte, 32))
	// A quote for a release, whose request is the body of a certificate.
	forRelease, err := linkcheck.Certify("sea1", "r07-u12", release.AKPublic(), func([]byte) (kekproto.Quote, error) {
		return release.Quote(attest.Qualify(kekproto.OpRelease.Label(), make([]byte, 32), good))
	})
	if err != nil {
		t.Fatal(err)
	}
	altered := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	control := bytes.Clone(good)
	control[1+34+2] = '\n'
	tests := []struct {
		name        string
		certificate []byte
		ak          string
		want        error
	}{
		{"other TPM", newSession(t, other, "r07-u12").Certificate(), tpm.AKName(), linkcheck.ErrAK},
		{"no TPM in the slice", good, "", linkcheck.ErrAK},
		{"other session key", altered(3), tpm.AKName(), attest.ErrQualifying},
		{"other region", altered(1 + 34 + 2 + 3), tpm.AKName(), attest.ErrQualifying},
		{"other device", altered(1 + 34 + 6 + 2 + 6), tpm.AKName(), attest.ErrQualifying},
		{"other boot", altered(1 + 34 + 6 + 9 + 2), tpm.AKName(), attest.ErrQualifying},
		{"other PCR values", altered(len(good) - 1), tpm.AKName(), attest.ErrPCRs},
		{"quote for a release", forRelease.Certificate(), release.AKName(), attest.ErrQualifying},
		{"capped, and extended again", newSession(t, recapped, "r07-u12").Certificate(), recapped.AKName(), linkcheck.ErrImage},
		{"version", altered(0), tpm.AKName(), linkcheck.ErrCertificate},
		{"cut", good[:len(good)-1], tpm.AKName(), linkcheck.ErrCertificate},
		{"goes on", append(bytes.Clone(good), 0), tpm.AKName(), linkcheck.ErrCertificate},
		{"region that no console should get", control, tpm.AKName(), linkcheck.ErrCertificate},
		{"empty", nil, tpm.AKName(), linkcheck.ErrCertificate},
	}
	if _, err := linkcheck.VerifyCertificate(good, tpm.AKName()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := linkcheck.VerifyCertificate(tt.certificate, tt.ak); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestCertifyReportsTheTPM(t *testing.T) {
	t.Parallel()
	broken := errors.New("TPM_RC_FAILURE")
	_, err := linkcheck.Certify("sea1", "r07-u12", newTPM(t).AKPublic(), func([]byte) (kekproto.Quote, error) { return kekproto.Quote{}, broken })
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want the TPM's error", err)
	}
	if _, err := linkcheck.Certify("sea1", "no name", nil, nil); err == nil {
		t.Error("certified a device without a name")
	}
}

// A TPM whose PCRs were set to zero without a reset certifies no booting image;
// what production says of itself stays what it is.
func TestCertifyAfterRestart(t *testing.T) {
	t.Parallel()
	sim := tpmtest.Start(t)
	keys, err := sim.TPM().CreateKeys()
	if err != nil {
		t.Fatal(err)
	}
	name, err := attest.Name(keys.AK)
	if err != nil {
		t.Fatal(err)
	}
	sim.SoftRestart()
	for _, capped := range []bool{false, true} {
		if capped {
			if err := sim.TPM().Extend(measure.CapPCR, measure.CapDigest()); err != nil {
				t.Fatal(err)
			}
		}
		s, err := certify(sim, keys.AK)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Wipe()
		var want error
		if !capped {
			want = attest.ErrRestarted
		}
		if _, err := linkcheck.VerifyCertificate(s.Certificate(), name); !errors.Is(err, want) {
			t.Errorf("capped %v: %v, want %v", capped, err, want)
		}
	}
}

package tpm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

func TestCreateKeys(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	if _, err := s.TPM().Keys(); err == nil {
		t.Error("a new TPM has keys")
	}
	first, err := s.TPM().CreateKeys()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := attest.ParseAK(first.AK); err != nil {
		t.Error(err)
	}
	again, err := s.Restart().CreateKeys()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("a second run makes others (-first +second):\n%s", diff)
	}
	if got, err := s.TPM().Keys(); err != nil || !cmp.Equal(got, first) {
		t.Errorf("Keys: got %v, %v", got, err)
	}
	if n := s.TPM().Commands(); n != 6 {
		t.Errorf("reading them twice took %d commands, want 6", n)
	}
}

// TestForeignKey: another maker's key at our handle is not taken for ours.
func TestForeignKey(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.RSASRKTemplate)}.Execute(s.Bus())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.EvictControl{
		Auth:             tpm2.TPMRHOwner,
		ObjectHandle:     &tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name},
		PersistentHandle: 0x81000001,
	}.Execute(s.Bus())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.TPM().CreateKeys(); !errors.Is(err, tpm.ErrState) {
		t.Errorf("got %v, want ErrState", err)
	}
}

func TestOwnedByAnother(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	_, err := tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.TPMRHOwner, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("theirs")},
	}.Execute(s.Bus())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.TPM().CreateKeys(); !errors.Is(err, tpm.ErrState) {
		t.Errorf("got %v, want ErrState", err)
	}
}

func TestSetAuths(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	keys, err := s.TPM().CreateKeys()
	if err != nil {
		t.Fatal(err)
	}
	auths := &tpm.Auths{Owner: nonZero(), Lockout: nonZero()}
	for range 2 { // a second run finds them set
		if err := s.TPM().SetAuths(auths, keys.SRK); err != nil {
			t.Fatal(err)
		}
	}
	want := tpm.State{OwnerAuth: true, LockoutAuth: true, ClearDisabled: true}
	if got, err := s.TPM().State(); err != nil || got != want {
		t.Errorf("State: got %+v, %v, want %+v", got, err, want)
	}
	other := &tpm.Auths{Owner: nonZero(), Lockout: auths.Lockout}
	if err := s.TPM().SetAuths(other, keys.SRK); !errors.Is(err, tpm.ErrAuth) {
		t.Errorf("another owner authorization: got %v, want ErrAuth", err)
	}
	holed := nonZero()
	holed.Expose()[7] = 0
	for name, a := range map[string]*tpm.Auths{
		"zero byte": {Owner: holed, Lockout: auths.Lockout},
		"short":     {Owner: auths.Owner, Lockout: secret.Random(20)},
		"wiped":     {Owner: auths.Owner, Lockout: nil},
	} {
		before := s.TPM().Commands()
		if err := s.TPM().SetAuths(a, keys.SRK); err == nil || s.TPM().Commands() != before {
			t.Errorf("%s: got %v after %d commands", name, err, s.TPM().Commands()-before)
		}
	}
}

func TestSessionWantsOurSRK(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	keys, err := s.TPM().CreateKeys()
	if err != nil {
		t.Fatal(err)
	}
	for name, area := range map[string][]byte{"AK": keys.AK, "EK": keys.EK, "none": nil, "cut": keys.SRK[:20]} {
		if _, err := s.TPM().StartPolicy(area, tpm.EncryptResponse); err == nil {
			t.Errorf("%s as SRK: a session starts", name)
		}
	}
}

func TestPCRs(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	x := s.TPM()
	digest := bytes.Repeat([]byte{3}, 32)
	if err := x.Extend(measure.SlicePCR, digest); err != nil {
		t.Fatal(err)
	}
	before := x.Commands()
	pcrs, err := x.ReadPCRs()
	if err != nil {
		t.Fatal(err)
	}
	if got := x.Commands() - before; got != 1 {
		t.Errorf("ReadPCRs took %d commands, want 1", got)
	}
	if len(pcrs) != len(measure.QuotePCRs()) || !bytes.Equal(pcrs[measure.SlicePCR], measure.SliceValue(digest)) {
		t.Errorf("got %x", pcrs)
	}
	for _, tt := range []struct{ pcr, size int }{{-1, 32}, {16, 32}, {23, 32}, {8, 20}, {8, 0}} {
		if err := x.Extend(tt.pcr, make([]byte, tt.size)); err == nil {
			t.Errorf("PCR %d extended with %d bytes", tt.pcr, tt.size)
		}
	}
}

func TestNoEKCertificate(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	if cert, err := s.TPM().EKCertificate(); err != nil || len(cert) == 0 {
		t.Fatalf("got %x, %v", cert, err)
	}
	platform := tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}
	s.Bus().Undefine(t, platform, 0x01C00002)
	if cert, err := s.TPM().EKCertificate(); err != nil || cert != nil {
		t.Errorf("without one: got %x, %v, want nothing", cert, err)
	}
	blank := tpm2.TPMSNVPublic{NVIndex: 0x01C00002, NameAlg: tpm2.TPMAlgSHA256, DataSize: 1000,
		Attributes: tpm2.TPMANV{PPWrite: true, AuthRead: true, NoDA: true, PlatformCreate: true, NT: tpm2.TPMNTOrdinary}}
	if _, err := (tpm2.NVDefineSpace{AuthHandle: platform, PublicInfo: tpm2.New2B(blank)}).Execute(s.Bus()); err != nil {
		t.Fatal(err)
	}
	if cert, err := s.TPM().EKCertificate(); err != nil || cert != nil {
		t.Errorf("with an index that was never written: got %x, %v, want nothing", cert, err)
	}
}

func TestOpenFails(t *testing.T) {
	t.Parallel()
	if _, err := tpm.Open(filepath.Join(t.TempDir(), "tpm0")); !errors.Is(err, tpm.ErrDevice) {
		t.Errorf("got %v, want ErrDevice", err)
	}
	file := filepath.Join(t.TempDir(), "slice.note")
	if err := os.WriteFile(file, []byte("a slice"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tpm.Open(file); !errors.Is(err, tpm.ErrDevice) {
		t.Errorf("a file: got %v, want ErrDevice", err)
	}
	s := tpmtest.Start(t)
	s.Bus().Cut(tpmtest.Cut{})
	if _, err := s.TPM().ReadPCRs(); !errors.Is(err, tpm.ErrDevice) {
		t.Errorf("dead bus: got %v, want ErrDevice", err)
	}
}

// busy answers the first n commands as a TPM does that cannot start them yet.
type busy struct {
	*tpmtest.Bus
	n  int
	rc tpm2.TPMRC
}

func (b *busy) Send(command []byte) ([]byte, error) {
	if b.n > 0 {
		b.n--
		return binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 10}, uint32(b.rc)), nil
	}
	return b.Bus.Send(command)
}

func TestBusyTPM(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	for _, rc := range []tpm2.TPMRC{tpm2.TPMRCRetry, tpm2.TPMRCTesting, tpm2.TPMRCYielded, tpm2.TPMRCNVRate} {
		x := tpm.New(&busy{Bus: s.Bus(), n: 3, rc: rc})
		if _, err := x.ReadPCRs(); err != nil {
			t.Errorf("after three times %v: %v", rc, err)
		}
		if got := x.Commands(); got != 4 {
			t.Errorf("%v: %d commands went out, want 4", rc, got)
		}
	}
}

// TestDevice drives the emulator through a descriptor that keeps message
// boundaries, as /dev/tpm0 does.
func TestDevice(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	bus, done := s.Bus(), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := unix.Read(fds[1], buf)
			if err != nil || n == 0 {
				return
			}
			rsp, err := bus.Send(buf[:n])
			if err != nil {
				return
			}
			if _, err := unix.Write(fds[1], rsp); err != nil {
				return
			}
		}
	}()
	x := tpm.OnDescriptor(fds[0])
	keys, err := x.CreateKeys()
	if err != nil {
		t.Error(err)
	}
	if _, err := x.Quote(make([]byte, 32), nil); err != nil {
		t.Error(err)
	}
	if _, err := attest.ParseAK(keys.AK); err != nil {
		t.Error(err)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	<-done
	if err := unix.Close(fds[1]); err != nil {
		t.Error(err)
	}
}

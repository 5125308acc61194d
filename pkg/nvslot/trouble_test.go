package nvslot_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

// platformEnable lets TPM2_Clear work again, as only firmware can:
// TPM2_ClearControl(platform, disable = NO) with an empty password.
func platformEnable(t *testing.T, bus *tpmtest.Bus) {
	t.Helper()
	enable := []byte{
		0x80, 0x02, 0, 0, 0, 28, 0, 0, 0x01, 0x27, 0x40, 0, 0, 0x0C,
		0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0, 0,
	}
	if rsp, err := bus.Send(enable); err != nil || !bytes.Equal(rsp[6:10], make([]byte, 4)) {
		t.Fatalf("ClearControl: %x, %v", rsp, err)
	}
}

// platformClear is what "clear TPM" in a firmware's setup does.
func platformClear(t *testing.T, bus *tpmtest.Bus) {
	t.Helper()
	platformEnable(t, bus)
	platform := tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}
	if _, err := (tpm2.Clear{AuthHandle: platform}).Execute(bus); err != nil {
		t.Fatal(err)
	}
}

func TestClearedTPM(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	write(t, r.boot(t), r.policy, record(t, 1))
	platformClear(t, r.Bus())
	s := r.boot(t)
	want, err := attest.Name(r.keys.AK)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.TPM().CheckAK(want); !errors.Is(err, tpm.ErrCleared) {
		t.Errorf("CheckAK: got %v, want ErrCleared", err)
	}
	if err := s.Prepare(r.policy); !errors.Is(err, tpm.ErrCleared) {
		t.Errorf("Prepare: got %v, want ErrCleared", err)
	}
	// It can be provisioned anew.
	keys, err := r.TPM().CreateKeys()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.TPM().SetAuths(r.auths, keys.SRK); err != nil {
		t.Error(err)
	}
}

func TestOtherTPM(t *testing.T) {
	t.Parallel()
	mine, other := provisioned(t), provisioned(t)
	rec := record(t, 1)
	write(t, mine.boot(t), mine.policy, rec)
	name, err := attest.Name(mine.keys.AK)
	if err != nil {
		t.Fatal(err)
	}
	if err := mine.TPM().CheckAK(name); err != nil {
		t.Errorf("own AK: %v", err)
	}
	if err := other.TPM().CheckAK(name); !errors.Is(err, tpm.ErrOtherTPM) {
		t.Errorf("other TPM's AK: got %v, want ErrOtherTPM", err)
	}
	// Sessions are salted to the slice's SRK, so the other TPM cannot answer,
	// even where its slots have our guards.
	same := *other
	same.key = mine.key
	index := tpm2.TPMHandle(nvslot.Index(1))
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(same.Bus())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(same.auths.Owner.Expose())},
		NVIndex:    tpm2.NamedHandle{Handle: index, Name: pub.NVName},
	}.Execute(same.Bus())
	if err != nil {
		t.Fatal(err)
	}
	if err := (&nvslot.Slots{TPM: same.TPM(), SRKPublic: same.keys.SRK, PolicyKey: &same.key.PublicKey}).Define(same.auths); !errors.Is(err, nvslot.ErrForeign) {
		t.Errorf("slot 0 of another policy key: got %v, want ErrForeign", err)
	}
	own := same.slots()
	public, err := own.Public(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := same.TPM().NVDefine(public, same.auths.Owner, same.keys.SRK); err != nil {
		t.Fatal(err)
	}
	write(t, same.boot(t), policyFor(t, same.TPM(), same.key), rec)
	foreign := same.boot(t)
	foreign.SRKPublic = mine.keys.SRK
	err = foreign.Prepare(policyFor(t, same.TPM(), same.key))
	if err == nil {
		_, err = foreign.Read(1)
	}
	if !errors.Is(err, tpm.ErrOtherTPM) {
		t.Errorf("session salted to the SRK of the slice: got %v, want ErrOtherTPM", err)
	}
}

func TestNVFull(t *testing.T) {
	t.Parallel()
	s := tpmtest.Start(t)
	x := s.TPM()
	keys, err := x.CreateKeys()
	if err != nil {
		t.Fatal(err)
	}
	auths := &tpm.Auths{Owner: auth(), Lockout: auth()}
	if err := x.SetAuths(auths, keys.SRK); err != nil {
		t.Fatal(err)
	}
	for i := range 200 { // fill the NV space
		pub := &tpm2.TPMSNVPublic{
			NVIndex: tpm2.TPMHandle(0x01500000 + i), NameAlg: tpm2.TPMAlgSHA256, DataSize: 2048,
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, NT: tpm2.TPMNTOrdinary},
		}
		if err = x.NVDefine(pub, auths.Owner, keys.SRK); err != nil {
			break
		}
	}
	if !errors.Is(err, tpm.ErrNVFull) {
		t.Fatalf("got %v, want ErrNVFull", err)
	}
	for i := range 200 { // and its rest
		pub := &tpm2.TPMSNVPublic{
			NVIndex: tpm2.TPMHandle(0x01510000 + i), NameAlg: tpm2.TPMAlgSHA256, DataSize: 64,
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, NT: tpm2.TPMNTOrdinary},
		}
		if x.NVDefine(pub, auths.Owner, keys.SRK) != nil {
			break
		}
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	slots := &nvslot.Slots{TPM: x, SRKPublic: keys.SRK, PolicyKey: &key.PublicKey}
	if err := slots.Define(auths); !errors.Is(err, tpm.ErrNVFull) {
		t.Errorf("Define: got %v, want ErrNVFull", err)
	}
}

// TestLockoutStillBoots: whoever locks the TPM out by wrong authorizations does
// not keep the device from booting.
func TestLockoutStillBoots(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	want := record(t, 1)
	write(t, r.boot(t), r.policy, want)
	wrong := &tpm.Auths{Owner: r.auths.Owner, Lockout: auth()}
	platformEnable(t, r.Bus()) // so that SetAuths needs the lockout authorization again
	if err := r.TPM().SetAuths(wrong, r.keys.SRK); !errors.Is(err, tpm.ErrAuth) {
		t.Fatalf("wrong lockout authorization: got %v, want ErrAuth", err)
	}
	if err := r.TPM().SetAuths(r.auths, r.keys.SRK); !errors.Is(err, tpm.ErrLockout) {
		t.Fatalf("after it: got %v, want ErrLockout", err)
	}
	s := r.slots()
	if err := s.Prepare(r.policy); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(1); err != nil || !bytes.Equal(got, want) {
		t.Errorf("in lockout: got %x, %v", got, err)
	}
	if _, err := r.TPM().Quote(make([]byte, 32), nil); err != nil {
		t.Errorf("in lockout: %v", err)
	}
}

func TestBlankSlot(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	s := r.boot(t)
	if err := s.Prepare(r.policy); err != nil {
		t.Fatal(err)
	}
	before := len(r.Bus().Commands())
	if _, err := s.Read(1); !errors.Is(err, tpm.ErrNVBlank) {
		t.Errorf("got %v, want ErrNVBlank", err)
	}
	reads := 0
	for _, c := range r.Bus().Commands()[before:] {
		if c == uint32(tpm2.TPMCCNVRead) {
			reads++
		}
	}
	if reads != 1 { // what no other session would change is not tried again
		t.Errorf("read %d times", reads)
	}
	if err := s.Write(make([]byte, keyblob.Size)); !errors.Is(err, keyblob.ErrBlank) {
		t.Errorf("writing no record: got %v, want ErrBlank", err)
	}
	if _, err := s.Read(2); err == nil {
		t.Error("slot 2 reads")
	}
}

// TestWeakenedSlot: an index at our place whose guards are weaker is not
// written to, and not believed.
func TestWeakenedSlot(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	index := tpm2.TPMHandle(nvslot.Index(1))
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(r.Bus())
	if err != nil {
		t.Fatal(err)
	}
	owner := func() tpm2.AuthHandle {
		return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(r.auths.Owner.Expose())}
	}
	_, err = tpm2.NVUndefineSpace{AuthHandle: owner(), NVIndex: tpm2.NamedHandle{Handle: index, Name: pub.NVName}}.Execute(r.Bus())
	if err != nil {
		t.Fatal(err)
	}
	weak, err := r.slots().Public(1)
	if err != nil {
		t.Fatal(err)
	}
	weak.Attributes.OwnerRead = true
	if err := r.TPM().NVDefine(weak, r.auths.Owner, r.keys.SRK); err != nil {
		t.Fatal(err)
	}
	s := r.boot(t)
	if err := s.Prepare(r.policy); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(record(t, 1)); !errors.Is(err, nvslot.ErrForeign) {
		t.Errorf("Write: got %v, want ErrForeign", err)
	}
	if _, err := s.Read(1); !errors.Is(err, nvslot.ErrForeign) {
		t.Errorf("Read: got %v, want ErrForeign", err)
	}
	if err := s.Define(r.auths); !errors.Is(err, nvslot.ErrForeign) {
		t.Errorf("Define: got %v, want ErrForeign", err)
	}
}

// TestUnprepared: without a policy nothing is tried, and there are two slots only.
func TestUnprepared(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	s := r.boot(t)
	write(t, s, r.policy, record(t, 1))
	s.Close()
	s = r.slots()
	for what, err := range map[string]error{
		"read":  second(s.Read(1)),
		"write": s.Write(record(t, 1)),
		"lock":  s.LockBoth(),
	} {
		if err == nil || !strings.Contains(err.Error(), "Prepare was not called") {
			t.Errorf("%s: got %v", what, err)
		}
	}
	for _, slot := range []int{-1, nvslot.Count} {
		if _, err := s.Public(slot); err == nil {
			t.Errorf("there is a slot %d", slot)
		}
	}
}

func second[T any](_ T, err error) error { return err }

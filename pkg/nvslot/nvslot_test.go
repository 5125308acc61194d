package nvslot_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

// imageDigest stands for what firmware measures of a boot image.
var imageDigest = bytes.Repeat([]byte{0xA1}, measure.Size)

// rig is a provisioned TPM and what the factory knows of it.
type rig struct {
	*tpmtest.Sim
	keys   *tpm.Keys
	auths  *tpm.Auths
	key    *rsa.PrivateKey
	policy *pcrpolicy.Policy // for the image of boot
}

// boot plays the firmware: it measures the image, so that the image PCRs hold
// what the policy wants.
func (r *rig) boot(t testing.TB) *nvslot.Slots {
	t.Helper()
	x := r.Restart()
	for _, pcr := range []int{4, 9} {
		if err := x.Extend(pcr, imageDigest); err != nil {
			t.Fatal(err)
		}
	}
	return r.slots()
}

func (r *rig) slots() *nvslot.Slots {
	return &nvslot.Slots{TPM: r.TPM(), SRKPublic: r.keys.SRK, PolicyKey: &r.key.PublicKey}
}

// policyFor signs a policy for a TPM's current PCRs.
func policyFor(t testing.TB, x *tpm.TPM, key *rsa.PrivateKey) *pcrpolicy.Policy {
	t.Helper()
	pcrs, err := x.ReadPCRs()
	if err != nil {
		t.Fatal(err)
	}
	m := &measure.Manifest{
		Type: measure.ManifestType, Image: "landfall-server", Version: "1",
		Role: measure.RoleServer, Form: measure.FormEFIKernel, PCRs: map[int]measure.Hex{},
	}
	for _, n := range measure.ImagePCRs() {
		m.PCRs[n] = pcrs[n]
	}
	doc, err := pcrpolicy.Sign(key, m)
	if err != nil {
		t.Fatal(err)
	}
	p, err := pcrpolicy.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// auth is a random authorization without zero bytes.
func auth() *secret.Bytes {
	s := secret.Random(tpm.AuthSize)
	for i, b := range s.Expose() {
		s.Expose()[i] = max(b, 1)
	}
	return s
}

func provisioned(t testing.TB) *rig {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Sim: tpmtest.Start(t), key: key, auths: &tpm.Auths{Owner: auth(), Lockout: auth()}}
	if r.keys, err = r.TPM().CreateKeys(); err != nil {
		t.Fatal(err)
	}
	if err := r.TPM().SetAuths(r.auths, r.keys.SRK); err != nil {
		t.Fatal(err)
	}
	if err := r.slots().Define(r.auths); err != nil {
		t.Fatal(err)
	}
	s := r.boot(t)
	r.policy = policyFor(t, s.TPM, key)
	return r
}

func record(t testing.TB, generation uint32) []byte {
	t.Helper()
	kek, dek := secret.Random(keyblob.KeySize), secret.Random(keyblob.KeySize)
	defer kek.Wipe()
	defer dek.Wipe()
	b, err := keyblob.Wrap(kek, dek, keyblob.Ident{Device: "r07-u12", Generation: generation})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, s *nvslot.Slots, p *pcrpolicy.Policy, rec []byte) {
	t.Helper()
	if err := s.Prepare(p); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(rec); err != nil {
		t.Fatal(err)
	}
}

func TestWriteReadBothSlots(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	s := r.boot(t)
	odd, even := record(t, 1), record(t, 2)
	write(t, s, r.policy, odd)
	write(t, s, r.policy, even)
	s = r.boot(t)
	if err := s.Prepare(r.policy); err != nil {
		t.Fatal(err)
	}
	for slot, want := range map[int][]byte{1: odd, 0: even} {
		if got, err := s.Read(slot); err != nil || !bytes.Equal(got, want) {
			t.Errorf("slot %d: got %x, %v, want %x", slot, got, err, want)
		}
	}
	s.Close()
	if n := openHandles(t, r.TPM()); n != 0 {
		t.Errorf("%d handles left open", n)
	}
}

// openHandles counts transient objects and loaded sessions.
func openHandles(t *testing.T, x *tpm.TPM) (n int) {
	t.Helper()
	before := x.Commands()
	if err := x.Flush(); err != nil {
		t.Fatal(err)
	}
	return x.Commands() - before - 2 // two GetCapability, the rest are flushes
}

// TestPublic pins what docs/spec/tpm.md says; devices in the field have it.
func TestPublic(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := pcrpolicy.AuthorizePolicy(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for slot, index := range []uint32{0x01804C30, 0x01804C31} {
		pub, err := (&nvslot.Slots{PolicyKey: &key.PublicKey}).Public(slot)
		if err != nil {
			t.Fatal(err)
		}
		want := binary.BigEndian.AppendUint32(nil, index)
		want = append(want, 0x00, 0x0B, 0x82, 0x08, 0x00, 0x08, 0x00, 0x20)
		want = append(append(want, policy...), 0x00, 0x80)
		if got := tpm2.Marshal(pub); !bytes.Equal(got, want) {
			t.Errorf("slot %d: got %x, want %x", slot, got, want)
		}
	}
}

// TestBootSequence is all that uinit asks of the TPM until its disks are open.
func TestBootSequence(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	want := record(t, 1)
	write(t, r.boot(t), r.policy, want)
	s := r.boot(t)
	x := r.TPM()
	start := len(r.Bus().Commands())
	if err := x.Extend(measure.SlicePCR, bytes.Repeat([]byte{7}, measure.Size)); err != nil {
		t.Fatal(err)
	}
	pcrs, err := x.ReadPCRs()
	if err != nil {
		t.Fatal(err)
	}
	p, err := pcrpolicy.Select([]*pcrpolicy.Policy{r.policy}, pcrs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.AKName(); err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(p); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Quote(make([]byte, 32), pcrs); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(1); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %x, %v", got, err)
	}
	if got := len(r.Bus().Commands()) - start; got != 10 {
		t.Errorf("boot took %d TPM commands, want 10: %x", got, r.Bus().Commands()[start:])
	}
}

func TestOtherPCRs(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	write(t, r.boot(t), r.policy, record(t, 1))
	for _, pcr := range measure.ImagePCRs() {
		s := r.boot(t)
		if err := r.TPM().Extend(pcr, imageDigest); err != nil {
			t.Fatal(err)
		}
		if err := s.Prepare(r.policy); !errors.Is(err, tpm.ErrPolicy) {
			t.Errorf("PCR %d changed: Prepare gives %v, want ErrPolicy", pcr, err)
		}
		if _, err := s.Read(1); !errors.Is(err, tpm.ErrPolicy) {
			t.Errorf("PCR %d changed: Read gives %v, want ErrPolicy", pcr, err)
		}
		if err := s.Write(record(t, 1)); !errors.Is(err, tpm.ErrPolicy) {
			t.Errorf("PCR %d changed: Write gives %v, want ErrPolicy", pcr, err)
		}
		if n := openHandles(t, r.TPM()); n != 0 {
			t.Errorf("PCR %d changed: %d handles left open", pcr, n)
		}
	}
}

func TestSlicePCRIsNotInThePolicy(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	want := record(t, 1)
	s := r.boot(t)
	write(t, s, r.policy, want)
	if err := s.Prepare(r.policy); err != nil {
		t.Fatal(err)
	}
	// The extend kills the prepared session; Read starts another.
	if err := r.TPM().Extend(measure.SlicePCR, imageDigest); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(1); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %x, %v", got, err)
	}
}

func TestOtherPolicyKey(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	s := r.boot(t)
	write(t, s, r.policy, record(t, 1))
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	forged := policyFor(t, r.TPM(), other)
	if err := s.Prepare(forged); !errors.Is(err, tpm.ErrPolicy) {
		t.Errorf("policy signed by another key: got %v, want ErrPolicy", err)
	}
	// With the attacker's own key loaded the session is satisfied, but it is not
	// the session that the slot wants.
	s = r.slots()
	s.PolicyKey = &other.PublicKey
	if err := s.Prepare(forged); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(1); !errors.Is(err, nvslot.ErrForeign) {
		t.Errorf("slot of another policy key: got %v, want ErrForeign", err)
	}
}

func TestAfterLockAndCap(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	want := record(t, 1)
	write(t, r.boot(t), r.policy, want) // slot 0 stays unwritten: it must lock as well
	s := r.boot(t)
	if err := s.Prepare(r.policy); err != nil {
		t.Fatal(err)
	}
	if err := s.LockBoth(); err != nil {
		t.Fatal(err)
	}
	if err := s.LockBoth(); err != nil {
		t.Errorf("locking twice: %v", err)
	}
	for slot := range nvslot.Count {
		if _, err := s.Read(slot); !errors.Is(err, tpm.ErrNVLocked) {
			t.Errorf("slot %d after LockBoth: got %v, want ErrNVLocked", slot, err)
		}
	}
	if err := r.TPM().Extend(measure.CapPCR, measure.CapDigest()); err != nil {
		t.Fatal(err)
	}
	s = r.slots()
	if err := s.Prepare(r.policy); !errors.Is(err, tpm.ErrPolicy) {
		t.Errorf("after the cap: Prepare gives %v, want ErrPolicy", err)
	}
	for generation := range uint32(2) {
		if err := s.Write(record(t, generation+1)); !errors.Is(err, tpm.ErrPolicy) {
			t.Errorf("after the cap: Write gives %v, want ErrPolicy", err)
		}
	}
	s = r.boot(t)
	if err := s.Prepare(r.policy); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(1); err != nil || !bytes.Equal(got, want) {
		t.Errorf("after a restart: got %x, %v", got, err)
	}
}

// TestProductionRoot: nobody without the owner authorization can undefine a
// slot, nor read or write it with the owner's or its own password.
func TestProductionRoot(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	s := r.boot(t)
	write(t, s, r.policy, record(t, 1))
	s.Close()
	index := tpm2.TPMHandle(nvslot.Index(1))
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(r.Bus())
	if err != nil {
		t.Fatal(err)
	}
	slot := tpm2.NamedHandle{Handle: index, Name: pub.NVName}
	for _, h := range []tpm2.TPMHandle{tpm2.TPMRHOwner, tpm2.TPMRHPlatform, index} {
		auth := tpm2.AuthHandle{Handle: h, Auth: tpm2.PasswordAuth(nil)}
		if h == index {
			auth.Name = pub.NVName
		}
		if _, err := (tpm2.NVRead{AuthHandle: auth, NVIndex: slot, Size: keyblob.Size}).Execute(r.Bus()); err == nil {
			t.Errorf("NV_Read authorized by %#x works", uint32(h))
		}
		data := tpm2.TPM2BMaxNVBuffer{Buffer: make([]byte, keyblob.Size)}
		if _, err := (tpm2.NVWrite{AuthHandle: auth, NVIndex: slot, Data: data}).Execute(r.Bus()); err == nil {
			t.Errorf("NV_Write authorized by %#x works", uint32(h))
		}
	}
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	if _, err := (tpm2.NVUndefineSpace{AuthHandle: owner, NVIndex: slot}).Execute(r.Bus()); !errors.Is(err, tpm2.TPMRCBadAuth) {
		t.Errorf("undefine without the owner authorization: got %v, want TPM_RC_BAD_AUTH", err)
	}
	// Not even with the right authorization; and without it less so.
	for _, auth := range [][]byte{r.auths.Lockout.Expose(), nil} {
		lockout := tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(auth)}
		if _, err := (tpm2.Clear{AuthHandle: lockout}).Execute(r.Bus()); !errors.Is(err, tpm2.TPMRCDisabled) && (auth != nil || !errors.Is(err, tpm2.TPMRCAuthFail)) {
			t.Errorf("clear: got %v, want a refusal", err)
		}
	}
}

func TestRereadAfterSessionLoss(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	write(t, r.boot(t), r.policy, record(t, 1))
	s := r.boot(t)
	if err := s.Prepare(r.policy); err != nil {
		t.Fatal(err)
	}
	for range 3 { // as a hold does, that keeps retrying
		if _, err := s.Read(1); err != nil {
			t.Fatal(err)
		}
		if err := s.Prepare(r.policy); err != nil {
			t.Fatal(err)
		}
	}
}

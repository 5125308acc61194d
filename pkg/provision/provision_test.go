package provision_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"testing"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/provision"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

const deviceID = "r07-u12"

// fleet does what key servers do for a device in the factory, without the
// network between: it checks the EK certificate, activates a credential,
// verifies quotes, and keeps what it made.
type fleet struct {
	sim     *tpmtest.Sim
	token   []byte // nil once used
	ak      *attest.AK
	owner   []byte
	lockout []byte
	keks    map[uint32]kekclient.KEK
	lost    int // this many answers are lost after they took effect
}

func newFleet(s *tpmtest.Sim) *fleet {
	return &fleet{
		sim: s, token: []byte("one use"), keks: map[uint32]kekclient.KEK{},
		owner: auth().Expose(), lockout: auth().Expose(),
	}
}

var errLost = errors.New("answer lost")

func (f *fleet) answer() error {
	if f.lost > 0 {
		f.lost--
		return errLost
	}
	return nil
}

func (f *fleet) Enroll(_ context.Context, e kekclient.Evidence, activate kekclient.Activate) (*kekproto.Enrolled, error) {
	if f.token == nil || !bytes.Equal(f.token, e.Token.Expose()) {
		return nil, errors.New("token was used")
	}
	if err := attest.CheckEKCert(e.EKCert, e.EKPublic, f.sim.Roots, f.sim.Intermediates...); err != nil {
		return nil, err
	}
	ak, err := attest.ParseAK(e.AKPublic)
	if err != nil {
		return nil, err
	}
	want := secret.Random(attest.CredentialSize)
	defer want.Wipe()
	credential, encrypted, err := attest.MakeCredential(e.EKPublic, ak.Name(), want.Expose())
	if err != nil {
		return nil, err
	}
	got, err := activate(credential, encrypted)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(got, want.Expose()) {
		return nil, errors.New("credential does not match")
	}
	f.token, f.ak = nil, ak
	return &kekproto.Enrolled{Device: deviceID, AKName: ak.Name()}, f.answer()
}

// attested has the device quote over fresh data.
func (f *fleet) attested(q kekclient.Quoter, op kekproto.Op) error {
	if f.ak == nil {
		return errors.New("device is not enrolled")
	}
	exporter := make([]byte, kekproto.ExporterLength)
	_, _ = rand.Read(exporter)
	qualifying := attest.Qualify(op.Label(), exporter, []byte("{}"))
	quote, err := q.Quote(qualifying)
	if err != nil {
		return err
	}
	if _, err := attest.Verify(quote, f.ak, qualifying); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

func (f *fleet) Auths(_ context.Context, q kekclient.Quoter) (owner, lockout *secret.Bytes, err error) {
	if err := errors.Join(f.attested(q, kekproto.OpAuths), f.answer()); err != nil {
		return nil, nil, err
	}
	return secret.Take(bytes.Clone(f.owner)), secret.Take(bytes.Clone(f.lockout)), nil
}

func (f *fleet) CreateKEK(_ context.Context, q kekclient.Quoter, generation uint32) (*kekclient.KEK, error) {
	if err := f.attested(q, kekproto.OpKEK); err != nil {
		return nil, err
	}
	k, ok := f.keks[generation]
	if !ok {
		k = kekclient.KEK{Key: secret.Random(keyblob.KeySize), Generation: generation}
		_, _ = rand.Read(k.ID[:])
		f.keks[generation] = k
	}
	return &kekclient.KEK{Key: k.Key.Clone(), ID: k.ID, Generation: k.Generation}, f.answer()
}

func auth() *secret.Bytes {
	s := secret.Random(tpm.AuthSize)
	for i, b := range s.Expose() {
		s.Expose()[i] = max(b, 1)
	}
	return s
}

// factory is a device, its fleet and the keys of its region.
type factory struct {
	*tpmtest.Sim
	fleet  *fleet
	key    *rsa.PrivateKey
	policy *pcrpolicy.Policy
}

func newFactory(t *testing.T) *factory {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := tpmtest.Start(t)
	f := &factory{Sim: s, fleet: newFleet(s), key: key}
	f.boot(t)
	pcrs, err := f.TPM().ReadPCRs()
	if err != nil {
		t.Fatal(err)
	}
	m := &measure.Manifest{
		Type: measure.ManifestType, Image: "landfall-factory", Version: "1",
		Role: measure.RoleFactory, Form: measure.FormEFIKernel, PCRs: map[int]measure.Hex{},
	}
	for _, n := range measure.ImagePCRs() {
		m.PCRs[n] = pcrs[n]
	}
	doc, err := pcrpolicy.Sign(key, m)
	if err != nil {
		t.Fatal(err)
	}
	if f.policy, err = pcrpolicy.Parse(doc); err != nil {
		t.Fatal(err)
	}
	return f
}

// boot power-cycles and measures the factory image.
func (f *factory) boot(t *testing.T) *provision.Device {
	t.Helper()
	x := f.Restart()
	for _, pcr := range []int{4, 9} {
		if err := x.Extend(pcr, bytes.Repeat([]byte{0xFA}, measure.Size)); err != nil {
			t.Fatal(err)
		}
	}
	return &provision.Device{TPM: x, Fleet: f.fleet, PolicyKey: &f.key.PublicKey, Logf: t.Logf}
}

// run is what the factory image does with the TPM, from its start.
func (f *factory) run(ctx context.Context, d *provision.Device, inUse bool) (*provision.Key, error) {
	keys, err := d.Provision(ctx, secret.Take([]byte("one use")))
	if err != nil {
		return nil, err
	}
	slots := &nvslot.Slots{TPM: d.TPM, SRKPublic: keys.SRK, PolicyKey: d.PolicyKey}
	defer slots.Close()
	if err := slots.Prepare(f.policy); err != nil {
		return nil, err
	}
	return d.SealKeys(ctx, slots, deviceID, provision.FirstGeneration, inUse)
}

// record reads slot 1 as it is, nil when it was never written or not defined.
func (f *factory) record(t *testing.T) []byte {
	t.Helper()
	d := f.boot(t)
	keys, err := d.TPM.Keys()
	if errors.Is(err, tpm.ErrCleared) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	slots := &nvslot.Slots{TPM: d.TPM, SRKPublic: keys.SRK, PolicyKey: d.PolicyKey}
	defer slots.Close()
	if err := slots.Prepare(f.policy); err != nil {
		t.Fatal(err)
	}
	rec, err := slots.Read(1)
	if err != nil && !errors.Is(err, tpm.ErrNVBlank) && !errors.Is(err, tpm.ErrCleared) {
		t.Fatal(err)
	}
	return rec
}

func TestProvisionAndSeal(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	first, err := f.run(t.Context(), f.boot(t), false)
	if err != nil {
		t.Fatal(err)
	}
	state, err := f.TPM().State()
	if err != nil {
		t.Fatal(err)
	}
	if !state.OwnerAuth || !state.LockoutAuth || !state.ClearDisabled || state.EndorsementAuth {
		t.Errorf("state after provisioning: %+v", state)
	}
	// A rerun gives the same key, by normal unwrapping.
	for _, inUse := range []bool{false, true} {
		again, err := f.run(t.Context(), f.boot(t), inUse)
		if err != nil {
			t.Fatal(err)
		}
		if !again.DEK.Equal(first.DEK) {
			t.Errorf("rerun with inUse=%v made another DEK", inUse)
		}
	}
}

func TestSealKeysRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		inUse bool
		spoil func(t *testing.T, f *factory)
		want  error
	}{
		{"disks in use, slot blank", true, func(*testing.T, *factory) {}, provision.ErrInUse},
		{"disks in use, record damaged", true, damage, provision.ErrInUse},
		{"record damaged, nothing encrypted", false, damage, nil},
		{"fleet lost the KEK", false, func(t *testing.T, f *factory) {
			seal(t, f)
			delete(f.fleet.keks, 1)
		}, keyblob.ErrMismatch},
		{"fleet has another KEK by that ID", false, func(t *testing.T, f *factory) {
			seal(t, f)
			k := f.fleet.keks[1]
			k.Key = secret.Random(keyblob.KeySize)
			f.fleet.keks[1] = k
		}, keyblob.ErrAuth},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFactory(t)
			if _, err := f.boot(t).Provision(t.Context(), secret.Take([]byte("one use"))); err != nil {
				t.Fatal(err)
			}
			tt.spoil(t, f)
			before := f.record(t)
			_, err := f.run(t.Context(), f.boot(t), tt.inUse)
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if after := f.record(t); err != nil && !bytes.Equal(before, after) {
				t.Errorf("refused, but wrote the slot")
			}
		})
	}
}

func seal(t *testing.T, f *factory) {
	t.Helper()
	if _, err := f.run(t.Context(), f.boot(t), false); err != nil {
		t.Fatal(err)
	}
}

// damage flips a bit of the record in NV, as a dying cell would.
func damage(t *testing.T, f *factory) {
	t.Helper()
	seal(t, f)
	rec := f.record(t)
	rec[50] ^= 1
	keys, err := f.TPM().Keys()
	if err != nil {
		t.Fatal(err)
	}
	slots := &nvslot.Slots{TPM: f.TPM(), SRKPublic: keys.SRK, PolicyKey: &f.key.PublicKey}
	pub, err := slots.Public(1)
	if err != nil {
		t.Fatal(err)
	}
	pub.Attributes.Written = true
	area, err := pcrpolicy.KeyPublic(slots.PolicyKey)
	if err != nil {
		t.Fatal(err)
	}
	approval, err := f.TPM().Approve(area, f.policy)
	if err != nil {
		t.Fatal(err)
	}
	session, err := f.TPM().StartPolicy(keys.SRK, tpm.EncryptCommand)
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Satisfy(approval, measure.ImagePCRs()); err != nil {
		t.Fatal(err)
	}
	if err := session.NVWrite(pub, rec); err != nil {
		t.Fatal(err)
	}
}

// TestPowerCuts cuts the power between any two commands, before and after the
// TPM executed the next one, then runs the whole factory step again.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	whole := newFactory(t)
	d := whole.boot(t)
	if _, err := whole.run(t.Context(), d, false); err != nil {
		t.Fatal(err)
	}
	total := len(whole.Bus().Commands()) - 2 // the firmware's extends
	base := newFactory(t)
	base.PowerOff()
	t.Logf("%d commands", total)
	for after := range total {
		for _, executed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d executed=%v", after, executed), func(t *testing.T) {
				t.Parallel()
				cutAndRerun(t, base, tpmtest.Cut{After: after, Executed: executed}, total)
			})
		}
	}
}

// cutAndRerun works on a copy of base, which is switched off.
func cutAndRerun(t *testing.T, base *factory, cut tpmtest.Cut, total int) {
	t.Helper()
	f := *base
	f.Sim = base.Clone(t)
	f.fleet = newFleet(base.Sim)
	d := f.boot(t)
	d.Logf = nil
	f.Bus().Cut(cut)
	if _, err := f.run(t.Context(), d, false); !errors.Is(err, tpmtest.ErrCut) {
		// The last commands only flush: their failure hides no key.
		if err != nil || cut.After < total-4 {
			t.Fatalf("got %v, want ErrCut", err)
		}
	}
	before := f.record(t)
	d = f.boot(t)
	d.Logf = nil
	key, err := f.run(t.Context(), d, false)
	if err != nil {
		t.Fatalf("rerun: %v", err)
	}
	key.DEK.Wipe()
	if after := f.record(t); before != nil && !bytes.Equal(before, after) {
		t.Error("the rerun replaced a key that was safe in NV")
	}
}

// TestLostAnswers: the fleet did its part, but the device never heard of it.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for lost := 1; lost <= 3; lost++ {
		f := newFactory(t)
		f.fleet.lost = lost
		if _, err := f.run(t.Context(), f.boot(t), false); lost > 1 && !errors.Is(err, errLost) {
			t.Errorf("%d answers lost: got %v", lost, err)
		}
		f.fleet.lost = 0
		if _, err := f.run(t.Context(), f.boot(t), false); err != nil {
			t.Errorf("%d answers lost, rerun: %v", lost, err)
		}
	}
}

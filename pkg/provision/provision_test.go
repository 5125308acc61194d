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
	loses   string // the request whose connection breaks
	does    bool   // and only after the fleet has done its part
}

func newFleet(s *tpmtest.Sim) *fleet {
	return &fleet{
		sim: s, token: []byte("one use"), keks: map[uint32]kekclient.KEK{},
		owner: auth().Expose(), lockout: auth().Expose(),
	}
}

var errLost = errors.New("answer lost")

// reaches tells whether a request gets to the fleet, and answer whether the
// answer gets back.
func (f *fleet) reaches(op string) error {
	if f.loses == op && !f.does {
		return errLost
	}
	return nil
}

func (f *fleet) answer(op string) error {
	if f.loses == op {
		return errLost
	}
	return nil
}

func (f *fleet) Enroll(_ context.Context, e kekclient.Evidence, activate kekclient.Activate) (*kekproto.Enrolled, error) {
	if err := f.reaches("enroll"); err != nil {
		return nil, err
	}
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
	return &kekproto.Enrolled{Device: deviceID, AKName: ak.Name()}, f.answer("enroll")
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
	if err := errors.Join(f.reaches("auths"), f.attested(q, kekproto.OpAuths), f.answer("auths")); err != nil {
		return nil, nil, err
	}
	return secret.Take(bytes.Clone(f.owner)), secret.Take(bytes.Clone(f.lockout)), nil
}

func (f *fleet) CreateKEK(_ context.Context, q kekclient.Quoter, generation uint32) (*kekclient.KEK, error) {
	if err := errors.Join(f.reaches("kek"), f.attested(q, kekproto.OpKEK)); err != nil {
		return nil, err
	}
	k, ok := f.keks[generation]
	if !ok {
		k = kekclient.KEK{Key: secret.Random(keyblob.KeySize), Generation: generation}
		_, _ = rand.Read(k.ID[:])
		f.keks[generation] = k
	}
	return &kekclient.KEK{Key: k.Key.Clone(), ID: k.ID, Generation: k.Generation}, f.answer("kek")
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
	policy *pcrpolicy.Policy // of the factory image
	server *pcrpolicy.Policy // of the image that boots after transit
}

// What stands for the images in the image PCRs.
const (
	factoryImage = 0xFA
	serverImage  = 0x5E
)

func newFactory(t *testing.T) *factory {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := tpmtest.Start(t)
	f := &factory{Sim: s, fleet: newFleet(s), key: key}
	f.policy, f.server = f.sign(t, measure.RoleFactory, factoryImage), f.sign(t, measure.RoleServer, serverImage)
	return f
}

// sign makes the PCR policy of an image.
func (f *factory) sign(t *testing.T, role measure.Role, image byte) *pcrpolicy.Policy {
	t.Helper()
	pcrs, err := f.start(t, image).ReadPCRs()
	if err != nil {
		t.Fatal(err)
	}
	m := &measure.Manifest{
		Type: measure.ManifestType, Image: "landfall-" + string(role), Version: "1",
		Role: role, Form: measure.FormEFIKernel, PCRs: map[int]measure.Hex{},
	}
	for _, n := range measure.ImagePCRs() {
		m.PCRs[n] = pcrs[n]
	}
	doc, err := pcrpolicy.Sign(f.key, m)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := pcrpolicy.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

// start power-cycles and measures an image.
func (f *factory) start(t *testing.T, image byte) *tpm.TPM {
	t.Helper()
	x := f.Restart()
	for _, pcr := range []int{4, 9} {
		if err := x.Extend(pcr, bytes.Repeat([]byte{image}, measure.Size)); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

// boot starts the factory image.
func (f *factory) boot(t *testing.T) *provision.Device {
	t.Helper()
	return f.device(t, f.start(t, factoryImage))
}

func (f *factory) device(t *testing.T, x *tpm.TPM) *provision.Device {
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
	f.overwrite(t, rec)
}

// overwrite writes a record into slot 1.
func (f *factory) overwrite(t *testing.T, rec []byte) {
	t.Helper()
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
	defer approval.Release()
	session, err := f.TPM().StartPolicy(keys.SRK, tpm.EncryptCommand)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := session.Satisfy(approval, measure.ImagePCRs()); err != nil {
		t.Fatal(err)
	}
	if err := session.NVWrite(pub, rec); err != nil {
		t.Fatal(err)
	}
}

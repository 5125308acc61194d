package tpm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"testing"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/provision"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

// keeper is a fleet that trusts everybody: here the listener on the bus is the
// one to be kept out.
type keeper struct {
	credential, owner, lockout *secret.Bytes
	kek                        kekclient.KEK
}

func (k *keeper) Enroll(_ context.Context, e kekclient.Evidence, activate kekclient.Activate) (*kekproto.Enrolled, error) {
	ak, err := attest.ParseAK(e.AKPublic)
	if err != nil {
		return nil, err
	}
	credential, encrypted, err := attest.MakeCredential(e.EKPublic, ak.Name(), k.credential.Expose())
	if err != nil {
		return nil, err
	}
	_, err = activate(credential, encrypted)
	return &kekproto.Enrolled{}, err
}

func (k *keeper) Auths(context.Context, kekclient.Quoter) (owner, lockout *secret.Bytes, err error) {
	return k.owner.Clone(), k.lockout.Clone(), nil
}

func (k *keeper) CreateKEK(context.Context, kekclient.Quoter, uint32) (*kekclient.KEK, error) {
	return &kekclient.KEK{Key: k.kek.Key.Clone(), ID: k.kek.ID, Generation: k.kek.Generation}, nil
}

func nonZero() *secret.Bytes {
	s := secret.Random(tpm.AuthSize)
	for i, b := range s.Expose() {
		s.Expose()[i] = max(b, 1)
	}
	return s
}

// wiretap is a device, its fleet and everything that crossed the TPM's bus.
type wiretap struct {
	*tpmtest.Sim
	keeper    *keeper
	key       *rsa.PrivateKey
	encrypted bool
	heard     []byte
}

// boot power-cycles the device and measures an image.
func (w *wiretap) boot(t *testing.T) *provision.Device {
	t.Helper()
	w.heard = append(w.heard, w.Bus().Captured()...)
	x := w.Restart()
	for _, pcr := range []int{4, 9} {
		if err := x.Extend(pcr, bytes.Repeat([]byte{0x5E}, measure.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if !w.encrypted {
		x.WithoutEncryption()
	}
	return &provision.Device{TPM: x, Fleet: w.keeper, PolicyKey: &w.key.PublicKey}
}

// life provisions, seals and boots the device; it returns the DEK, the wrapped
// one and the AK's public key.
func (w *wiretap) life(t *testing.T) (dek *secret.Bytes, record, akPoint []byte) {
	t.Helper()
	d := w.boot(t)
	keys, err := d.Provision(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	slots := &nvslot.Slots{TPM: d.TPM, SRKPublic: keys.SRK, PolicyKey: d.PolicyKey}
	policy := currentPolicy(t, d.TPM, w.key)
	if err := slots.Prepare(policy); err != nil {
		t.Fatal(err)
	}
	sealed, err := d.SealKeys(t.Context(), slots, "r07-u12", 1, false)
	if err != nil {
		t.Fatal(err)
	}
	d = w.boot(t)
	slots = &nvslot.Slots{TPM: d.TPM, SRKPublic: keys.SRK, PolicyKey: d.PolicyKey}
	if err := slots.Prepare(policy); err != nil {
		t.Fatal(err)
	}
	if record, err = slots.Read(1); err != nil {
		t.Fatal(err)
	}
	if err := slots.LockBoth(); err != nil {
		t.Fatal(err)
	}
	w.heard = append(w.heard, w.Bus().Captured()...)
	return sealed.DEK, record, keys.AK[len(keys.AK)-32:]
}

// heard runs provisioning, sealing and a boot, and tells which secrets crossed
// the bus.
func heard(t *testing.T, encrypted bool) (found []string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	k := &keeper{
		credential: secret.Random(attest.CredentialSize), owner: nonZero(), lockout: nonZero(),
		kek: kekclient.KEK{Key: secret.Random(keyblob.KeySize), ID: [16]byte{1}, Generation: 1},
	}
	w := &wiretap{Sim: tpmtest.Start(t), keeper: k, key: key, encrypted: encrypted}
	dek, record, akPoint := w.life(t)
	passphrase, err := luks2.Passphrase(dek, "2f6a1c44-0c3b-5d0e-9c5a-3b1f0f1f7a11")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(w.heard, akPoint) {
		t.Error("the capture does not even hold the AK's public key")
	}
	for _, x := range []struct {
		name  string
		bytes []byte
	}{
		{"DEK", dek.Expose()},
		{"KEK", k.kek.Key.Expose()},
		{"passphrase", passphrase.Expose()},
		{"owner authorization", k.owner.Expose()},
		{"lockout authorization", k.lockout.Expose()},
		{"credential", k.credential.Expose()},
		{"wrapped DEK", record[40:88]},
	} {
		if bytes.Contains(w.heard, x.bytes) {
			found = append(found, x.name)
		}
	}
	return found
}

func currentPolicy(t *testing.T, x *tpm.TPM, key *rsa.PrivateKey) *pcrpolicy.Policy {
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

// TestBusCapture listens to everything between provisioning and an open disk.
// Without session encryption the same ear hears four secrets: the test can fail.
func TestBusCapture(t *testing.T) {
	t.Parallel()
	if found := heard(t, true); len(found) > 0 {
		t.Errorf("in the clear on the bus: %q", found)
	}
	found := heard(t, false)
	want := map[string]bool{"owner authorization": true, "lockout authorization": true, "credential": true, "wrapped DEK": true}
	for _, name := range found {
		if !want[name] {
			t.Errorf("%s is on the bus", name)
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("without session encryption the %s was not heard: this test would miss it", name)
	}
}

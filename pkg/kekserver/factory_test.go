package kekserver_test

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/provision"
	"github.com/landfall-project/landfall/pkg/secret"
)

// A device is provisioned and sealed by the real commands' package against a
// real member, twice, and then opens its DEK with the released KEK as uinit
// does.
func TestProvisionSealRelease(t *testing.T) {
	ctx := context.Background()
	m := newMachine(t)
	f := newFleet(t, fleetdir.Options{EKPolicy: "required", EKRoots: m.roots()})
	key := f.policyKey()
	token := f.addDevice()
	f.addImage(measure.RoleFactory, measure.FormEFIKernel, m.boot(factoryImage, nil))
	d := &provision.Device{TPM: m.sim.TPM(), Fleet: f.client(), PolicyKey: &key.PublicKey}
	for range 2 {
		if _, err := d.Provision(ctx, token.Clone()); err != nil {
			t.Fatal(err)
		}
	}
	slice := f.addSlice(1)
	server := m.boot(serverImage, slice)
	f.addImage(measure.RoleServer, measure.FormEFIKernel, server)

	factory := m.boot(factoryImage, slice)
	var deks []*secret.Bytes
	for range 2 {
		slots := m.slots(key, measure.RoleFactory, factory)
		made, err := (&provision.Device{TPM: m.sim.TPM(), Fleet: f.client(), PolicyKey: &key.PublicKey}).SealKeys(ctx, slots, testDevice, 1, false)
		if err != nil {
			t.Fatal(err)
		}
		slots.Close()
		deks = append(deks, made.DEK)
	}
	if !deks[0].Equal(deks[1]) {
		t.Fatal("sealing again made another DEK")
	}
	if err := f.client().Sealed(ctx, m, 1); err != nil {
		t.Fatal(err)
	}

	server = m.boot(serverImage, slice)
	slots := m.slots(key, measure.RoleServer, server)
	defer slots.Close()
	r, err := f.client().Release(ctx, m, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	record, err := slots.Read(keyblob.Slot(r.KEK.Generation))
	if err != nil {
		t.Fatal(err)
	}
	dek, err := keyblob.Unwrap(r.KEK.Key, record, keyblob.Ident{Device: testDevice, KEKID: r.KEK.ID, Generation: r.KEK.Generation})
	if err != nil || !dek.Equal(deks[0]) {
		t.Errorf("the released KEK does not open the sealed DEK: %v", err)
	}
}

func (f *region) policyKey() *rsa.PrivateKey {
	f.t.Helper()
	block, _ := pem.Decode(f.file("offline/policy.key"))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		f.t.Fatal(err)
	}
	return key.(*rsa.PrivateKey)
}

// slots prepares the NV slots for an image with these values.
func (m *machine) slots(key *rsa.PrivateKey, role measure.Role, pcrs map[int][]byte) *nvslot.Slots {
	m.t.Helper()
	man := &measure.Manifest{Type: measure.ManifestType, Image: "landfall-" + string(role), Version: "1", Role: role, Form: measure.FormEFIKernel, PCRs: map[int]measure.Hex{}}
	for _, n := range measure.ImagePCRs() {
		man.PCRs[n] = pcrs[n]
	}
	doc, err := pcrpolicy.Sign(key, man)
	if err != nil {
		m.t.Fatal(err)
	}
	policy, err := pcrpolicy.Parse(doc)
	if err != nil {
		m.t.Fatal(err)
	}
	s := &nvslot.Slots{TPM: m.sim.TPM(), SRKPublic: m.keys.SRK, PolicyKey: &key.PublicKey}
	if err := s.Prepare(policy); err != nil {
		m.t.Fatal(err)
	}
	return s
}

package main

import (
	"bytes"
	"crypto/rsa"
	"net/http"
	"testing"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

// sealedTPM is a real TPM that an older image has sealed: a record in slot 1,
// which a policy for other values opens.
type sealedTPM struct {
	*tpmtest.Sim
	key      *rsa.PrivateKey
	kek, dek *secret.Bytes
	slice    *snapshot.Slice
}

func newSealedTPM(t *testing.T) *sealedTPM {
	t.Helper()
	s := &sealedTPM{Sim: tpmtest.Start(t), key: rsaKey(t), kek: secret.Random(32), dek: secret.Random(32), slice: testSlice(t)}
	keys, err := s.TPM().CreateKeys()
	if err != nil {
		t.Fatal(err)
	}
	auths := &tpm.Auths{Owner: secret.Take(bytes.Repeat([]byte{1}, tpm.AuthSize)), Lockout: secret.Take(bytes.Repeat([]byte{2}, tpm.AuthSize))}
	if err := s.TPM().SetAuths(auths, keys.SRK); err != nil {
		t.Fatal(err)
	}
	s.slice.Device.SRKPublic = keys.SRK
	if s.slice.Device.AKName, err = attest.Name(keys.AK); err != nil {
		t.Fatal(err)
	}
	pcrs := s.measure(t, 1)
	slots := &nvslot.Slots{TPM: s.TPM(), SRKPublic: keys.SRK, PolicyKey: &s.key.PublicKey}
	if err := slots.Define(auths); err != nil {
		t.Fatal(err)
	}
	policy, err := pcrpolicy.Parse(signPolicy(t, s.key, "old", pcrs))
	if err != nil {
		t.Fatal(err)
	}
	if err := slots.Prepare(policy); err != nil {
		t.Fatal(err)
	}
	id := keyblob.Ident{Device: s.slice.Device.ID, KEKID: [16]byte(bytes.Repeat([]byte{7}, 16)), Generation: 1}
	record, err := keyblob.Wrap(s.kek, s.dek, id)
	if err != nil {
		t.Fatal(err)
	}
	if err := slots.Write(record); err != nil {
		t.Fatal(err)
	}
	return s
}

// measure plays the firmware that starts an image.
func (s *sealedTPM) measure(t *testing.T, image byte) map[int][]byte {
	t.Helper()
	x := s.Restart()
	for _, pcr := range []int{4, 9} {
		if err := x.Extend(pcr, bytes.Repeat([]byte{image}, measure.Size)); err != nil {
			t.Fatal(err)
		}
	}
	pcrs, err := x.ReadPCRs()
	if err != nil {
		t.Fatal(err)
	}
	return pcrs
}

// boot goes through the steps tpm, key and unwrap on an image, with the
// policies of the partitions and a fleet that answers with one of its own.
func (s *sealedTPM) boot(t *testing.T, number byte, local [][]byte, fleet []byte) (dek *secret.Bytes, asked bool, x *trust, err error) {
	t.Helper()
	pcrs := s.measure(t, number)
	client := member(t, func(w http.ResponseWriter, r *http.Request) {
		req := release(t, w, r, s.kek, fleet)
		asked = asked || req.NeedPolicy
	})
	c := &carried{Slice: s.slice, digest: [32]byte{1}}
	c.Fleet = snapshot.Fleet{CA: client.CA, Members: client.Members}
	m, _ := testMachine(t, "/")
	c.policies = m.readPolicies(&snapshot.Part{Policies: local}, nil)
	x = &trust{TPM: s.TPM(), pcrs: pcrs}
	if err := x.identify(m, c, &image{policy: &s.key.PublicKey}); err != nil {
		t.Fatal(err)
	}
	rel, err := m.release(x, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if rel != nil {
			rel.Close()
		}
	}()
	dek, err = m.unwrap(x, c.Device.ID, &rel, nil)
	return dek, asked, x, err
}

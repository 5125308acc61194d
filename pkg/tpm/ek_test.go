package tpm_test

import (
	"bytes"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

// store writes an NV index that everybody may read.
func store(t *testing.T, bus *tpmtest.Bus, index tpm2.TPMHandle, data []byte) {
	t.Helper()
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	_, err := tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(data)),
		Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, NoDA: true, NT: tpm2.TPMNTOrdinary},
	})}.Execute(bus)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(bus)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVWrite{AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: index, Name: pub.NVName},
		Data: tpm2.TPM2BMaxNVBuffer{Buffer: data}}.Execute(bus)
	if err != nil {
		t.Fatal(err)
	}
}

// primary returns the public area of the EK by a template.
func primary(t *testing.T, bus *tpmtest.Bus, template tpm2.TPMTPublic) []byte {
	t.Helper()
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(bus)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}).Execute(bus); err != nil {
		t.Fatal(err)
	}
	return rsp.OutPublic.Bytes()
}

// unique is the usual EK template with a unique field that begins so.
func unique(begin string) tpm2.TPMTPublic {
	template, field := tpm2.RSAEKTemplate, make([]byte, 256)
	copy(field, begin)
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: field})
	return template
}

// TestEKOfItsMaker: the EK is the one that its maker certified, where nonce and
// template are stored (TCG EK Credential Profile 2.5, "TPMT_PUBLIC Calculation").
func TestEKOfItsMaker(t *testing.T) {
	t.Parallel()
	signing := tpm2.RSAEKTemplate
	signing.ObjectAttributes.UserWithAuth = true
	tests := []struct {
		name     string
		nonce    []byte
		template *tpm2.TPMTPublic
		want     tpm2.TPMTPublic
	}{
		{"neither", nil, nil, tpm2.RSAEKTemplate},
		{"nonce", []byte("a nonce of the maker"), nil, unique("a nonce of the maker")},
		{"template", nil, ptr(unique("another")), unique("another")},
		{"both", []byte("a nonce"), ptr(unique("")), unique("a nonce")},
		{"template of another kind", nil, &signing, tpm2.RSAEKTemplate},
		{"longer than a key", bytes.Repeat([]byte{1}, 257), nil, tpm2.RSAEKTemplate},
	}
	blank := tpmtest.Start(t)
	rsp, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(0x81010001)}.Execute(blank.Bus())
	if err == nil { // swtpm_setup persists the EK, which few makers do
		_, err = tpm2.EvictControl{Auth: tpm2.TPMRHOwner, ObjectHandle: &tpm2.NamedHandle{Handle: 0x81010001, Name: rsp.Name}, PersistentHandle: 0x81010001}.Execute(blank.Bus())
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range tests {
		s := blank.Clone(t)
		if tt.nonce != nil {
			store(t, s.Bus(), 0x01C00003, tt.nonce)
		}
		if tt.template != nil {
			store(t, s.Bus(), 0x01C00004, tpm2.Marshal(*tt.template))
		}
		keys, err := s.TPM().CreateKeys()
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if want := primary(t, s.Bus(), tt.want); !bytes.Equal(keys.EK, want) {
			t.Errorf("%s: got another EK\n%x\nwant\n%x", tt.name, keys.EK, want)
		}
	}
}

func ptr[T any](v T) *T { return &v }

package tpmtest

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// What follows brings a TPM into states that seal may find it in.

// raw sends a command that authorizes its first handle with a password, and
// returns the response code (TPM 2.0 Part 1, 18).
func (b *Bus) raw(t testing.TB, code uint32, handles []tpm2.TPMHandle, password string, parms []byte) tpm2.TPMRC {
	t.Helper()
	auth := binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRSPW))
	auth = append(auth, 0, 0, 0) // no nonce, no attributes
	auth = binary.BigEndian.AppendUint16(auth, uint16(len(password)))
	auth = append(auth, password...)
	cmd := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTSessions))
	cmd = binary.BigEndian.AppendUint32(cmd, uint32(14+4*len(handles)+len(auth)+len(parms)))
	cmd = binary.BigEndian.AppendUint32(cmd, code)
	for _, h := range handles {
		cmd = binary.BigEndian.AppendUint32(cmd, uint32(h))
	}
	cmd = binary.BigEndian.AppendUint32(cmd, uint32(len(auth)))
	rsp, err := b.Send(append(append(cmd, auth...), parms...))
	if err != nil {
		t.Fatal(err)
	}
	return tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:]))
}

// LockoutParameters sets how many failures are lockout, and the seconds after
// which one is forgiven and the lockout authorization comes back. The lockout
// authorization must still be empty.
func (b *Bus) LockoutParameters(t testing.TB, most, interval, recovery uint32) {
	t.Helper()
	var parms []byte
	for _, v := range []uint32{most, interval, recovery} {
		parms = binary.BigEndian.AppendUint32(parms, v)
	}
	const dictionaryAttackParameters = 0x13A
	if rc := b.raw(t, dictionaryAttackParameters, []tpm2.TPMHandle{tpm2.TPMRHLockout}, "", parms); rc != 0 {
		t.Fatalf("DictionaryAttackParameters: %v", rc)
	}
}

// WrongLockoutAuth tries a wrong lockout authorization once, which locks it.
func (b *Bus) WrongLockoutAuth(t testing.TB) {
	t.Helper()
	const dictionaryAttackLockReset = 0x139
	if rc := b.raw(t, dictionaryAttackLockReset, []tpm2.TPMHandle{tpm2.TPMRHLockout}, "wrong", nil); rc == 0 {
		t.Fatal("a wrong lockout authorization passes")
	}
}

// ChangeAuth sets the authorization of a hierarchy.
func (b *Bus) ChangeAuth(t testing.TB, hierarchy tpm2.TPMHandle, from, to string) {
	t.Helper()
	const hierarchyChangeAuth = 0x129
	parms := append(binary.BigEndian.AppendUint16(nil, uint16(len(to))), to...)
	if rc := b.raw(t, hierarchyChangeAuth, []tpm2.TPMHandle{hierarchy}, from, parms); rc != 0 {
		t.Fatalf("HierarchyChangeAuth: %v", rc)
	}
}

// LockOut fails authorizations until the TPM is in dictionary-attack lockout.
// The owner's authorization must still be empty.
func (b *Bus) LockOut(t testing.TB) {
	t.Helper()
	const index, nvRead = 0x01500F00, 0x14E
	pub := tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8,
		Attributes: tpm2.TPMANV{AuthRead: true, AuthWrite: true, NT: tpm2.TPMNTOrdinary}}
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		Auth:       tpm2.TPM2BAuth{Buffer: []byte("right")}, PublicInfo: tpm2.New2B(pub),
	}.Execute(b)
	if err != nil {
		t.Fatal(err)
	}
	for range 64 {
		if b.raw(t, nvRead, []tpm2.TPMHandle{index, index}, "wrong", []byte{0, 8, 0, 0}) == tpm2.TPMRCLockout {
			return
		}
	}
	t.Fatal("64 failed authorizations are no lockout")
}

// Fill defines NV indices of a size, from one on, until there is no room.
func (b *Bus) Fill(t testing.TB, index uint32, size uint16) (defined int) {
	t.Helper()
	for ; defined < 300; defined++ {
		pub := tpm2.TPMSNVPublic{NVIndex: tpm2.TPMHandle(index) + tpm2.TPMHandle(defined), NameAlg: tpm2.TPMAlgSHA256, DataSize: size,
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, NoDA: true, NT: tpm2.TPMNTOrdinary}}
		_, err := tpm2.NVDefineSpace{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, PublicInfo: tpm2.New2B(pub),
		}.Execute(b)
		if err != nil {
			return defined
		}
	}
	t.Fatal("the TPM is never full")
	return 0
}

// Undefine removes an NV index, as tpm2_nvundefine does.
func (b *Bus) Undefine(t testing.TB, by tpm2.AuthHandle, index uint32) {
	t.Helper()
	pub, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(b)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: by,
		NVIndex:    tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: pub.NVName},
	}.Execute(b)
	if err != nil {
		t.Fatal(err)
	}
}

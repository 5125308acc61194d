package tpm

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/secret"
)

// NVPublic returns the public area of an NV index as the TPM tells it;
// ErrCleared when there is none.
func (t *TPM) NVPublic(index uint32) (*tpm2.TPMSNVPublic, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(t.wire)
	if err != nil {
		return nil, wrap(err, "read public area of NV index %#x", index)
	}
	pub, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("public area of NV index %#x: %w", index, err)
	}
	return pub, nil
}

// NVDefine makes an NV index with an empty authorization of its own (TPM 2.0
// Part 3, 31.3). The owner authorization never travels: it keys an HMAC in a
// session salted to srk.
func (t *TPM) NVDefine(pub *tpm2.TPMSNVPublic, owner *secret.Bytes, srk []byte) error {
	auth, err := t.hmac(srk, owner)
	if err != nil {
		return err
	}
	_, err = tpm2.NVDefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: auth},
		PublicInfo: tpm2.New2B(*pub),
	}.Execute(t.wire)
	return wrap(err, "define NV index %#x", uint32(pub.NVIndex))
}

// handles names an index twice, as authorization and as subject. A wrong name
// fails: the session's HMAC covers it.
func (p *PolicySession) handles(pub *tpm2.TPMSNVPublic) (tpm2.AuthHandle, tpm2.NamedHandle, error) {
	name, err := tpm2.NVName(pub)
	if err != nil {
		return tpm2.AuthHandle{}, tpm2.NamedHandle{}, fmt.Errorf("name of NV index %#x: %w", uint32(pub.NVIndex), err)
	}
	return tpm2.AuthHandle{Handle: pub.NVIndex, Name: *name, Auth: p.s},
		tpm2.NamedHandle{Handle: pub.NVIndex, Name: *name}, nil
}

// NVRead reads a whole index whose public area is known, encrypted on the bus
// (TPM 2.0 Part 3, 31.13).
func (p *PolicySession) NVRead(pub *tpm2.TPMSNVPublic) ([]byte, error) {
	auth, index, err := p.handles(pub)
	if err != nil {
		return nil, err
	}
	rsp, err := tpm2.NVRead{AuthHandle: auth, NVIndex: index, Size: pub.DataSize}.Execute(p.t.wire)
	if err != nil {
		return nil, wrap(err, "read NV index %#x", uint32(pub.NVIndex))
	}
	return rsp.Data.Buffer, nil
}

// NVWrite writes a whole index, encrypted on the bus (TPM 2.0 Part 3, 31.7).
func (p *PolicySession) NVWrite(pub *tpm2.TPMSNVPublic, data []byte) error {
	auth, index, err := p.handles(pub)
	if err != nil {
		return err
	}
	_, err = tpm2.NVWrite{AuthHandle: auth, NVIndex: index, Data: tpm2.TPM2BMaxNVBuffer{Buffer: data}}.Execute(p.t.wire)
	return wrap(err, "write NV index %#x", uint32(pub.NVIndex))
}

// NVReadLock locks an index against reading until the TPM restarts (TPM 2.0
// Part 3, 31.14).
func (p *PolicySession) NVReadLock(pub *tpm2.TPMSNVPublic) error {
	auth, index, err := p.handles(pub)
	if err != nil {
		return err
	}
	_, err = tpm2.NVReadLock{AuthHandle: auth, NVIndex: index}.Execute(p.t.wire)
	return wrap(err, "read-lock NV index %#x", uint32(pub.NVIndex))
}

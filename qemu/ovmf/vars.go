// Package ovmf edits the file that OVMF keeps its variables in, so that a test
// can choose whom the firmware trusts under Secure Boot without booting a
// machine to enrol keys.
//
// Layout: a firmware volume (UEFI Platform Initialization 1.7, volume 3, 3.2.1)
// with one store of authenticated variables, as EDK II writes it
// (MdeModulePkg/Include/Guid/VariableFormat.h); everything is little endian.
package ovmf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"
)

// SnakeoilVars is Debian's variable store with Secure Boot on and one public
// test key in PK, KEK and db. SnakeoilKey and SnakeoilCert are that key, whose
// passphrase is SnakeoilPass.
const (
	SnakeoilVars = "/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd"
	SnakeoilKey  = "/usr/share/ovmf/PkKek-1-snakeoil.key"
	SnakeoilCert = "/usr/share/ovmf/PkKek-1-snakeoil.pem"
	SnakeoilPass = "snakeoil"
)

// ErrStore says that the file is not a variable store of the expected form, or
// has no room left.
var ErrStore = errors.New("not a variable store of OVMF")

const (
	volumeMagic   = 0x28 // "_FVH"
	volumeHeader  = 0x30 // u16, length of the volume's header
	storeHeader   = 28   // GUID, u32 size, format, state, …
	storeSize     = 16
	variableStart = 0x55aa
	offState      = 2
	offNameSize   = 36 // u32
	offDataSize   = 40 // u32
	variableHead  = 60 // with the vendor's GUID
	stateAdded    = 0x3f
	stateDeleted  = 0xfd // a bit to clear
	align         = 4
)

// certX509 and owner are GUIDs as EFI_SIGNATURE_LIST stores them (UEFI 2.10,
// 32.4.1); the owner is nobody.
var (
	certX509 = [16]byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	owner    = [16]byte{'l', 'a', 'n', 'd', 'f', 'a', 'l', 'l'}
)

// Trust returns a copy of a variable store whose db holds further certificates
// (DER).
func Trust(store []byte, certs ...[]byte) ([]byte, error) {
	out := bytes.Clone(store)
	old, free, end, err := find(out, "db")
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	v := out[old:]
	name := le.Uint32(v[offNameSize:])
	size := variableHead + int(name) + int(le.Uint32(v[offDataSize:]))
	db := bytes.Clone(v[:size])
	for _, cert := range certs {
		db = append(db, certX509[:]...)
		db = le.AppendUint32(db, uint32(28+16+len(cert))) // this list
		db = le.AppendUint32(db, 0)                       // no header
		db = le.AppendUint32(db, uint32(16+len(cert)))    // each signature
		db = append(append(db, owner[:]...), cert...)
	}
	le.PutUint32(db[offDataSize:], uint32(len(db)-variableHead-int(name)))
	if free+len(db) > end {
		return nil, fmt.Errorf("%w: no room for %d bytes", ErrStore, len(db))
	}
	v[offState] &= stateDeleted
	copy(out[free:], db)
	return out, nil
}

// find returns where the valid variable of a name is, where the next one would
// go, and where the store ends.
func find(b []byte, name string) (at, free, end int, err error) {
	le := binary.LittleEndian
	if len(b) < 0x100 || string(b[volumeMagic:volumeMagic+4]) != "_FVH" {
		return 0, 0, 0, ErrStore
	}
	start := int(le.Uint16(b[volumeHeader:]))
	if start+storeHeader > len(b) {
		return 0, 0, 0, ErrStore
	}
	end = start + int(le.Uint32(b[start+storeSize:]))
	if end > len(b) {
		return 0, 0, 0, ErrStore
	}
	at = -1
	for free = start + storeHeader; free+variableHead <= end && le.Uint16(b[free:]) == variableStart; {
		v := b[free:end]
		n, d := int(le.Uint32(v[offNameSize:])), int(le.Uint32(v[offDataSize:]))
		if n > len(v) || d > len(v) || variableHead+n+d > len(v) {
			return 0, 0, 0, fmt.Errorf("%w: a variable runs past its end", ErrStore)
		}
		if v[offState] == stateAdded && decode(v[variableHead:variableHead+n]) == name {
			at = free
		}
		free += (variableHead + n + d + align - 1) / align * align
	}
	if at < 0 {
		return 0, 0, 0, fmt.Errorf("%w: no variable %q", ErrStore, name)
	}
	return at, free, end, nil
}

func decode(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	if n := len(u); n > 0 && u[n-1] == 0 {
		u = u[:n-1]
	}
	return string(utf16.Decode(u))
}

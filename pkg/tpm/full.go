package tpm

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// NVIndex is what takes room in a TPM's NV memory.
type NVIndex struct {
	Index    uint32
	Size     int  // bytes of data; a TPM adds some dozens of its own
	Platform bool // made by firmware, which alone can undefine it
	Meaning  string
}

// String is a line for people.
func (n NVIndex) String() string {
	by := "made by an owner"
	if n.Platform {
		by = "made by the firmware"
	}
	return fmt.Sprintf("%#08x  %5d bytes  %s: %s", n.Index, n.Size, by, n.Meaning)
}

// firstSlot and the one after it are pkg/nvslot's.
const firstSlot = 0x01804C30

// maxIndices bounds how many are asked for.
const maxIndices = 512

// NVIndices returns all NV indices, the largest first.
func (t *TPM) NVIndices() ([]NVIndex, error) {
	handles, err := t.handles(uint32(tpm2.TPMHTNVIndex) << 24)
	if err != nil {
		return nil, err
	}
	var all []NVIndex
	for _, h := range handles {
		pub, err := t.NVPublic(h)
		if err != nil {
			return nil, err
		}
		all = append(all, NVIndex{h, int(pub.DataSize), pub.Attributes.PlatformCreate, nvMeaning(h)})
	}
	slices.SortStableFunc(all, func(a, b NVIndex) int { return cmp.Compare(b.Size, a.Size) })
	return all, nil
}

// handles lists the handles of a kind, which its first byte names (TPM 2.0 Part
// 2, 7.2).
func (t *TPM) handles(first uint32) (all []uint32, err error) {
	for kind := first >> 24; len(all) < maxIndices; {
		data, err := t.capability(tpm2.TPMCapHandles, first, maxIndices)
		if err != nil {
			return nil, err
		}
		list, err := data.Handles()
		if err != nil {
			return nil, fmt.Errorf("list of handles: %w: %w", ErrDevice, err)
		}
		before := len(all)
		for _, h := range list.Handle {
			if uint32(h)>>24 == kind && uint32(h) >= first {
				all, first = append(all, uint32(h)), uint32(h)+1
			}
		}
		if len(all) == before {
			break
		}
	}
	return all, nil
}

// nvMeaning says what an index is for, by convention: TCG EK Credential Profile
// 2.4, 2.2.1.4 and 2.2.1.5; Registry of Reserved TPM 2.0 Handles 1.1, 2.2; UAPI
// Group, Linux TPM 2.0 NV Index Registry. Nothing enforces it.
func nvMeaning(index uint32) string {
	for _, r := range []struct {
		first, last uint32
		meaning     string
	}{
		{firstSlot, firstSlot + 1, "a slot of this system"},
		{0x01C00002, 0x01C00002, "EK certificate, RSA-2048"},
		{0x01C00003, 0x01C00004, "nonce or template of that EK"},
		{0x01C0000A, 0x01C0000A, "EK certificate, P-256"},
		{0x01C0000B, 0x01C0000C, "nonce or template of that EK"},
		{0x01C00012, 0x01C0007F, "EK certificate, nonce or template of another algorithm"},
		{0x01C00100, 0x01C001FF, "certificates of the EK's issuers"},
		{0x01C08000, 0x01C0FFFF, "platform certificate"},
		{0x01C10000, 0x01C1FFFF, "a component's maker, such as Intel TXT"},
		{0x01D10200, 0x01D10224, "systemd"},
		{0x01D10225, 0x01D105FF, "a Linux project"},
		{0x01000000, 0x013FFFFF, "the TPM's maker"},
		{0x01400000, 0x017FFFFF, "the platform's maker"},
		{0x01800000, 0x01BFFFFF, "an owner's software"},
		{0x01C00000, 0x01FFFFFF, "assigned by the TCG"},
	} {
		if index >= r.first && index <= r.last {
			return r.meaning
		}
	}
	return "unknown"
}

// FullError is ErrNVFull with what takes the room.
type FullError struct {
	Indices []NVIndex // the largest first
	Keys    []uint32  // persistent objects of others; a TPM does not tell their sizes
	Err     error
}

// Unwrap returns the error that was met.
func (e *FullError) Unwrap() error { return e.Err }

// mostLines bounds the list that people read.
const mostLines = 16

// Error implements error: a line, and one for each index.
func (e *FullError) Error() string {
	var b strings.Builder
	total := 0
	for _, n := range e.Indices {
		total += n.Size
	}
	fmt.Fprintf(&b, "%v; %d NV indices take %d bytes:", e.Err, len(e.Indices), total)
	for _, n := range e.Indices[:min(len(e.Indices), mostLines)] {
		fmt.Fprintf(&b, "\n  %v", n)
		total -= n.Size
	}
	if more := len(e.Indices) - mostLines; more > 0 {
		fmt.Fprintf(&b, "\n  and %d smaller ones, %d bytes", more, total)
	}
	for _, h := range e.Keys[:min(len(e.Keys), mostLines)] {
		fmt.Fprintf(&b, "\n  %#08x  a key that somebody made persistent", h)
	}
	return b.String()
}

// Removable returns the indices that an owner made, which are the ones that can
// be undefined without firmware, and not ours.
func (e *FullError) Removable() (all []NVIndex) {
	for _, n := range e.Indices {
		if !n.Platform && n.Index != firstSlot && n.Index != firstSlot+1 {
			all = append(all, n)
		}
	}
	return all
}

func (t *TPM) full(err error) (*FullError, error) {
	e := &FullError{Err: err}
	var failed error
	if e.Indices, failed = t.NVIndices(); failed != nil {
		return nil, failed
	}
	keys, failed := t.handles(uint32(tpm2.TPMHTPersistent) << 24)
	if failed != nil {
		return nil, failed
	}
	for _, h := range keys {
		if ours := tpm2.TPMHandle(h); ours != ekHandle && ours != srkHandle && ours != akHandle {
			e.Keys = append(e.Keys, h)
		}
	}
	return e, nil
}

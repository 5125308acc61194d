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

// by says who made it, for people.
func (n NVIndex) by() string {
	if n.Platform {
		return "made by the firmware"
	}
	return "made by an owner"
}

// firstSlot and the one after it are pkg/nvslot's.
const firstSlot = 0x01804C30

// maxIndices bounds how many are asked for.
const maxIndices = 512

// NVIndices returns all NV indices in their order.
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
// 2.4, 2.2.1.4 and 2.2.1.5; Registry of Reserved TPM 2.0 Handles 1.1; UAPI Group,
// Linux TPM 2.0 NV Index Registry. Nothing enforces it.
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
	Indices []NVIndex
	Keys    []uint32 // persistent objects that are not ours; a TPM does not tell their sizes
	Err     error
}

// Unwrap returns the error that was met.
func (e *FullError) Unwrap() error { return e.Err }

// mostLines bounds the list that people read.
const mostLines = 16

// run is a row of indices that were made by the same one for the same.
type run struct {
	first NVIndex
	n     int
	bytes int
}

func (r run) String() string {
	last, many := "", "1 index"
	if r.n > 1 {
		last, many = fmt.Sprintf(" to %#08x", r.first.Index+uint32(r.n)-1), fmt.Sprintf("%d indices", r.n)
	}
	return fmt.Sprintf("%#08x%s: %d bytes in %s, %s: %s", r.first.Index, last, r.bytes, many, r.first.by(), r.first.Meaning)
}

// runs returns the rows, the largest first.
func (e *FullError) runs() (all []run) {
	for _, n := range e.Indices {
		if i := len(all) - 1; i >= 0 && n.Index == all[i].first.Index+uint32(all[i].n) &&
			n.Platform == all[i].first.Platform && n.Meaning == all[i].first.Meaning {
			all[i].n, all[i].bytes = all[i].n+1, all[i].bytes+n.Size
			continue
		}
		all = append(all, run{n, 1, n.Size})
	}
	slices.SortStableFunc(all, func(a, b run) int { return cmp.Compare(b.bytes, a.bytes) })
	return all
}

// Error implements error: a line, and one for each row of indices.
func (e *FullError) Error() string {
	var b strings.Builder
	rows, total := e.runs(), 0
	for _, r := range rows {
		total += r.bytes
	}
	fmt.Fprintf(&b, "%v; %d NV indices take %d bytes:", e.Err, len(e.Indices), total)
	for _, r := range rows[:min(len(rows), mostLines)] {
		fmt.Fprintf(&b, "\n  %v", r)
		total -= r.bytes
	}
	if more := len(rows) - mostLines; more > 0 {
		fmt.Fprintf(&b, "\n  and %d smaller ones, %d bytes", more, total)
	}
	for _, h := range e.Keys[:min(len(e.Keys), mostLines)] {
		fmt.Fprintf(&b, "\n  %#08x: a persistent key, %s", h, keyMeaning(h))
	}
	return b.String()
}

// endorsement tells whether a persistent handle is of the range for EKs (TCG
// Registry of Reserved TPM 2.0 Handles 1.1).
func endorsement(h uint32) bool { return h>>16 == 0x8101 }

func keyMeaning(h uint32) string {
	switch {
	case endorsement(h):
		return "an EK by its handle"
	case h >= 0x81800000:
		return "made by the firmware"
	}
	return "made by an owner"
}

// Evictable returns the persistent keys that an owner made, and not ours.
func (e *FullError) Evictable() (all []uint32) {
	for _, h := range e.Keys {
		if !endorsement(h) && h < 0x81800000 {
			all = append(all, h)
		}
	}
	return all
}

// Removable returns the indices that an owner made, which are the ones that can
// be undefined without firmware, and not ours; the largest first.
func (e *FullError) Removable() (all []NVIndex) {
	for _, n := range e.Indices {
		if !n.Platform && n.Index != firstSlot && n.Index != firstSlot+1 {
			all = append(all, n)
		}
	}
	slices.SortStableFunc(all, func(a, b NVIndex) int { return cmp.Compare(b.Size, a.Size) })
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

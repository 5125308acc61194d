// Package measure fixes what Landfall puts into which PCR, and holds the signed
// image manifest that says which values an image of ours produces. It opens no
// file and no socket. The numbers are in docs/spec/pcr.md, once for all boot
// forms.
package measure

import (
	"crypto/sha256"
)

// PCR numbers, SHA-256 bank. Never 10 (IMA's, it moves at kexec) and never 16
// or 23 (software can reset them).
const (
	SlicePCR = 8  // extended once with the digest of the slice
	CapPCR   = 12 // systemd-stub's overrides; extended by uinit before kexec
	BootPCR  = 14 // production kernel, initrd, command line, in this order
)

// Size is the length of a PCR value and of a digest in the SHA-256 bank.
const Size = sha256.Size

// capLabel is hashed to what uinit extends CapPCR with.
const capLabel = "landfall cap v1"

// ImagePCRs returns the PCRs that identify an image, ascending: they are in the
// PCR policy and in the manifest.
func ImagePCRs() []int { return []int{4, 9, 11, 12} }

// QuotePCRs returns the exact selection of every quote, ascending. It holds
// eight PCRs, because one TPM2_PCR_Read returns no more (TPM 2.0 Part 3, 22.4).
func QuotePCRs() []int { return []int{0, 2, 4, 7, 8, 9, 11, 12} }

// Extend returns the value of a PCR after an extend: SHA-256(old ‖ digest)
// (TPM 2.0 Part 1, 17.2).
func Extend(old, digest []byte) []byte {
	h := sha256.New()
	h.Write(old)
	h.Write(digest)
	return h.Sum(nil)
}

// CapDigest is what uinit extends CapPCR with before it leaves: from then on
// neither the PCR policy nor the fleet takes this machine for the boot image.
func CapDigest() []byte {
	d := sha256.Sum256([]byte(capLabel))
	return d[:]
}

// SliceValue is the value of SlicePCR after the slice with that digest was
// measured, and nothing else.
func SliceValue(digest []byte) []byte { return Extend(make([]byte, Size), digest) }

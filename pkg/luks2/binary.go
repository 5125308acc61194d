package luks2

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// binSize is the length of the binary header in bytes; the JSON area follows.
const binSize = 4096

// The sizes of one header copy that the specification allows (§2.2), in bytes.
const (
	minHeaderSize = 16 << 10
	maxHeaderSize = 4 << 20
)

const (
	magicPrimary   = "LUKS\xba\xbe"
	magicSecondary = "SKUL\xba\xbe"
)

// binHeader is the binary header (specification §2.1, struct luks2_hdr_disk;
// integers big-endian) with the JSON area behind it.
type binHeader struct {
	size      uint64 // of binary header and JSON area together
	seqID     uint64
	label     string
	subsystem string
	uuid      string
	json      []byte // the JSON text without the area's zero padding

	bad error // the checksum is good and the content is not
}

// Read takes both header copies of a device of size bytes into memory, picks
// the one that cryptsetup would pick and validates it. It returns ErrNotLUKS2,
// a *HeaderError, or what dev returned when neither copy could be read. It
// reads at most 8 MiB and writes nothing: a damaged copy stays damaged.
func Read(dev io.ReaderAt, size int64) (*Header, error) {
	if size < 2*minHeaderSize {
		return nil, refuse(CodeDeviceSize, "%d bytes hold no LUKS2 header", size)
	}
	b, other, secondary, err := readCopies(dev, size)
	if err != nil {
		return nil, err
	}
	if other == nil || other.seqID != b.seqID {
		if err := refuseForeign(dev, size); err != nil {
			return nil, err
		}
	}
	if b.bad != nil {
		return nil, b.bad
	}
	h, err := parse(b, uint64(size))
	if err != nil {
		return nil, err
	}
	if other != nil && other.seqID != b.seqID && other.bad == nil {
		// An older state that is refused is none of a finished volume.
		if o, err := parse(other, uint64(size)); err == nil && !h.sameVolume(o) {
			return nil, refuse(CodeStale, "the older copy (seqid %d) is of another volume than the newer one (seqid %d)", o.SeqID, h.SeqID)
		}
	}
	h.Secondary = secondary
	return h, nil
}

// sameVolume says whether two headers are states of one volume: keyslots, tokens
// and labels change in its life, what is compared here does not.
func (h *Header) sameVolume(o *Header) bool {
	return h.UUID == o.UUID && h.Segment == o.Segment && h.KeySize == o.KeySize &&
		h.Digest.Hash == o.Digest.Hash && bytes.Equal(h.Digest.Value, o.Digest.Value)
}

// readCopies returns the copy to use, and the other one if it is good too. A copy with a
// wrong checksum is damaged and the other one is used. With two good copies the higher seqid wins: a
// crash between the two writes leaves the primary newer. Equal seqids with
// other content do not arise from cryptsetup and are refused. Unlike
// cryptsetup there is no way back to the older copy when the newer one has a
// good checksum and bad JSON: that is tampering, not damage.
func readCopies(dev io.ReaderAt, size int64) (b, other *binHeader, secondary bool, err error) {
	first, err1 := readCopy(dev, size, 0)
	if refusedAs(err1, CodeVersion) {
		return nil, nil, false, err1 // cryptsetup does not look for the other one either
	}
	var second *binHeader
	var err2 error
	if err1 == nil {
		second, err2 = readCopy(dev, size, int64(first.size))
	} else {
		second, err2 = findSecondary(dev, size)
	}
	switch {
	case err1 != nil && err2 != nil:
		return nil, nil, false, worst(err1, err2)
	case err2 != nil:
		return first, nil, false, nil
	case err1 != nil:
		return second, nil, true, nil
	case first.seqID == second.seqID && !first.equal(second):
		return nil, nil, false, refuse(CodeCopies, "both copies have seqid %d and a good checksum, but not the same content", first.seqID)
	case second.seqID > first.seqID:
		return second, first, true, nil
	}
	return first, second, false, nil
}

// refusedAs says whether err is a refusal with this code.
func refusedAs(err error, c Code) bool {
	var he *HeaderError
	return errors.As(err, &he) && he.Code == c
}

// findSecondary looks for the secondary copy at each offset that it may have
// when the primary, which would tell, is damaged.
func findSecondary(dev io.ReaderAt, size int64) (*binHeader, error) {
	var last error
	for off := int64(minHeaderSize); off <= maxHeaderSize && off+minHeaderSize <= size; off *= 2 {
		b, err := readCopy(dev, size, off)
		if err == nil {
			return b, nil
		}
		last = worst(last, err)
	}
	return nil, last
}

// worst picks the error to report when no copy is usable. What says most comes
// first: a refusal of something that is a header, then an I/O error, then "no
// header here".
func worst(a, b error) error {
	rank := func(err error) int {
		var he *HeaderError
		switch {
		case err == nil:
			return 0
		case errors.Is(err, ErrNotLUKS2):
			return 1
		case errors.As(err, &he):
			return 3
		}
		return 2
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}

func readCopy(dev io.ReaderAt, size, off int64) (*binHeader, error) {
	if off+minHeaderSize > size {
		return nil, refuse(CodeDeviceSize, "no room for a header at offset %d", off)
	}
	var bin [binSize]byte
	if err := readFull(dev, bin[:], off); err != nil {
		return nil, fmt.Errorf("read LUKS2 header at offset %d: %w", off, err)
	}
	magic := magicPrimary
	if off != 0 {
		magic = magicSecondary
	}
	if string(bin[:6]) != magic {
		return nil, fmt.Errorf("%w (offset %d)", ErrNotLUKS2, off)
	}
	if v := binary.BigEndian.Uint16(bin[6:]); v != 2 {
		return nil, refuse(CodeVersion, "LUKS version %d, only 2 is supported", v)
	}
	hdrSize := binary.BigEndian.Uint64(bin[8:])
	if hdrSize < minHeaderSize || hdrSize > maxHeaderSize || hdrSize&(hdrSize-1) != 0 {
		return nil, refuse(CodeHeaderSize, "header size %d", hdrSize)
	}
	if got := binary.BigEndian.Uint64(bin[256:]); got != uint64(off) || off != 0 && uint64(off) != hdrSize {
		return nil, refuse(CodeHeaderOff, "copy at offset %d says offset %d, size %d", off, got, hdrSize)
	}
	if uint64(off)+hdrSize > uint64(size) {
		return nil, refuse(CodeDeviceSize, "header of %d bytes at offset %d passes the end of the device", hdrSize, off)
	}
	area := make([]byte, hdrSize-binSize)
	if err := readFull(dev, area, off+binSize); err != nil {
		return nil, fmt.Errorf("read LUKS2 JSON area at offset %d: %w", off+binSize, err)
	}
	if err := checkSum(&bin, area); err != nil {
		return nil, err
	}
	b := &binHeader{size: hdrSize, seqID: binary.BigEndian.Uint64(bin[16:])}
	b.bad = b.decode(&bin, area)
	return b, nil
}

// checkSum compares the SHA-256 over binary header, with a zeroed checksum
// field, and JSON area. The checksum finds damage; it authenticates nothing.
func checkSum(bin *[binSize]byte, area []byte) error {
	if alg, ok := text(bin[72:104]); !ok || alg != "sha256" {
		return refuse(CodeChecksumAlg, "checksum algorithm %q", alg)
	}
	var want [64]byte
	copy(want[:], bin[448:512])
	clear(bin[448:512])
	h := sha256.New()
	h.Write(bin[:])
	h.Write(area)
	if subtle.ConstantTimeCompare(h.Sum(nil), want[:sha256.Size]) != 1 {
		return refuse(CodeChecksum, "wrong checksum: the copy is damaged")
	}
	return nil
}

func (b *binHeader) decode(bin *[binSize]byte, area []byte) error {
	var ok1, ok2, ok3 bool
	b.label, ok1 = terminated(bin[24:72])
	b.uuid, ok2 = text(bin[168:208])
	b.subsystem, ok3 = terminated(bin[208:256])
	if !ok1 || !ok3 {
		return refuse(CodeLabel, "label %q, subsystem %q", b.label, b.subsystem)
	}
	id, err := ParseUUID(b.uuid)
	if err != nil || !ok2 {
		return refuse(CodeUUID, "UUID %q", b.uuid)
	}
	b.uuid = formatUUID(id)
	n := bytes.IndexByte(area, 0)
	if n < 0 {
		return refuse(CodeJSONTrailing, "the JSON area does not end in a zero byte")
	}
	if len(bytes.TrimRight(area[n:], "\x00")) != 0 {
		return refuse(CodeJSONTrailing, "bytes after the JSON text")
	}
	b.json = area[:n]
	return nil
}

func (b *binHeader) equal(o *binHeader) bool {
	return b.size == o.size && b.label == o.label && b.subsystem == o.subsystem && b.uuid == o.uuid &&
		bytes.Equal(b.json, o.json)
}

// text decodes a zero-terminated field of printable UTF-8.
func text(field []byte) (string, bool) {
	s, ok := terminated(field)
	return s, ok && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// terminated decodes a zero-terminated field of any bytes.
func terminated(field []byte) (string, bool) {
	n := bytes.IndexByte(field, 0)
	if n < 0 {
		return string(field), false
	}
	return string(field[:n]), true
}

// readFull reads exactly len(p) bytes at off.
func readFull(dev io.ReaderAt, p []byte, off int64) error {
	n, err := dev.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// ParseUUID decodes the 36-character text form of RFC 9562 §4, either case, to
// the 16 bytes in that text's order.
func ParseUUID(s string) (id [16]byte, err error) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, fmt.Errorf("%q is not a UUID", s)
	}
	if n, err := hex.Decode(id[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:])); err != nil || n != len(id) {
		return id, fmt.Errorf("%q is not a UUID", s)
	}
	return id, nil
}

func formatUUID(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

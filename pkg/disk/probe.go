package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Content is what a device's first (and last) bytes say it holds.
type Content string

// What probe knows. Anything else counts as ContentUnknown: in-place
// encryption refuses it, since nobody could say where its data ends.
const (
	ContentBlank      Content = "blank"
	ContentUnknown    Content = "unknown data"
	ContentExt        Content = "ext2/3/4"
	ContentXFS        Content = "XFS"
	ContentBtrfs      Content = "btrfs"
	ContentSwap       Content = "swap"
	ContentLVM        Content = "LVM physical volume"
	ContentRAID       Content = "RAID member"
	ContentLUKS1      Content = "LUKS1"
	ContentLUKS2      Content = "LUKS2"
	ContentPartitions Content = "partition table"
)

// probeSize covers the superblocks at the head of a device, btrfs' being the
// last: 64 KiB + 4 KiB.
const probeSize = 68 << 10

// signature is a magic number at a fixed offset.
type signature struct {
	offset  int
	magic   string
	content Content
}

// signatures in order of precedence: containers before what they contain, for
// an old filesystem's superblock may survive below a RAID's or LVM's.
func signatures() []signature {
	return []signature{
		{0, "LUKS\xba\xbe\x00\x02", ContentLUKS2},
		{0, "LUKS\xba\xbe\x00\x01", ContentLUKS1},
		{4096, "\xfc\x4e\x2b\xa9", ContentRAID}, // md 1.2
		{0, "\xfc\x4e\x2b\xa9", ContentRAID},    // md 1.1
		{512, "LABELONE", ContentLVM},
		{512, "EFI PART", ContentPartitions},
		{4096, "EFI PART", ContentPartitions}, // on disks with 4096-byte sectors
		{0, "XFSB", ContentXFS},
		{65536 + 64, "_BHRfS_M", ContentBtrfs},
		{4096 - 10, "SWAPSPACE2", ContentSwap},
		{1024 + 56, "\x53\xef", ContentExt},
		{510, "\x55\xaa", ContentPartitions}, // last: boot sectors of filesystems have it too
	}
}

// probe says what a device of size bytes holds.
func probe(dev io.ReaderAt, size int64) (Content, error) {
	head := make([]byte, min(probeSize, size))
	if err := readFull(dev, head, 0); err != nil {
		return "", err
	}
	if raid, err := raidAtEnd(dev, size); raid || err != nil {
		return ContentRAID, err
	}
	for _, s := range signatures() {
		if len(head) >= s.offset+len(s.magic) && string(head[s.offset:s.offset+len(s.magic)]) == s.magic {
			return s.content, nil
		}
	}
	if bytes.Count(head, []byte{0}) == len(head) {
		return ContentBlank, nil
	}
	return ContentUnknown, nil
}

// raidAtEnd looks for md superblocks 1.0 (8 KiB before the end, 4 KiB aligned)
// and 0.90 (64 KiB before the end, 64 KiB aligned).
func raidAtEnd(dev io.ReaderAt, size int64) (bool, error) {
	for _, at := range []int64{(size - 8192) &^ 4095, size&^65535 - 65536} {
		if at < 0 {
			continue
		}
		b := make([]byte, 4)
		if err := readFull(dev, b, at); err != nil {
			return false, err
		}
		if string(b) == "\xfc\x4e\x2b\xa9" {
			return true, nil
		}
	}
	return false, nil
}

func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(b), off, err)
}

// extSize returns the end of an ext2/3/4 filesystem in bytes, from its
// superblock (Documentation/filesystems/ext4/super.rst). ok is false when b,
// the device's first bytes, holds none.
func extSize(b []byte) (size int64, ok bool) {
	if len(b) < 2048 {
		return 0, false
	}
	sb := b[1024:2048]
	le := binary.LittleEndian
	if le.Uint16(sb[56:]) != 0xef53 {
		return 0, false
	}
	const incompat64bit = 0x80
	blocks := uint64(le.Uint32(sb[4:]))
	if le.Uint32(sb[96:])&incompat64bit != 0 {
		blocks |= uint64(le.Uint32(sb[0x150:])) << 32
	}
	shift := le.Uint32(sb[24:])
	if shift > 6 || blocks == 0 || blocks > 1<<40 {
		return 0, false
	}
	return int64(blocks << (10 + shift)), true
}

// extFree returns the free bytes of the filesystem of which extSize said ok.
func extFree(b []byte) int64 {
	sb := b[1024:2048]
	le := binary.LittleEndian
	blocks := uint64(le.Uint32(sb[12:])) | uint64(le.Uint32(sb[0x158:]))<<32
	return int64(min(blocks, 1<<40) << (10 + le.Uint32(sb[24:])))
}

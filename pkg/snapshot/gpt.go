package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// Layout of the disks that DiskImage makes (UEFI 2.10, chapter 5), in sectors
// of 512 bytes: protective MBR, header, 32 sectors of entries, and their copy
// at the end. The partition begins at 1 MiB, as all tools do it.
const (
	gptSector     = 512
	gptEntries    = 128
	gptEntrySize  = 128
	gptFirst      = 2048
	gptTailSize   = 33
	gptHeaderSize = 92
)

// DiskImage returns a whole disk of size bytes with one partition named
// LANDFALL that begins with content. Size must be a multiple of 1 MiB. The
// identifiers in it are fixed: the same content makes the same bytes.
func DiskImage(content []byte, size int64) ([]byte, error) {
	if size%(1<<20) != 0 || int64(len(content)) > size-(2<<20) {
		return nil, fmt.Errorf("disk image: %d bytes must be whole MiB and 2 MiB more than the content's %d", size, len(content))
	}
	b := make([]byte, size)
	sectors := uint64(size / gptSector)
	last := sectors - gptTailSize - 1
	copy(b[gptFirst*gptSector:], content)

	le := binary.LittleEndian
	mbr := b[446:] // one entry of type 0xEE over the whole disk
	mbr[2], mbr[4] = 2, 0xee
	copy(mbr[5:], []byte{0xff, 0xff, 0xff})
	le.PutUint32(mbr[8:], 1)
	le.PutUint32(mbr[12:], uint32(sectors-1))
	b[510], b[511] = 0x55, 0xaa

	entries := make([]byte, gptEntries*gptEntrySize)
	copy(entries, linuxDataGUID())
	guid := uuidNamespace()
	copy(entries[16:], guid[:])
	le.PutUint64(entries[32:], gptFirst)
	le.PutUint64(entries[40:], last)
	for i, u := range utf16.Encode([]rune(PartitionName)) {
		le.PutUint16(entries[56+2*i:], u)
	}
	copy(b[2*gptSector:], entries)
	copy(b[(sectors-gptTailSize)*gptSector:], entries)
	writeGPTHeader(b[gptSector:], 1, sectors-1, 2, last, entries)
	writeGPTHeader(b[(sectors-1)*gptSector:], sectors-1, 1, sectors-gptTailSize, last, entries)
	return b, nil
}

// linuxDataGUID is 0FC63DAF-8483-4772-8E79-3D69D8477DE4 in its mixed byte order.
func linuxDataGUID() []byte {
	return []byte{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}
}

func writeGPTHeader(h []byte, self, other, entriesAt, last uint64, entries []byte) {
	le := binary.LittleEndian
	copy(h, "EFI PART")
	le.PutUint32(h[8:], 0x00010000)
	le.PutUint32(h[12:], gptHeaderSize)
	le.PutUint64(h[24:], self)
	le.PutUint64(h[32:], other)
	le.PutUint64(h[40:], 34)
	le.PutUint64(h[48:], last)
	guid := uuidNamespace()
	guid[15]++
	copy(h[56:], guid[:])
	le.PutUint64(h[72:], entriesAt)
	le.PutUint32(h[80:], gptEntries)
	le.PutUint32(h[84:], gptEntrySize)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:gptHeaderSize]))
}

// ErrNoPartition: a disk without a LANDFALL partition.
var ErrNoPartition = errors.New("no LANDFALL partition on this disk")

// FindPartition returns offset and size, in bytes, of the first partition
// named LANDFALL on a disk. For the operator's tools; a booting device asks
// its kernel.
func FindPartition(disk io.ReaderAt) (offset, size int64, err error) {
	h := make([]byte, gptHeaderSize)
	if _, err := disk.ReadAt(h, gptSector); err != nil || string(h[:8]) != "EFI PART" {
		return 0, 0, fmt.Errorf("%w: it has no GPT", ErrNoPartition)
	}
	le := binary.LittleEndian
	at, n, entrySize := int64(le.Uint64(h[72:])), le.Uint32(h[80:]), le.Uint32(h[84:])
	if n > 1024 || entrySize < gptEntrySize || entrySize > 4096 || at < 2 || at > 1<<40 {
		return 0, 0, fmt.Errorf("%w: its GPT is not sane", ErrNoPartition)
	}
	var name bytes.Buffer
	for _, u := range utf16.Encode([]rune(PartitionName + "\x00")) {
		_ = binary.Write(&name, le, u) // a bytes.Buffer takes everything
	}
	for i := range int64(n) {
		e := make([]byte, gptEntrySize)
		if _, err := disk.ReadAt(e, at*gptSector+i*int64(entrySize)); err != nil {
			return 0, 0, fmt.Errorf("read GPT: %w", err)
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if bytes.HasPrefix(e[56:], name.Bytes()) && first <= last && last < 1<<50 {
			return int64(first) * gptSector, int64(last-first+1) * gptSector, nil
		}
	}
	return 0, 0, ErrNoPartition
}

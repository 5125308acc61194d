package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"unicode/utf16"
)

// Layout of a GPT (UEFI 2.10, chapter 5): protective MBR in sector 0, header in
// sector 1, entries behind it, and both once more at the end. All places are
// counted in sectors of the disk, so a table that was made for sectors of another
// size is none.
const (
	gptEntries    = 128
	gptEntrySize  = 128
	gptHeaderSize = 92
	gptEntriesAt  = 2
)

// SectorSizes are the logical sector sizes of disks, in bytes.
func SectorSizes() []int { return []int{512, 4096} }

// GPT is the partition table of a disk.
type GPT struct {
	Sector     int // bytes
	ID         [16]byte
	Partitions []GPTPartition
	usable     [2]int64 // begin and end of what partitions may take, bytes; as read
}

// GPTPartition is one partition.
type GPTPartition struct {
	Type, ID     [16]byte // in the order of their text form
	Name         string
	Offset, Size int64 // bytes
}

// GPTLinux is the type of partitions with data of Linux:
// 0FC63DAF-8483-4772-8E79-3D69D8477DE4.
func GPTLinux() [16]byte {
	return [16]byte{0x0f, 0xc6, 0x3d, 0xaf, 0x84, 0x83, 0x47, 0x72, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}
}

// GPTESP is the type of EFI system partitions:
// C12A7328-F81F-11D2-BA4B-00A0C93EC93B.
func GPTESP() [16]byte {
	return [16]byte{0xc1, 0x2a, 0x73, 0x28, 0xf8, 0x1f, 0x11, 0xd2, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}
}

// mixed turns an identifier into a GPT's byte order, and back (UEFI 2.10,
// appendix A): the first three fields are little-endian.
func mixed(id [16]byte) [16]byte {
	slices.Reverse(id[0:4])
	slices.Reverse(id[4:6])
	slices.Reverse(id[6:8])
	return id
}

// Write writes the table to a disk of size bytes: both copies, and the protective
// MBR. Partitions must be whole sectors and lie between the copies.
func (g *GPT) Write(disk io.WriterAt, size int64) error {
	sector := int64(g.Sector)
	if !slices.Contains(SectorSizes(), g.Sector) || size%sector != 0 || len(g.Partitions) > gptEntries {
		return fmt.Errorf("GPT: %d partitions on %d bytes in sectors of %d", len(g.Partitions), size, sector)
	}
	table := int64(gptEntries * gptEntrySize)
	first, last := gptEntriesAt+table/sector, size/sector-table/sector-2
	le := binary.LittleEndian
	entries := make([]byte, table)
	for i, p := range g.Partitions {
		from, to := p.Offset/sector, (p.Offset+p.Size)/sector-1
		if p.Offset%sector != 0 || p.Size%sector != 0 || from < first || to < from || to > last {
			return fmt.Errorf("GPT: partition %s of %d bytes at %d does not fit", p.Name, p.Size, p.Offset)
		}
		e := entries[i*gptEntrySize:]
		kind, id := mixed(p.Type), mixed(p.ID)
		copy(e, kind[:])
		copy(e[16:], id[:])
		le.PutUint64(e[32:], uint64(from))
		le.PutUint64(e[40:], uint64(to))
		for j, u := range utf16.Encode([]rune(p.Name)) {
			le.PutUint16(e[56+2*j:], u)
		}
	}
	mbr := make([]byte, 512) // one partition of type 0xEE over the whole disk
	copy(mbr[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0})
	le.PutUint32(mbr[446+12:], uint32(min(size/sector-1, 1<<32-1)))
	mbr[510], mbr[511] = 0x55, 0xaa

	end := size/sector - 1
	for _, w := range []struct {
		at int64
		b  []byte
	}{
		{0, mbr},
		{gptEntriesAt, entries},
		{last + 1, entries},
		{1, g.header(1, end, gptEntriesAt, first, last, entries)},
		{end, g.header(end, 1, last+1, first, last, entries)},
	} {
		if _, err := disk.WriteAt(w.b, w.at*sector); err != nil {
			return fmt.Errorf("write GPT: %w", err)
		}
	}
	return nil
}

func (g *GPT) header(self, other, entriesAt, first, last int64, entries []byte) []byte {
	h := make([]byte, gptHeaderSize)
	le := binary.LittleEndian
	copy(h, "EFI PART")
	le.PutUint32(h[8:], 0x00010000)
	le.PutUint32(h[12:], gptHeaderSize)
	le.PutUint64(h[24:], uint64(self))
	le.PutUint64(h[32:], uint64(other))
	le.PutUint64(h[40:], uint64(first))
	le.PutUint64(h[48:], uint64(last))
	id := mixed(g.ID)
	copy(h[56:], id[:])
	le.PutUint64(h[72:], uint64(entriesAt))
	le.PutUint32(h[80:], gptEntries)
	le.PutUint32(h[84:], gptEntrySize)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	return h
}

// ErrNoGPT: a disk without a partition table that could be read.
var ErrNoGPT = errors.New("no GPT")

// ReadGPT reads the primary table of a disk whose sectors have one of these sizes:
// of a device its own, of a file all of SectorSizes. Both checksums must be right,
// so that what an older table left behind is none; who can say which of two whole
// tables is the disk's? For an operator's tools; a booting device asks its kernel.
func ReadGPT(disk io.ReaderAt, sectors []int) (*GPT, error) {
	err := fmt.Errorf("%w in its second sector, be it of 512 or of 4096 bytes", ErrNoGPT)
	if len(sectors) == 1 {
		err = fmt.Errorf("%w in its second sector of %d bytes", ErrNoGPT, sectors[0])
	}
	var found *GPT
	for _, sector := range sectors {
		h := make([]byte, sector)
		_, rerr := disk.ReadAt(h, int64(sector))
		if rerr != nil && !errors.Is(rerr, io.EOF) {
			return nil, fmt.Errorf("read GPT: %w", rerr)
		}
		if rerr != nil || string(h[:8]) != "EFI PART" {
			continue
		}
		g, gerr := readGPT(disk, h)
		switch {
		case gerr != nil:
			err = gerr
		case found != nil:
			return nil, fmt.Errorf("two GPTs, one for sectors of %d bytes and one of %d: write a new one onto the disk that it is for", found.Sector, sector)
		default:
			found = g
		}
	}
	if found == nil {
		return nil, err
	}
	return found, nil
}

// readGPT reads the entries that a header speaks of. A header of other sectors
// does not say that it is in sector 1 and has its entries where they are.
func readGPT(disk io.ReaderAt, h []byte) (*GPT, error) {
	le := binary.LittleEndian
	sector, headerSize := int64(len(h)), le.Uint32(h[12:])
	if headerSize < gptHeaderSize || int64(headerSize) > sector || !summed(h[:headerSize]) {
		return nil, fmt.Errorf("%w whose header has the checksum that it should", ErrNoGPT)
	}
	at, n, entrySize := int64(le.Uint64(h[72:])), le.Uint32(h[80:]), le.Uint32(h[84:])
	if le.Uint64(h[24:]) != 1 || n > 1024 || entrySize < gptEntrySize || entrySize > 4096 || at < gptEntriesAt || at > 1<<40 {
		return nil, fmt.Errorf("%w that is sane", ErrNoGPT)
	}
	table := make([]byte, int(n)*int(entrySize))
	if _, err := disk.ReadAt(table, at*sector); err != nil {
		return nil, fmt.Errorf("%w that can be read: its entries: %w", ErrNoGPT, err)
	}
	if crc32.ChecksumIEEE(table) != le.Uint32(h[88:]) {
		return nil, fmt.Errorf("%w whose entries have the checksum that they should", ErrNoGPT)
	}
	first, last, other := le.Uint64(h[40:]), le.Uint64(h[48:]), le.Uint64(h[32:])
	tableEnd := uint64(at) + (uint64(len(table))+uint64(sector)-1)/uint64(sector)
	if first < gptEntriesAt || last >= 1<<50 || first <= other && other <= last || first < tableEnd && uint64(at) <= last {
		return nil, fmt.Errorf("%w that is sane: partitions could lie where it lies itself, or nowhere", ErrNoGPT)
	}
	g := &GPT{Sector: int(sector), ID: mixed([16]byte(h[56:72])), usable: [2]int64{int64(first) * sector, (int64(last) + 1) * sector}}
	return g, g.readEntries(table, int(entrySize))
}

// summed says whether a header has the checksum of itself.
func summed(h []byte) bool {
	zeroed := bytes.Clone(h)
	clear(zeroed[16:20])
	return crc32.ChecksumIEEE(zeroed) == binary.LittleEndian.Uint32(h[16:])
}

func (g *GPT) readEntries(table []byte, entrySize int) error {
	le, sector := binary.LittleEndian, int64(g.Sector)
	for i := range len(table) / entrySize {
		e := table[i*entrySize:][:gptEntrySize]
		if bytes.Count(e[:16], []byte{0}) == 16 {
			continue
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first > last || last >= 1<<50 {
			return fmt.Errorf("%w that is sane: partition %d ends before it begins, or nowhere", ErrNoGPT, i+1)
		}
		var name []uint16
		for u := e[56:]; len(u) >= 2 && le.Uint16(u) != 0; u = u[2:] {
			name = append(name, le.Uint16(u))
		}
		g.Partitions = append(g.Partitions, GPTPartition{Type: mixed([16]byte(e[:16])), ID: mixed([16]byte(e[16:32])),
			Name: string(utf16.Decode(name)), Offset: int64(first) * sector, Size: int64(last-first+1) * sector})
	}
	return nil
}

// DiskImage returns a whole disk of size bytes, in sectors of sector bytes, with
// one partition named LANDFALL that begins with content. Size must be a multiple
// of 1 MiB. The identifiers in it are fixed: the same content makes the same bytes.
func DiskImage(content []byte, size int64, sector int) ([]byte, error) {
	const mib = 1 << 20
	if size%mib != 0 || int64(len(content)) > size-2*mib {
		return nil, fmt.Errorf("disk image: %d bytes must be whole MiB and 2 MiB more than the content's %d", size, len(content))
	}
	b := make(memory, size)
	copy(b[mib:], content)
	g := GPT{Sector: sector, ID: mixed(uuidNamespace()), Partitions: []GPTPartition{
		{Type: GPTLinux(), ID: mixed(uuidNamespace()), Name: PartitionName, Offset: mib, Size: size - 2*mib}}}
	g.ID[15]++
	return b, g.Write(b, size)
}

// memory is a disk in memory.
type memory []byte

// WriteAt implements io.WriterAt.
func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// ErrNoPartition: a disk without a LANDFALL partition.
var ErrNoPartition = errors.New("no LANDFALL partition on this disk")

// FindPartition returns offset and size, in bytes, of the partition named
// LANDFALL on a disk of size bytes, whose sectors have one of these sizes. It must
// be the only one of that name, and lie where nothing else does.
func FindPartition(disk io.ReaderAt, size int64, sectors []int) (offset, length int64, err error) {
	g, err := ReadGPT(disk, sectors)
	if errors.Is(err, ErrNoGPT) {
		err = fmt.Errorf("%w: %w", ErrNoPartition, err)
	}
	if err != nil {
		return 0, 0, err
	}
	named := func(p GPTPartition) bool { return p.Name == PartitionName }
	i := slices.IndexFunc(g.Partitions, named)
	if i < 0 {
		return 0, 0, ErrNoPartition
	}
	p, others := g.Partitions[i], slices.Delete(slices.Clone(g.Partitions), i, i+1)
	if slices.ContainsFunc(others, named) {
		return 0, 0, errors.New("more than one LANDFALL partition on this disk: remove or rename all but one")
	}
	end := p.Offset + p.Size
	switch over := slices.IndexFunc(others, func(o GPTPartition) bool { return o.Offset < end && p.Offset < o.Offset+o.Size }); {
	case over >= 0:
		return 0, 0, fmt.Errorf("the LANDFALL partition lies over the partition %.40q: partition the disk anew", others[over].Name)
	case p.Offset < g.usable[0] || end > g.usable[1]:
		return 0, 0, errors.New("the LANDFALL partition lies over the partition table: partition the disk anew")
	case end > size:
		return 0, 0, fmt.Errorf("the LANDFALL partition ends at %d of %d bytes: the disk is not whole, or not the one that was partitioned", end, size)
	}
	return p.Offset, p.Size, nil
}

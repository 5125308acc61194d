package uki

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Offsets and sizes of the PE/COFF format (Microsoft PE Format, "MS-DOS Stub",
// "COFF File Header", "Optional Header", "Section Table"). All numbers are
// little-endian.
const (
	offNewHeader    = 0x3c // of "PE\0\0", in the MS-DOS header
	coffSize        = 24   // signature and COFF header
	offSectionCount = 6    // from "PE\0\0": NumberOfSections, 16 bits
	offOptionalSize = 20   // from "PE\0\0": SizeOfOptionalHeader, 16 bits

	magicPE32Plus  = 0x20b
	offImageSize   = 56  // from the optional header: SizeOfImage
	offHeadersSize = 60  // SizeOfHeaders
	offChecksum    = 64  // CheckSum
	offDirectories = 108 // NumberOfRvaAndSizes; the directories follow
	certificates   = 4   // index of the certificate table's directory
	offCertificate = offDirectories + 4 + 8*certificates
	directorySize  = 8 // offset and size, 32 bits each

	sectionHeader = 40
	maxSections   = 96 // "Section Table": the limit of the Windows loader
)

// extent is a run of bytes.
type extent struct{ off, size uint64 }

func (e extent) end() uint64 { return e.off + e.size }

// header is one entry of the section table.
type header struct {
	name   string
	memory extent // where the loader puts it
	file   extent // where its bytes are
}

// pe is a PE32+ file whose structure was checked.
type pe struct {
	data     []byte
	optional uint64 // offset of the optional header
	headers  uint64 // SizeOfHeaders
	sections []header
	cert     extent // certificate table; size 0: not signed
	certDir  bool   // the optional header has the directory's entry
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, args...)...)
}

// parsePE checks the structure of a file for an EFI application.
func parsePE(b []byte) (*pe, error) {
	if len(b) > MaxSize {
		return nil, refuse("%d bytes, limit %d", len(b), MaxSize)
	}
	if len(b) == 0 {
		return nil, refuse("the file is empty")
	}
	if len(b) < offNewHeader+4 || string(b[:2]) != "MZ" {
		return nil, refuse("it does not begin with an MS-DOS header")
	}
	le := binary.LittleEndian
	size := uint64(len(b))
	at := uint64(le.Uint32(b[offNewHeader:]))
	if at+coffSize > size || string(b[at:at+4]) != "PE\x00\x00" {
		return nil, refuse("no PE header at %#x", at)
	}
	count, optionalSize := uint64(le.Uint16(b[at+offSectionCount:])), uint64(le.Uint16(b[at+offOptionalSize:]))
	p := &pe{data: b, optional: at + coffSize}
	table := extent{p.optional + optionalSize, count * sectionHeader}
	switch {
	case count == 0 || count > maxSections:
		return nil, refuse("%d sections, expected 1 to %d", count, maxSections)
	case optionalSize < offDirectories+4 || table.off > size:
		return nil, refuse("optional header of %d bytes", optionalSize)
	case le.Uint16(b[p.optional:]) != magicPE32Plus:
		return nil, refuse("it is not for 64-bit machines (PE32+)")
	}
	p.headers = uint64(le.Uint32(b[p.optional+offHeadersSize:]))
	if p.headers > size || table.end() > p.headers {
		return nil, refuse("headers of %d bytes do not hold %d sections", p.headers, count)
	}
	directories := uint64(le.Uint32(b[p.optional+offDirectories:]))
	if directories > (optionalSize-offDirectories-4)/directorySize {
		return nil, refuse("%d data directories do not fit", directories)
	}
	if p.certDir = directories > certificates; p.certDir {
		entry := b[p.optional+offCertificate:]
		p.cert = extent{uint64(le.Uint32(entry)), uint64(le.Uint32(entry[4:]))}
	}
	p.readSections(b[table.off:table.end()])
	return p, p.check()
}

func (p *pe) readSections(table []byte) {
	le := binary.LittleEndian
	for ; len(table) > 0; table = table[sectionHeader:] {
		p.sections = append(p.sections, header{
			name:   strings.TrimRight(string(table[:8]), "\x00"),
			memory: extent{uint64(le.Uint32(table[12:])), uint64(le.Uint32(table[8:]))},
			file:   extent{uint64(le.Uint32(table[20:])), uint64(le.Uint32(table[16:]))},
		})
	}
}

// check refuses what two readers could read differently: sections that overlap
// or leave the file, in the file or in memory, and a certificate table that is
// not the end of the file.
func (p *pe) check() error {
	size := uint64(len(p.data))
	image := uint64(binary.LittleEndian.Uint32(p.data[p.optional+offImageSize:]))
	content := size // where the certificates begin
	if p.cert.size != 0 {
		if p.cert.off < p.headers || p.cert.end() != size {
			return refuse("the certificate table is at %#x to %#x, the file ends at %#x", p.cert.off, p.cert.end(), size)
		}
		content = p.cert.off
	}
	for _, s := range p.sections {
		if s.file.size != 0 && (s.file.off < p.headers || s.file.end() > content) {
			return refuse("section %q is at %#x to %#x, outside the %#x bytes of content", s.name, s.file.off, s.file.end(), content)
		}
		if s.memory.size != 0 && s.memory.off < p.headers {
			// The stub reads the section table in memory.
			return refuse("section %q is loaded at %#x, over the headers", s.name, s.memory.off)
		}
		if s.memory.end() > image {
			return refuse("section %q is loaded at %#x to %#x, outside the image of %#x bytes", s.name, s.memory.off, s.memory.end(), image)
		}
	}
	if a, b, found := overlap(p.sections, func(h header) extent { return h.file }); found {
		return refuse("sections %q and %q overlap in the file", a, b)
	}
	if a, b, found := overlap(p.sections, func(h header) extent { return h.memory }); found {
		return refuse("sections %q and %q overlap in memory", a, b)
	}
	return nil
}

// overlap finds two sections that share bytes.
func overlap(all []header, of func(header) extent) (a, b string, found bool) {
	sorted := slices.DeleteFunc(slices.Clone(all), func(h header) bool { return of(h).size == 0 })
	slices.SortFunc(sorted, func(x, y header) int { return cmp.Compare(of(x).off, of(y).off) })
	for i := 1; i < len(sorted); i++ {
		if of(sorted[i-1]).end() > of(sorted[i]).off {
			return sorted[i-1].name, sorted[i].name, true
		}
	}
	return "", "", false
}

// hash is the Authenticode digest, SHA-256: the file without its checksum, the
// certificate table's entry and the certificate table (Windows Authenticode
// Portable Executable Signature Format, "Calculating the PE Image Hash"). It is
// what firmware measures of an application that it starts (TCG PC Client
// Platform Firmware Profile, 10.2.3) and what a Secure Boot signature is over.
func (p *pe) hash() [sha256.Size]byte {
	h := sha256.New()
	checksum := p.optional + offChecksum
	h.Write(p.data[:checksum])
	next := checksum + 4
	if p.certDir {
		h.Write(p.data[next : p.optional+offCertificate])
		next = p.optional + offCertificate + directorySize
	}
	h.Write(p.data[next:p.headers])
	sections := slices.Clone(p.sections)
	slices.SortFunc(sections, func(x, y header) int { return cmp.Compare(x.file.off, y.file.off) })
	sum := p.headers
	for _, s := range sections {
		if s.file.size != 0 {
			h.Write(p.data[s.file.off:s.file.end()])
			sum += s.file.size
		}
	}
	// What follows the sections. The specification counts bytes instead of
	// looking where the last section ends, and so do the firmwares.
	if rest := uint64(len(p.data)) - p.cert.size; rest > sum {
		h.Write(p.data[sum:rest])
	}
	var d [sha256.Size]byte
	h.Sum(d[:0])
	return d
}

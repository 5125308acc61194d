package bootvolume

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
)

// Offsets in a PE32+ file (Microsoft, PE Format), little endian; those of the
// optional header count from its start, 24 bytes behind the signature.
const (
	offSignature     = 0x3c // u32 in the DOS header: where the signature is
	offSectionCount  = 6    // u16, from the signature
	offSymbols       = 12   // u32 where, u32 how many
	optionalAt       = 24
	offInitialized   = 8  // u32, sum of the sections' sizes in the file
	offImageSize     = 56 // u32, multiple of the section alignment
	offChecksum      = 64 // u32
	sectionHeader    = 40
	readData         = 0x40000040 // IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ
	certificateTable = 4          // index of a data directory
)

// sectionAlign is what systemd's own tools align added sections to in memory, in
// bytes.
const sectionAlign = 4096

type section struct {
	name string // at most 8 bytes
	data []byte
}

// addSections returns the stub with further sections behind its own, in memory
// as in the file. (objcopy(1) would write the time of day into the header.)
func addSections(stub []byte, sections []section) ([]byte, error) {
	f, err := pe.NewFile(bytes.NewReader(stub))
	if err != nil {
		return nil, fmt.Errorf("EFI stub: %w", err)
	}
	header, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return nil, errors.New("EFI stub is no 64-bit PE file")
	}
	if header.DataDirectory[certificateTable].Size != 0 {
		return nil, errors.New("EFI stub is signed: what is added to it would break the signature; use the unsigned one")
	}
	le := binary.LittleEndian
	signature := le.Uint32(stub[offSignature:])
	optional := signature + optionalAt
	table := optional + uint32(f.SizeOfOptionalHeader)
	end := table + uint32(len(f.Sections)+len(sections))*sectionHeader
	if end > header.SizeOfHeaders {
		return nil, fmt.Errorf("EFI stub has no room for %d more section headers", len(sections))
	}
	address, fileEnd := uint32(0), header.SizeOfHeaders
	for _, s := range f.Sections {
		address, fileEnd = max(address, s.VirtualAddress+s.VirtualSize), max(fileEnd, s.Offset+s.Size)
	}
	if fileEnd > uint32(len(stub)) {
		return nil, errors.New("EFI stub is cut off")
	}
	// What lies behind the stub's sections, a symbol table, is left out: in the
	// middle of a file it would be a gap, and implementations of the Authenticode
	// hash differ about those.
	out := padded(bytes.Clone(stub[:fileEnd]), header.FileAlignment)
	clear(out[signature+offSymbols:][:8])
	initialized := header.SizeOfInitializedData
	for i, s := range sections {
		address = aligned(address, sectionAlign)
		size := aligned(uint32(len(s.data)), header.FileAlignment)
		h := out[table+uint32(len(f.Sections)+i)*sectionHeader:][:sectionHeader]
		clear(h)
		copy(h[:8], s.name)
		le.PutUint32(h[8:], uint32(len(s.data)))
		le.PutUint32(h[12:], address)
		le.PutUint32(h[16:], size)
		le.PutUint32(h[20:], uint32(len(out)))
		le.PutUint32(h[36:], readData)
		out = padded(append(out, s.data...), header.FileAlignment)
		address, initialized = address+uint32(len(s.data)), initialized+size
	}
	le.PutUint16(out[signature+offSectionCount:], uint16(len(f.Sections)+len(sections)))
	le.PutUint32(out[optional+offInitialized:], initialized)
	le.PutUint32(out[optional+offImageSize:], aligned(address, header.SectionAlignment))
	le.PutUint32(out[optional+offChecksum:], 0) // EFI asks for none
	return out, nil
}

func aligned(n, to uint32) uint32 { return (n + to - 1) / to * to }

// padded fills up with zeros to a multiple of to bytes.
func padded(b []byte, to uint32) []byte {
	return append(b, make([]byte, aligned(uint32(len(b)), to)-uint32(len(b)))...)
}

// Package ukitest makes small unified kernel images for tests. Their stub and
// kernel are structure without code: nothing boots them.
package ukitest

import (
	"encoding/binary"

	"github.com/landfall-project/landfall/pkg/newc"
)

// Section is one section to put into a file.
type Section struct {
	Name string
	Data []byte
}

// Layout of the files made here, in bytes.
const (
	peOffset    = 0x80 // of "PE\0\0"
	optional    = peOffset + 24
	optSize     = 112 + 16*8
	sectionSize = 40
	headers     = 0x400
	fileAlign   = 0x200
	memoryAlign = 0x1000
)

// Stub is what .sdmagic says in the images that Build makes.
const Stub = "252.39-1~deb12u2"

// Build makes a UKI of a stub and these sections, in their order.
func Build(sections ...Section) []byte {
	return pe(append([]Section{
		{".text", []byte("a stub's code")},
		{".sdmagic", []byte("#### LoaderInfo: systemd-stub " + Stub + " ####\x00")},
	}, sections...))
}

// Image makes a UKI with the sections that ours have.
func Image(kernel, cmdline, version string, initrd []byte) []byte {
	return Build(
		Section{".osrel", []byte("ID=landfall\nVERSION_ID=" + version + "\nVARIANT_ID=server\n")},
		Section{".cmdline", []byte(cmdline)},
		Section{".initrd", initrd},
		Section{".linux", Kernel(kernel)},
	)
}

// Kernel makes a PE file whose code is the text.
func Kernel(text string) []byte { return pe([]Section{{".text", []byte(text)}}) }

// Initrd makes an archive of files: name, content, name, content.
func Initrd(files ...string) []byte {
	var w newc.Writer
	for i := 0; i+1 < len(files); i += 2 {
		w.File(files[i], 0o644, []byte(files[i+1]))
	}
	return w.Bytes()
}

// Sign appends a certificate table with a text in place of a signature.
func Sign(file []byte, text string) []byte {
	le := binary.LittleEndian
	out := append([]byte(nil), file...)
	table := le.AppendUint32(nil, uint32(8+len(text))) // WIN_CERTIFICATE
	table = le.AppendUint16(table, 0x0200)
	table = le.AppendUint16(table, 0x0002)
	table = append(table, text...)
	le.PutUint32(out[optional+112+8*4:], uint32(len(out)))
	le.PutUint32(out[optional+112+8*4+4:], uint32(len(table)))
	return append(out, table...)
}

func pe(sections []Section) []byte {
	le := binary.LittleEndian
	b := make([]byte, headers)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], peOffset)
	copy(b[peOffset:], "PE\x00\x00")
	le.PutUint16(b[peOffset+4:], 0x8664)
	le.PutUint16(b[peOffset+6:], uint16(len(sections)))
	le.PutUint16(b[peOffset+20:], optSize)
	le.PutUint16(b[peOffset+22:], 0x2022)
	le.PutUint16(b[optional:], 0x20b)
	le.PutUint32(b[optional+32:], memoryAlign)
	le.PutUint32(b[optional+36:], fileAlign)
	le.PutUint32(b[optional+60:], headers)
	le.PutUint16(b[optional+68:], 10) // EFI application
	le.PutUint32(b[optional+108:], 16)
	memory := uint32(memoryAlign)
	for i, s := range sections {
		h := b[optional+optSize+i*sectionSize:]
		copy(h[:8], s.Name)
		raw := (len(s.Data) + fileAlign - 1) / fileAlign * fileAlign
		le.PutUint32(h[8:], uint32(len(s.Data)))
		le.PutUint32(h[12:], memory)
		le.PutUint32(h[16:], uint32(raw))
		le.PutUint32(h[20:], uint32(len(b)))
		memory += uint32(len(s.Data)+memoryAlign-1) / memoryAlign * memoryAlign
		b = append(b, s.Data...)
		b = append(b, make([]byte, raw-len(s.Data))...)
	}
	le.PutUint32(b[optional+56:], memory)
	return b
}

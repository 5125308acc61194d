package eventlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/printable"
)

// Event types (TCG PC Client Platform Firmware Profile, 10.4.1).
const (
	evNoAction    = 0x00000003
	evSeparator   = 0x00000004
	evTag         = 0x00000006
	evIPL         = 0x0000000D
	evEFIBoot     = 0x80000002
	evApplication = 0x80000003
	evDriver      = 0x80000004
	evRuntime     = 0x80000005
	evGPT         = 0x80000006
	evAction      = 0x80000007
	evBoot2       = 0x8000000C
)

// Tags of the kernel's EFI stub (Linux, drivers/firmware/efi/libstub/efistub.h:
// INITRD_EVENT_TAG_ID, LOAD_OPTIONS_EVENT_TAG_ID).
const (
	tagInitrd  = 0x8F3B22EC
	tagOptions = 0x8F3B22ED
)

// describe says what an event is, in words that a person who boots servers
// uses. What comes out of the log is printable, quoted and short.
func describe(pcr int, typ uint32, digest, data []byte) string {
	switch typ {
	case evSeparator:
		return "separator"
	case evAction:
		return "firmware action " + quote(ascii(data))
	case evApplication, evDriver, evRuntime:
		return application(typ, data)
	case evTag:
		return tag(data)
	case evGPT:
		return "partition table"
	case evEFIBoot, evBoot2:
		return "boot variable"
	case evIPL:
		return ipl(pcr, digest, data)
	}
	return fmt.Sprintf("event of type %#x", typ)
}

// ipl is an event of a boot loader's or of systemd-stub's: a text, in UTF-16 or
// in ASCII, which either says what was measured or is what was measured.
func ipl(pcr int, digest, data []byte) string {
	itself := sha256.Sum256(data)
	s := ascii(data)
	if isUTF16(data) {
		s = wide(data)
	}
	switch {
	case pcr == 11 && strings.HasPrefix(s, "."):
		name := sha256.Sum256([]byte(s + "\x00"))
		if bytes.Equal(digest, name[:]) {
			return "name of section " + section(s)
		}
		return "section " + section(s)
	case pcr == measure.CapPCR && bytes.Equal(digest, itself[:]):
		return "command line override " + quote(s)
	case pcr == measure.CapPCR && strings.Contains(strings.ToLower(s), "credentials"):
		return "credentials that lie beside the UKI (*.cred)"
	}
	return "boot loader's event " + quote(s)
}

// section is the name of a UKI's section. One that no UKI has is quoted: it may
// be a text that pretends to be somebody else's words.
func section(s string) string {
	plain := func(r rune) bool { return r == '.' || r == '_' || (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') }
	if len(s) > 16 || strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) >= 0 {
		return quote(s)
	}
	return s
}

// tag is a TCG_PCClientTaggedEvent: number, size, text.
func tag(data []byte) string {
	if len(data) < 8 {
		return "tagged event"
	}
	switch id := binary.LittleEndian.Uint32(data); id {
	case tagInitrd:
		return "initrd"
	case tagOptions:
		return "command line"
	default:
		return fmt.Sprintf("tagged event %#x %s", id, quote(ascii(data[8:])))
	}
}

// application is a UEFI_IMAGE_LOAD_EVENT: address, length, link-time address and
// length of a device path, 64 bits each; then the path (TCG PC Client Platform
// Firmware Profile, 10.2.3).
func application(typ uint32, data []byte) string {
	what := "EFI application"
	if typ != evApplication {
		what = "EFI driver"
	}
	const header = 32
	if len(data) < header {
		return what
	}
	return what + source(data[header:])
}

// stubPayload is the GUID under which systemd-stub loads the kernel, as bytes
// in a device path: 55c5d1f8-04cd-46b5-8a20-e56cbb3052d0.
const stubPayload = "\xf8\xd1\xc5\x55\xcd\x04\xb5\x46\x8a\x20\xe5\x6c\xbb\x30\x52\xd0"

// source reads in a device path where an application came from (UEFI, 10.3.1:
// nodes of type, subtype, 16-bit length including these four bytes).
func source(path []byte) string {
	const messaging, mac, media, vendor, file, end = 3, 11, 4, 3, 4, 0x7f
	from := " from memory"
	for len(path) >= 4 {
		typ, subtype, n := path[0], path[1], int(binary.LittleEndian.Uint16(path[2:]))
		if n < 4 || n > len(path) || typ == end {
			break
		}
		node := path[4:n]
		switch {
		case typ == media && subtype == file:
			if name := wide(node); name != "" {
				return " " + quote(name)
			}
		case typ == media && subtype == vendor && string(node) == stubPayload:
			return " that is the kernel in a UKI"
		case typ == messaging && subtype == mac:
			from = " from the network"
		}
		path = path[n:]
	}
	return from
}

// maxText is how much of a text is repeated, in bytes.
const maxText = 80

func quote(s string) string { return `"` + clean(s) + `"` }

// clean leaves printable ASCII, and bounds its length.
func clean(s string) string {
	s = strings.ReplaceAll(printable.ASCII(s), `"`, "?")
	if len(s) > maxText {
		return s[:maxText-3] + "..."
	}
	return s
}

// ascii is a text up to its NUL.
func ascii(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

func isUTF16(b []byte) bool {
	return len(b) >= 2 && len(b)%2 == 0 && b[1] == 0
}

// wide is a text in UTF-16LE up to its NUL.
func wide(b []byte) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

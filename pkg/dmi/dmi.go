// Package dmi reads what a machine's firmware says it is: the strings of the
// SMBIOS tables (DMTF DSP0134), as Linux shows them.
//
// It is how a factory station tells machines apart, and proves nothing: whoever
// can write the firmware's tables writes what they like. What a machine is,
// its TPM says.
package dmi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/printable"
)

// Machine is the System Information structure (DSP0134, 7.2), without the
// blanks around its strings. What the firmware does not have is empty.
type Machine struct {
	Serial       string
	UUID         string // lower case, in the byte order that Linux shows
	Product      string
	Manufacturer string
}

// maxString bounds a string of the table, in bytes.
const maxString = 256

// Read reads the table below a root of sysfs ("/sys"), as root: others may not
// read the serial number. A machine without SMBIOS gives an empty Machine.
func Read(sys string) (Machine, error) {
	var m Machine
	for _, f := range []struct {
		name string
		into *string
	}{
		{"product_serial", &m.Serial}, {"product_uuid", &m.UUID},
		{"product_name", &m.Product}, {"sys_vendor", &m.Manufacturer},
	} {
		b, err := os.ReadFile(filepath.Join(sys, "class/dmi/id", f.name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return Machine{}, fmt.Errorf("read the machine's SMBIOS table: %w", err)
		case len(b) > maxString:
			return Machine{}, fmt.Errorf("read the machine's SMBIOS table: %s has %d bytes, more than %d", f.name, len(b), maxString)
		default:
			*f.into = strings.TrimSpace(string(b))
		}
	}
	m.UUID = strings.ToLower(m.UUID)
	return m, nil
}

// Identity returns the serial number and the UUID, each empty where it does not
// tell this machine from others of its make: blank, damaged, or a default that
// the maker did not fill in.
func (m Machine) Identity() (serial, uuid string) {
	if Usable(m.Serial) && !strings.EqualFold(m.Serial, m.Product) && !strings.EqualFold(m.Serial, m.Manufacturer) {
		serial = m.Serial
	}
	if usableUUID(m.UUID) {
		uuid = m.UUID
	}
	return serial, uuid
}

// Usable tells whether a serial number is one: printable ASCII, of at least
// three different characters, and none of the texts that firmware comes with.
func Usable(serial string) bool {
	if !printable.IsASCII(serial) {
		return false
	}
	text := strings.ToLower(strings.TrimSpace(serial))
	different := map[rune]bool{}
	for _, r := range text {
		if letter(r) {
			different[r] = true
		}
	}
	if len(different) < 3 || counts(text) {
		return false
	}
	plain := strings.Map(func(r rune) rune {
		if letter(r) {
			return r
		}
		return -1
	}, text)
	return !slices.Contains(defaults(), plain)
}

func letter(r rune) bool { return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' }

// counts tells whether text only counts through the digits, from wherever it
// starts: 0123456789, 123456789, 12345678, 1234567890, 01234567890123456789AB.
func counts(text string) bool {
	for i := 1; i < len(text); i++ {
		if text[i] < '0' || text[i] > '9' {
			return i >= 10 // the hexadecimal digits may follow
		}
		if text[i] != '0'+(text[i-1]-'0'+1)%10 {
			return false
		}
	}
	return text[0] == '0' || text[0] == '1'
}

// defaults are texts seen in place of serial numbers, without case, blanks and
// punctuation.
func defaults() []string {
	return []string{
		"tobefilledbyoem", "tobefilledbyoemmore", "tobefilled", "filledbyoem", "oem", "oemdefault", "oemstring",
		"defaultstring", "default", "systemserialnumber", "syssernumber", "serialnumber", "systemserial", "serial",
		"chassisserialnumber", "boardserialnumber", "baseboardserialnumber", "mbserialnumber", "systemproductname",
		"none", "null", "nil", "empty", "blank", "unknown", "undefined", "invalid", "unset",
		"notspecified", "notavailable", "notapplicable", "notprovided", "notpresent", "notset", "notsettable",
		"notdefined", "noserial", "noserialnumber", "nodata", "noasset", "reserved", "unspecified",
		"abc", "abcdef", "abcdefg",
	}
}

// usableUUID tells whether a UUID is one: RFC 9562 in text, not of one digit or
// byte throughout, and none that many boards share. DSP0134, 7.2.1: all zeros
// is "not present", all ones "not set".
func usableUUID(uuid string) bool {
	if len(uuid) != 36 {
		return false
	}
	var digits []byte
	for i := range len(uuid) {
		c := uuid[i]
		dash := i == 8 || i == 13 || i == 18 || i == 23
		hex := c >= '0' && c <= '9' || c >= 'a' && c <= 'f'
		if dash != (c == '-') || !dash && !hex {
			return false
		}
		if hex {
			digits = append(digits, c)
		}
	}
	same := true
	for i := 2; i < len(digits); i++ {
		same = same && digits[i] == digits[i-2]
	}
	return !same && !slices.Contains([]string{
		"03000200-0400-0500-0006-000700080009", // AMI's template, as Linux shows it
		"00020003-0004-0005-0006-000700080009", // the same, bytes not swapped
		"12345678-1234-5678-90ab-cddeefaabbcc", // boards without a maker
		"12345678-1234-1234-1234-123456789abc",
		"4c4c4544-0000-2010-8020-80c04f202020", // Dell, blank service tag
		"00010203-0405-0607-0809-0a0b0c0d0e0f",
		"01020304-0506-0708-090a-0b0c0d0e0f10",
	}, uuid)
}

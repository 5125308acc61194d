package dmi_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/dmi"
)

// table writes a table as Linux shows it.
func table(t *testing.T, files map[string]string) string {
	t.Helper()
	sys := t.TempDir()
	dir := filepath.Join(sys, "class/dmi/id")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return sys
}

func TestRead(t *testing.T) {
	got, err := dmi.Read(table(t, map[string]string{
		"product_serial": " S402XK9 \n", "product_uuid": "4C4C4544-0034-3010-8032-B3C04F584B39\n",
		"product_name": "PowerEdge R650\n", "sys_vendor": "Dell Inc.\n",
	}))
	want := dmi.Machine{Serial: "S402XK9", UUID: "4c4c4544-0034-3010-8032-b3c04f584b39", Product: "PowerEdge R650", Manufacturer: "Dell Inc."}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if serial, uuid := got.Identity(); serial != want.Serial || uuid != want.UUID {
		t.Errorf("identity %q, %q", serial, uuid)
	}
}

// TestReadNothing: no table, or one without the strings, is no fault.
func TestReadNothing(t *testing.T) {
	for _, sys := range []string{t.TempDir(), table(t, nil), table(t, map[string]string{"product_serial": "\n"})} {
		m, err := dmi.Read(sys)
		if serial, uuid := m.Identity(); err != nil || m != (dmi.Machine{}) || serial != "" || uuid != "" {
			t.Errorf("got %+v, %v", m, err)
		}
	}
}

func TestReadFails(t *testing.T) {
	for name, sys := range map[string]string{
		"endless": table(t, map[string]string{"product_serial": strings.Repeat("x", 5000)}),
		"folder":  table(t, nil),
	} {
		if name == "folder" {
			if err := os.Mkdir(filepath.Join(sys, "class/dmi/id/product_serial"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if m, err := dmi.Read(sys); err == nil {
			t.Errorf("%s: got %+v", name, m)
		}
	}
}

func TestSerial(t *testing.T) {
	for _, tc := range []struct {
		serial string
		want   bool
	}{
		{"S402XK9", true}, {"CZ3420ABCD", true}, {"MXQ94503JT", true}, {"A214590X9B03221", true}, {"7J0P1Q2", true},
		{"S01234567", true}, {"1234567-12", true}, {"234567", true}, {"0123456788", true}, {"VMware-56 4d 2b 9c", true},
		{"", false}, {"   ", false}, {"\x00\x00\x00", false}, {"ÿÿÿÿÿÿ", false}, {"A\x7fB\x01C", false},
		{"To be filled by O.E.M.", false}, {"To Be Filled By O.E.M.", false}, {"to be filled by o.e.m", false}, {"To be filled by O.E.M. by More", true},
		{"Default string", false}, {"System Serial Number", false}, {"SYSTEM-SERIAL-NUMBER", false}, {"Serial Number", false}, {"SerNumber", true},
		{"Chassis Serial Number", false}, {"Base Board Serial Number", false}, {"OEM", false},
		{"0123456789", false}, {"123456789", false}, {"1234567890", false}, {"12345678901234567890", false}, {"0123456789ABCDEF", false}, {"12345", false},
		{"None", false}, {"NONE", false}, {"Not Specified", false}, {"Not Available", false}, {"Not Applicable", false}, {"N/A", false}, {"NA", false},
		{"Unknown", false}, {"Empty", false}, {"INVALID", false}, {"null", false}, {"Not Settable", false},
		{"0", false}, {"00000000", false}, {"FFFFFFFF", false}, {"XXXXXXXXXX", false}, {"........", false}, {"-", false}, {"0x00000000", false}, {"AB", false},
	} {
		if got := dmi.Usable(tc.serial); got != tc.want {
			t.Errorf("Usable(%q) = %v", tc.serial, got)
		}
	}
}

// TestIdentity: a serial that only repeats the model's name is none.
func TestIdentity(t *testing.T) {
	for _, tc := range []struct {
		m            dmi.Machine
		serial, uuid string
	}{
		{dmi.Machine{Serial: "X11DPU", Product: "x11dpu"}, "", ""},
		{dmi.Machine{Serial: "Supermicro", Manufacturer: "Supermicro"}, "", ""},
		{dmi.Machine{Serial: "S402XK9", UUID: "ffffffff-ffff-ffff-ffff-ffffffffffff"}, "S402XK9", ""},
		{dmi.Machine{Serial: "None", UUID: "6f1e4b2c-9d2a-4a51-8f0e-53c1d7a9be04"}, "", "6f1e4b2c-9d2a-4a51-8f0e-53c1d7a9be04"},
		{dmi.Machine{UUID: "00000000-0000-0000-0000-ac1f6b3d9a10"}, "", "00000000-0000-0000-0000-ac1f6b3d9a10"}, // the MAC address of a board
		{dmi.Machine{UUID: "00000000-0000-0000-0000-000000000000"}, "", ""},
		{dmi.Machine{UUID: "fefefefe-fefe-fefe-fefe-fefefefefefe"}, "", ""},
		{dmi.Machine{UUID: "03000200-0400-0500-0006-000700080009"}, "", ""},
		{dmi.Machine{UUID: "4c4c4544-0000-2010-8020-80c04f202020"}, "", ""},
		{dmi.Machine{UUID: "6f1e4b2c9d2a4a518f0e53c1d7a9be04"}, "", ""},
		{dmi.Machine{UUID: "6f1e4b2c-9d2a-4a51-8f0e-53c1d7a9be0"}, "", ""},
		{dmi.Machine{UUID: "6f1e4b2c-9d2a-4a51-8f0e-53c1d7a9be0z"}, "", ""},
		{dmi.Machine{UUID: "Not Settable"}, "", ""},
	} {
		if serial, uuid := tc.m.Identity(); serial != tc.serial || uuid != tc.uuid {
			t.Errorf("%+v: identity %q, %q, want %q, %q", tc.m, serial, uuid, tc.serial, tc.uuid)
		}
	}
}

// FuzzIdentity: whatever firmware writes, what passes is printable and is what
// it wrote.
func FuzzIdentity(f *testing.F) {
	f.Add("S402XK9", "4c4c4544-0034-3010-8032-b3c04f584b39")
	f.Add("0123456789ABCDEF", "ffffffff-ffff-ffff-ffff-ffffffffffff")
	f.Add("0", "")
	f.Fuzz(func(t *testing.T, a, b string) {
		m := dmi.Machine{Serial: a, UUID: b}
		serial, uuid := m.Identity()
		if serial != "" && (serial != a || strings.ContainsFunc(serial, func(r rune) bool { return r < ' ' || r > '~' })) {
			t.Errorf("serial %q of %q", serial, a)
		}
		if uuid != "" && (uuid != b || len(uuid) != 36) {
			t.Errorf("uuid %q of %q", uuid, b)
		}
	})
}

package uki

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/uki/ukitest"
)

const cmdline = "console=ttyS0 panic=-1 reboot=t quiet"

func sample() []byte {
	return ukitest.Image("kernel", cmdline, "1.0", ukitest.Initrd("init", "uinit"))
}

func TestParse(t *testing.T) {
	img, err := Parse(sample())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		".cmdline": cmdline, ".osrel": "ID=landfall\nVERSION_ID=1.0\nVARIANT_ID=server\n", ".text": "a stub's code",
		".linux": string(ukitest.Kernel("kernel")),
	} {
		if got, ok := img.Section(name); !ok || string(got) != want {
			t.Errorf("%s: got %q, %v", name, got, ok)
		}
	}
	if _, ok := img.Section(".splash"); ok {
		t.Error("found a section that is not there")
	}
	if got := img.StubVersion(); got != ukitest.Stub {
		t.Errorf("stub %q", got)
	}
	if img.Signed() {
		t.Error("an unsigned file is signed")
	}
	if img, err = Parse(ukitest.Sign(sample(), "x")); err != nil || !img.Signed() {
		t.Errorf("signed: %v", err)
	}
}

// Where numbers of a file are that ukitest made.
const (
	atOptional = 0x80 + 24
	atTable    = atOptional + 112 + 128
)

// field of the section with that index.
func field(section, offset int) int { return atTable + 40*section + offset }

func TestParseRefuses(t *testing.T) {
	put32 := func(off int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[off:], v); return b }
	}
	put16 := func(off int, v uint16) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint16(b[off:], v); return b }
	}
	name := func(section int, s string) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[field(section, 0):][:8], s+"\x00\x00\x00\x00"); return b }
	}
	get := func(b []byte, off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }
	const text, osrel, command, linux = 0, 2, 3, 5 // indexes of sections
	tests := []struct {
		name   string
		change func([]byte) []byte
		want   string
	}{
		{"empty", func([]byte) []byte { return nil }, "empty"},
		{"a script", func([]byte) []byte { return bytes.Repeat([]byte("#!ipxe\n"), 200) }, "MS-DOS header"},
		{"PE header outside", put32(0x3c, 0xfffffff0), "no PE header"},
		{"no PE", put32(0x80, 0), "no PE header"},
		{"32 bits", put16(atOptional, 0x10b), "64-bit"},
		{"no section", put16(0x86, 0), "0 sections"},
		{"97 sections", put16(0x86, 97), "97 sections"},
		{"headers too small for 90 sections", put16(0x86, 90), "do not hold"},
		{"headers past the end", put32(atOptional+60, 1<<30), "do not hold"},
		{"optional header too small", put16(0x94, 64), "optional header of 64"},
		{"optional header past the end", put16(0x94, 0xffff), "optional header of 65535"},
		{"data directories", put32(atOptional+108, 17), "17 data directories"},
		{"truncated", func(b []byte) []byte { return b[:len(b)-1] }, "outside the"},
		{"section in the headers", put32(field(osrel, 20), 0x80), "outside the"},
		{"section loaded over the headers", put32(field(osrel, 12), 0), "over the headers"},
		{"section past the end", put32(field(osrel, 20), 0xfffffe00), "outside the"},
		{"absurd size", put32(field(linux, 16), 0xffffffff), "outside the"},
		{"absurd size in memory", put32(field(linux, 8), 0xffffffff), "outside the image"},
		{"overlap in the file", func(b []byte) []byte { return put32(field(command, 20), get(b, field(osrel, 20)))(b) }, "overlap in the file"},
		{"overlap in memory", func(b []byte) []byte { return put32(field(command, 12), get(b, field(osrel, 12)))(b) }, "overlap in memory"},
		{"more in memory than in the file", put32(field(command, 8), 0x201), "512 bytes in the file and 513 in memory"},
		{"two command lines", name(osrel, ".cmdline"), "two sections .cmdline"},
		{"a name the stub takes for the kernel", name(text, ".linux2"), "takes it for .linux"},
		{"another one", name(text, ".dtbauto"), "takes it for .dtb"},
		{"no kernel", name(linux, ".other"), "no kernel"},
		{"a kernel that is no PE file", func(b []byte) []byte { b[get(b, field(linux, 20))] = 0; return b }, "section .linux: "},
		{"certificates outside", put32(atOptional+112+36, 8), "certificate table"},
		{"certificates before the end", func(b []byte) []byte { return append(ukitest.Sign(b, "x"), 0) }, "certificate table"},
		{"certificates over a section", func(b []byte) []byte {
			b = put32(atOptional+112+32, uint32(len(b)-8))(b)
			return put32(atOptional+112+36, 8)(b)
		}, "outside the"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Parse(tt.change(sample())); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestHashAgainstSbsign compares with the digest that sbsign puts into a
// signature (SpcIndirectDataContent), for files of ours and of Debian's.
func TestHashAgainstSbsign(t *testing.T) {
	dir := t.TempDir()
	key, cert := filepath.Join(dir, "key"), filepath.Join(dir, "cert")
	command(t, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-subj", "/CN=test", "-keyout", key, "-out", cert)
	small := filepath.Join(dir, "small.efi")
	if err := os.WriteFile(small, sample(), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{small, "/usr/lib/systemd/boot/efi/linuxx64.efi.stub", "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"} {
		out := filepath.Join(dir, "signed")
		command(t, "sbsign", "--key", key, "--cert", cert, "--output", out, file)
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		p, err := parsePE(b)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		h := p.hash()
		if p.cert.size == 0 || !bytes.Contains(b[p.cert.off:], h[:]) {
			t.Errorf("%s: the signature is not over %x", file, h)
		}
	}
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// TestHash pins what is left out of the hash, and that nothing else is.
func TestHash(t *testing.T) {
	good, err := Parse(sample())
	if err != nil {
		t.Fatal(err)
	}
	hash := func(b []byte) [32]byte {
		p, err := parsePE(b)
		if err != nil {
			t.Fatal(err)
		}
		return p.hash()
	}
	if hash(ukitest.Sign(sample(), "a signature")) != good.Hash() {
		t.Error("a signature changes the hash")
	}
	left := map[int]bool{}
	for i := range 4 {
		left[atOptional+64+i] = true // CheckSum
	}
	sizes := map[int]bool{} // changing these refuses the file
	for i, b := 0, sample(); i < len(b); i++ {
		b[i] ^= 1
		if p, err := parsePE(b); err != nil {
			sizes[i] = true
		} else if changed := p.hash() != good.Hash(); changed == left[i] && !certificateEntry(i) {
			t.Errorf("byte %#x: changed %v", i, changed)
		}
		b[i] ^= 1
	}
	if len(sizes) > 200 {
		t.Errorf("%d bytes are structure", len(sizes))
	}
}

// certificateEntry: whether a byte belongs to the certificate table's entry in
// the data directories.
func certificateEntry(i int) bool { return i >= atOptional+112+32 && i < atOptional+112+40 }

func TestEvents(t *testing.T) {
	signed, err := Parse(ukitest.Sign(sample(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	head := []string{"4 firmware action", "4 separator", "4 UKI"}
	tail := []string{
		"9 command line", "9 initrd",
		"11 name of section .linux", "11 section .linux (kernel)",
		"11 name of section .osrel", "11 section .osrel (name and version)",
		"11 name of section .cmdline", "11 section .cmdline (command line)",
		"11 name of section .initrd", "11 section .initrd (initrd)",
	}
	for form, middle := range map[measure.Form][]string{
		measure.FormUKI:           {"4 kernel"},
		measure.FormUKIiPXE:       {"4 UKI, loaded again", "4 kernel"},
		measure.FormUKISecureBoot: nil,
	} {
		events, err := signed.Events(form)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range events {
			got = append(got, strconv.Itoa(e.PCR)+" "+e.What)
		}
		if diff := cmp.Diff(slices.Concat(head, middle, tail), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", form, diff)
		}
		m := &measure.Manifest{Type: measure.ManifestType, Image: "x", Version: "1", Role: measure.RoleServer, Form: form, Events: events, PCRs: map[int]measure.Hex{}}
		for n, v := range measure.Replay(events) {
			m.PCRs[n] = v
		}
		if err := m.Validate(); err != nil {
			t.Errorf("%s: no manifest holds them: %v", form, err)
		}
	}
}

func TestEventsRefuses(t *testing.T) {
	with := func(cmdline string, more ...ukitest.Section) []byte {
		return ukitest.Build(append([]ukitest.Section{{Name: ".cmdline", Data: []byte(cmdline)}, {Name: ".linux", Data: ukitest.Kernel("k")}}, more...)...)
	}
	initrd := ukitest.Section{Name: ".initrd", Data: []byte("x")}
	tests := []struct {
		name string
		file []byte
		form measure.Form
		want string
	}{
		{"good", with("quiet", initrd), measure.FormUKI, ""},
		{"another form", with("quiet", initrd), measure.FormEFIKernel, "does not start a UKI"},
		{"Secure Boot without a signature", with("quiet", initrd), measure.FormUKISecureBoot, "not signed"},
		{"no command line", with("", initrd), measure.FormUKI, "whoever starts it would choose one"},
		{"newline", with("quiet\n", initrd), measure.FormUKI, "printable ASCII"},
		{"blank at the end", with("quiet ", initrd), measure.FormUKI, "blanks"},
		{"NUL", with("quiet\x00", initrd), measure.FormUKI, "printable ASCII"},
		{"umlaut", with("hostname=rück", initrd), measure.FormUKI, "printable ASCII"},
		{"no initrd", with("quiet"), measure.FormUKI, "no initrd"},
		{"a policy for systemd", with("quiet", initrd, ukitest.Section{Name: ".pcrsig", Data: []byte("{}")}), measure.FormUKI, ".pcrsig"},
		{"a key for systemd", with("quiet", initrd, ukitest.Section{Name: ".pcrpkey", Data: []byte("x")}), measure.FormUKI, ".pcrpkey"},
		{"another stub", bytes.Replace(with("quiet", initrd), []byte("stub 252."), []byte("stub 255."), 1), measure.FormUKI, `systemd-stub "255.39-1~deb12u2"`},
		{"no systemd-stub", bytes.Replace(with("quiet", initrd), []byte("####"), []byte("++++"), 1), measure.FormUKI, `systemd-stub ""`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img, err := Parse(tt.file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = img.Events(tt.form)
			if (err == nil) != (tt.want == "") || (err != nil && (!errors.Is(err, ErrPrediction) || !strings.Contains(err.Error(), tt.want))) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestVectors: testdata/vectors.json has for each file either part of the error
// or the Authenticode hash, and the PCRs of each form.
func TestVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors map[string]struct {
		Error, Authenticode string
		Forms               map[measure.Form]map[string]string
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	for name, v := range vectors {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile("testdata/" + name)
			if err != nil {
				t.Fatal(err)
			}
			img, err := Parse(b)
			if err != nil || v.Error != "" {
				if v.Error == "" || !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), v.Error) {
					t.Errorf("got %v, want %q", err, v.Error)
				}
				return
			}
			if h := img.Hash(); hex.EncodeToString(h[:]) != v.Authenticode {
				t.Errorf("Authenticode: got %x, want %s", h, v.Authenticode)
			}
			for form, want := range v.Forms {
				got := map[string]string{}
				events, err := img.Events(form)
				if err != nil {
					got["error"] = err.Error()
				} else {
					for n, value := range measure.Replay(events) {
						got[strconv.Itoa(n)] = hex.EncodeToString(value)
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", form, diff)
				}
			}
		})
	}
}

func FuzzUKI(f *testing.F) {
	f.Add(sample())
	f.Add(ukitest.Sign(sample(), "signature"))
	f.Add(ukitest.Kernel("k"))
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("another error: %v", err)
			}
			return
		}
		img.Hash()
		img.KernelHash()
		for _, form := range []measure.Form{measure.FormUKI, measure.FormUKIiPXE, measure.FormUKISecureBoot, measure.FormEFIKernel, measure.FormLab} {
			if _, err := img.Events(form); err != nil && !errors.Is(err, ErrPrediction) {
				t.Errorf("another error: %v", err)
			}
		}
	})
}

package eventlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/uki"
	"github.com/landfall-project/landfall/pkg/uki/ukitest"
)

// real are logs of one UKI under OVMF, by the way it was started, with the PCR
// values that the TPM then had.
func real() map[measure.Form]struct {
	file string
	pcrs map[int]string
} {
	const pcr9, pcr11 = "c1aa6fb78dfd7eb64fb74eddc32effe21ec4e695d5b22f193033098bd0d978d3", "a74e7f482b861b6d87e517d0453075ef0194228d427cf24c13717c3ea7bb0dd7"
	zero := strings.Repeat("00", 32)
	type log = struct {
		file string
		pcrs map[int]string
	}
	return map[measure.Form]log{
		measure.FormUKI:           {"uki-disk.bin", map[int]string{4: "8a9cf70b76683f0a7a9465f5bf69acba581225d201ac5a4f9e5f30456d5b3d25", 9: pcr9, 11: pcr11, 12: zero}},
		measure.FormUKIiPXE:       {"uki-ipxe.bin", map[int]string{4: "9ca63d38f542fd3afd4b8fc22425a3c26eec7401ca843f48fc840b4549c4c866", 9: pcr9, 11: pcr11, 12: zero}},
		measure.FormUKISecureBoot: {"uki-secureboot.bin", map[int]string{4: "6f3518bcd91f0ae29681bd01bdeb65e5a81982661f3abf56ca5cfb569659b2fd", 9: pcr9, 11: pcr11, 12: zero}},
	}
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t *testing.T, raw []byte) []measure.Event {
	t.Helper()
	events, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// TestReplay: the logs make exactly the values that the TPM had.
func TestReplay(t *testing.T) {
	for form, log := range real() {
		got := map[int]string{}
		for n, v := range measure.Replay(parse(t, read(t, log.file))) {
			got[n] = hex.EncodeToString(v)
		}
		if diff := cmp.Diff(log.pcrs, got); diff != "" {
			t.Errorf("%s (-TPM +replay):\n%s", form, diff)
		}
	}
}

// TestPrediction: package uki predicts the events of the real logs, in number
// and order, and the digests of all that is not a file of megabytes.
func TestPrediction(t *testing.T) {
	// What was measured said nothing of its role yet.
	img, err := uki.Parse(ukitest.Sign(ukitest.Build(
		ukitest.Section{Name: ".osrel", Data: []byte("ID=landfall\nVERSION_ID=1.0\n")},
		ukitest.Section{Name: ".cmdline", Data: []byte("console=ttyS0 panic=-1 reboot=t quiet")},
		ukitest.Section{Name: ".initrd", Data: []byte("initrd")},
		ukitest.Section{Name: ".linux", Data: ukitest.Kernel("kernel")},
	), "signature"))
	if err != nil {
		t.Fatal(err)
	}
	large := map[string]bool{"UKI": true, "UKI, loaded again": true, "kernel": true, "initrd": true, "section .linux (kernel)": true, "section .initrd (initrd)": true}
	for form, log := range real() {
		predicted, err := img.Events(form)
		if err != nil {
			t.Fatal(err)
		}
		measured := parse(t, read(t, log.file))
		for _, n := range measure.ImagePCRs() {
			want, got := only(measured, n), only(predicted, n)
			if len(got) != len(want) {
				t.Fatalf("%s, PCR %d: %d events predicted, %d measured", form, n, len(got), len(want))
			}
			for i, e := range got {
				if same := bytes.Equal(e.Digest, want[i].Digest); same == large[e.What] {
					t.Errorf("%s, PCR %d, event %d: %q: same as measured (%s): %v", form, n, i, e.What, want[i].What, same)
				}
			}
		}
		// The file is measured as often as predicted, the initrd twice.
		if pcr4 := only(measured, 4); form == measure.FormUKIiPXE && !bytes.Equal(pcr4[2].Digest, pcr4[3].Digest) {
			t.Errorf("%s: the UKI is not measured twice", form)
		}
		if !bytes.Equal(only(measured, 9)[1].Digest, only(measured, 11)[7].Digest) {
			t.Errorf("%s: the kernel did not get the initrd of the UKI alone", form)
		}
	}
}

func only(events []measure.Event, pcr int) (some []measure.Event) {
	for _, e := range events {
		if e.PCR == pcr {
			some = append(some, e)
		}
	}
	return some
}

func TestWords(t *testing.T) {
	var got []string
	for _, e := range parse(t, read(t, "uki-ipxe.bin")) {
		if e.PCR == 4 || e.PCR == 9 || e.PCR == 11 && strings.HasSuffix(e.What, ".linux") {
			got = append(got, e.What)
		}
	}
	want := []string{
		`firmware action "Calling EFI Application from Boot Option"`, "separator", "EFI application from memory", "EFI application from the network",
		"name of section .linux", "section .linux", "EFI application that is the kernel in a UKI", "command line", "initrd",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if e := only(parse(t, read(t, "uki-disk.bin")), 4)[2]; e.What != `EFI application "\EFI\BOOT\BOOTX64.EFI"` {
		t.Errorf("got %s", e.What)
	}
}

func utf16z(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s + "\x00")) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func TestDescribe(t *testing.T) {
	options := utf16z("init=/bin/sh")
	digest := sha256.Sum256(options)
	other := sha256.Sum256([]byte("a cpio"))
	tests := []struct {
		name         string
		pcr          int
		typ          uint32
		digest, data []byte
		want         string
	}{
		{"load options", 12, evIPL, digest[:], options, `command line override "init=/bin/sh"`},
		{"credentials", 12, evIPL, other[:], utf16z("Credentials initrd"), "credentials that lie beside the UKI (*.cred)"},
		{"grub", 8, evIPL, other[:], []byte("grub_cmd: linux /vmlinuz\x00"), `boot loader's event "grub_cmd: linux /vmlinuz"`},
		{"section of another boot", 11, evIPL, other[:], utf16z(".linux"), "section .linux"},
		{"escapes", 4, evAction, nil, []byte("\x1b[2Jgone\"\n"), `firmware action "?[2Jgone??"`},
		{"long", 4, evAction, nil, bytes.Repeat([]byte("x"), 1000), `firmware action "` + strings.Repeat("x", 77) + `..."`},
		{"section with escapes", 11, evIPL, other[:], []byte(".\x1b[2J"), `section ".?[2J"`},
		{"section that talks", 11, evIPL, other[:], []byte(".linux is as it should be; call 555"), `section ".linux is as it should be; call 555"`},
		{"short application", 4, evApplication, nil, []byte{1}, "EFI application"},
		{"broken device path", 4, evApplication, nil, append(make([]byte, 32), 4, 4, 0xff, 0xff, 1), "EFI application from memory"},
		{"device path without end", 4, evApplication, nil, append(make([]byte, 32), 3, 11, 4, 0), "EFI application from the network"},
		{"driver", 2, evDriver, nil, nil, "EFI driver"},
		{"another tag", 9, evTag, nil, []byte("\x01\x00\x00\x00\x02\x00\x00\x00hi"), `tagged event 0x1 "hi"`},
		{"empty tag", 9, evTag, nil, nil, "tagged event"},
		{"unknown", 0, 0x77, nil, nil, "event of type 0x77"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := describe(tt.pcr, tt.typ, tt.digest, tt.data); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestStartupLocality: with Intel TXT and some boot guards the log says by which
// locality the TPM was started, which extends nothing.
func TestStartupLocality(t *testing.T) {
	good := read(t, "uki-disk.bin")
	const second = 65                                         // the first event of the new format
	said := binary.LittleEndian.AppendUint32(nil, 0)          // PCR
	said = binary.LittleEndian.AppendUint32(said, evNoAction) // type
	said = append(said, 1, 0, 0, 0, 0x0b, 0)                  // one digest, SHA-256
	said = append(said, make([]byte, sha256.Size)...)
	said = append(binary.LittleEndian.AppendUint32(said, 17), "StartupLocality\x00\x03"...)
	if diff := cmp.Diff(parse(t, good), parse(t, slices.Insert(bytes.Clone(good), second, said...))); diff != "" {
		t.Errorf("(-without +with):\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	good := read(t, "uki-disk.bin")
	put := func(off int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[off:], v); return b }
	}
	const algs, second = 32 + 24, 65 // second: the first event of the new format
	tests := []struct {
		name   string
		change func([]byte) []byte
		want   string
	}{
		{"empty", func([]byte) []byte { return nil }, "0 bytes"},
		{"too large", func(b []byte) []byte { return append(b, make([]byte, MaxSize)...) }, "limit 262144"},
		{"cut off", func(b []byte) []byte { return b[:len(b)-1] }, ""},
		{"no algorithm", put(algs, 0), "digests of 0 algorithms"},
		{"many algorithms", put(algs, 9), "digests of 9 algorithms"},
		{"SHA-1 only", put(algs+4, 20<<16|4), "enable the TPM's SHA-256 bank"},
		{"digests of no bytes", put(algs+4, 11), "digests of 0 bytes"},
		{"digests of 60 KiB", put(algs+4, 60000<<16|11), "digests of 60000 bytes"},
		{"short SHA-256", put(algs+4, 31<<16|11), ""},
		{"PCR 24", put(second, 24), "of PCR 24"},
		{"PCR -1", put(second, 0xfffffffe), "of PCR"},
		{"too many events", func(b []byte) []byte {
			one := b[second:][:8+4+2+32+4+2] // S-CRTM version, two bytes of data
			return append(b, bytes.Repeat(one, maxEvents)...)
		}, "more than 1024 events"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Parse(tt.change(bytes.Clone(good))); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestExplained goes from the log of a boot behind a boot loader to the words
// that the operator reads.
func TestExplained(t *testing.T) {
	disk, pxe := parse(t, read(t, "uki-disk.bin")), parse(t, read(t, "uki-ipxe.bin"))
	m := &measure.Manifest{PCRs: map[int]measure.Hex{}, Form: measure.FormUKI}
	for _, e := range disk {
		if e.PCR == 4 || e.PCR == 9 || e.PCR == 11 {
			m.Events = append(m.Events, e)
		}
	}
	for n, v := range measure.Replay(disk) {
		m.PCRs[n] = v
	}
	got := m.Explain(measure.Replay(pxe), pxe)
	if len(got) != 1 || got[0].String() != "PCR 4: more than the image: EFI application from the network (measured ff59b9ab…)" {
		t.Errorf("got %v", got)
	}
}

func FuzzEventLog(f *testing.F) {
	for _, log := range real() {
		f.Add(read(f, log.file))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("another error: %v", err)
			}
			return
		}
		for _, e := range events {
			if len(e.Digest) != measure.Size || e.PCR < 0 || e.PCR >= pcrs || len(e.What) > 128 {
				t.Errorf("event %+v", e)
			}
			if strings.ContainsFunc(e.What, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("not printable: %q", e.What)
			}
		}
	})
}

package measure

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/signed"
)

func TestNumbers(t *testing.T) {
	// docs/spec/pcr.md; never to change.
	if diff := cmp.Diff([]int{4, 9, 11, 12}, ImagePCRs()); diff != "" {
		t.Errorf("ImagePCRs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int{0, 2, 4, 7, 8, 9, 11, 12}, QuotePCRs()); diff != "" {
		t.Errorf("QuotePCRs (-want +got):\n%s", diff)
	}
	for name, tt := range map[string]struct{ got, want string }{
		// printf 'landfall cap v1' | sha256sum
		"cap digest": {Hex(CapDigest()).String(), "7ef7f23aacf152e8061d9372cc1d741d6e636586d16932ae7efd4d0f9ac1719f"},
		// head -c 64 /dev/zero | sha256sum
		"extend zeros": {Hex(SliceValue(make([]byte, 32))).String(), "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: got %s, want %s", name, tt.got, tt.want)
		}
	}
}

func manifest() *Manifest {
	m := &Manifest{
		Type: ManifestType, Image: "landfall-server", Version: "1.4", Role: RoleServer, Form: FormEFIKernel,
		PCRs: map[int]Hex{}, Files: map[string]Hex{"vmlinuz": bytes.Repeat([]byte{3}, Size)},
	}
	for _, n := range ImagePCRs() {
		m.PCRs[n] = bytes.Repeat([]byte{byte(n)}, Size)
	}
	return m
}

func keys(t testing.TB) (note.Signer, note.Verifier) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(nil, "test/manifest")
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func TestSignOpen(t *testing.T) {
	signer, verifier := keys(t)
	want := manifest()
	msg, err := SignManifest(want, signer)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenManifest(msg, verifier)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-signed +opened):\n%s", diff)
	}
	_, stranger := keys(t)
	if _, err := OpenManifest(msg, stranger); !errors.Is(err, signed.ErrSignature) {
		t.Errorf("another key: got %v, want ErrSignature", err)
	}
	if _, err := OpenManifest(bytes.Replace(msg, []byte(`"server"`), []byte(`"debug"`), 1), verifier); !errors.Is(err, signed.ErrSignature) {
		t.Errorf("another role written in: got %v, want ErrSignature", err)
	}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(m *Manifest)
		want   string // part of the error; "" passes
	}{
		{"good", func(*Manifest) {}, ""},
		{"no files", func(m *Manifest) { m.Files = nil }, ""},
		{"other type", func(m *Manifest) { m.Type = "landfall.dev/slice/v1" }, "type is"},
		{"no name", func(m *Manifest) { m.Image = "" }, "no name"},
		{"no version", func(m *Manifest) { m.Version = "" }, "no semantic version"},
		{"unknown role", func(m *Manifest) { m.Role = "root" }, "unknown role"},
		{"unknown form", func(m *Manifest) { m.Form = "grub" }, "unknown boot form"},
		{"PCR missing", func(m *Manifest) { delete(m.PCRs, 12) }, "PCR 12 has 0 bytes"},
		{"PCR more", func(m *Manifest) { m.PCRs[7] = make(Hex, Size) }, "5 PCRs"},
		{"PCR 10 for 11", func(m *Manifest) { m.PCRs[10] = m.PCRs[11]; delete(m.PCRs, 11) }, "PCR 11 has 0 bytes"},
		{"SHA-1 value", func(m *Manifest) { m.PCRs[4] = m.PCRs[4][:20] }, "PCR 4 has 20 bytes"},
		{"capped value", func(m *Manifest) { m.PCRs[CapPCR] = Extend(make([]byte, Size), CapDigest()) }, "capped value"},
		{"unmeasured kernel", func(m *Manifest) { m.PCRs[4] = make(Hex, Size) }, "PCR 4 is zero"},
		{"unmeasured initrd", func(m *Manifest) { m.PCRs[9] = make(Hex, Size) }, "PCR 9 is zero"},
		{"unmeasured UKI", func(m *Manifest) { m.Form, m.PCRs[11] = FormUKI, make(Hex, Size) }, "PCR 11 is zero"},
		{"UKI without PCR 9", func(m *Manifest) { m.Form, m.PCRs[9] = FormUKI, make(Hex, Size) }, ""},
		{"kernel form without PCR 11 and 12", func(m *Manifest) { m.PCRs[11], m.PCRs[12] = make(Hex, Size), make(Hex, Size) }, ""},
		{"lab", func(m *Manifest) { m.Form, m.PCRs[4], m.PCRs[9] = FormLab, make(Hex, Size), make(Hex, Size) }, ""},
		{"short file digest", func(m *Manifest) { m.Files["vmlinuz"] = Hex{1} }, "digest of"},
		{"several at once", func(m *Manifest) { m.Role, m.Image = "", "" }, "no name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := manifest()
			tt.change(m)
			err := m.Validate()
			if (err == nil) != (tt.want == "") || (err != nil && (!errors.Is(err, errManifest) || !strings.Contains(err.Error(), tt.want))) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			signer, _ := keys(t)
			if _, err := SignManifest(m, signer); (err == nil) != (tt.want == "") {
				t.Errorf("SignManifest: got %v", err)
			}
		})
	}
}

func TestMatch(t *testing.T) {
	good := func() map[int][]byte {
		p := map[int][]byte{0: {1}, 8: {2}}
		for n, v := range manifest().PCRs {
			p[n] = v
		}
		return p
	}
	tests := []struct {
		name   string
		change func(p map[int][]byte)
		want   []int
	}{
		{"same image", func(map[int][]byte) {}, nil},
		{"other kernel", func(p map[int][]byte) { p[4] = make([]byte, Size) }, []int{4}},
		{"capped", func(p map[int][]byte) { p[12] = Extend(p[12], CapDigest()) }, []int{12}},
		{"missing", func(p map[int][]byte) { delete(p, 11) }, []int{11}},
		{"first bytes equal only", func(p map[int][]byte) { p[9] = p[9][:31] }, []int{9}},
		{"nothing", func(p map[int][]byte) { clear(p) }, []int{4, 9, 11, 12}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := good()
			tt.change(p)
			if diff := cmp.Diff(tt.want, manifest().Match(p)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got := new(Manifest).Match(nil); len(got) != 4 {
		t.Errorf("an empty manifest matches nothing: got %v", got)
	}
}

// TestVectors: each file that testdata/vectors.json or vectors-events.json lists
// opens with the error that is named there.
func TestVectors(t *testing.T) {
	for _, name := range []string{"vectors.json", "vectors-events.json"} {
		testVectors(t, name)
	}
}

func testVectors(t *testing.T, name string) {
	file, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Key   string            `json:"key"`
		Files map[string]string `json:"files"`
	}
	if err := json.Unmarshal(file, &v); err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(v.Key)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]error{
		"": nil, "signature": signed.ErrSignature, "type": signed.ErrType, "form": signed.ErrForm, "manifest": errManifest,
	}
	for name, kind := range v.Files {
		t.Run(name, func(t *testing.T) {
			msg, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			want, known := kinds[kind]
			if _, err := OpenManifest(msg, verifier); !errors.Is(err, want) || !known || (err == nil) != (want == nil) {
				t.Errorf("got %v, want %q", err, kind)
			}
		})
	}
}

func FuzzManifest(f *testing.F) {
	signer, verifier := keys(f)
	msg, err := SignManifest(manifest(), signer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(msg)
	text, err := signed.Marshal(manifest())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := OpenManifest(b, verifier); err == nil && !bytes.HasPrefix(b, text) {
			t.Error("opened what was never signed")
		}
		// Past the signature: the parser alone.
		m := new(Manifest)
		if err := signed.Unmarshal(b, ManifestType, m); err != nil || m.Validate() != nil {
			return
		}
		again, err := signed.Marshal(m)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("accepted a text that is not canonical: %q, %v", b, err)
		}
	})
}

// TestFaultsInOneOrder: Go walks Files in any order, the faults are listed in one.
func TestFaultsInOneOrder(t *testing.T) {
	m := manifest()
	m.Files = map[string]Hex{"a": {1}, "b": {1}, "c": {1}, "d": {1}}
	first := fmt.Sprint(m.Validate())
	for range 50 {
		if again := fmt.Sprint(m.Validate()); again != first {
			t.Fatalf("%s\nand then\n%s", first, again)
		}
	}
}

package snapshot

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/signed"
)

// goodDocument uses every field of the format.
func goodDocument(t testing.TB) *Document {
	d := rackDocument(t)
	d.Generation = 2
	e := &d.Devices[1]
	whole := goodSlice(t)
	e.Hostname, e.Interfaces[0].Gateway, e.Interfaces[0].MTU, e.Interfaces[1].MTU = "r07-u12.north.example", "10.0.7.1", 9000, 1500
	e.Boot, e.Generation = whole.Boot, 2
	e.Volumes = whole.Volumes
	e.Amendment = &Amendment{Replaces: strings.Repeat("00", 32), Reason: "dead", Waivers: []Waiver{{Interface: "eth2", Peer: "r07-u13", Reason: "dead"}}}
	d.Devices[0].DHCP.Boot = &NetBoot{Server: "10.0.7.2", File: "landfall.efi", Script: "http://10.0.7.2/boot.ipxe"}
	d.Links = slices.Insert(d.Links, 3, Cable{A: Port{"r07-u14", "eth0"}, B: Port{"r07-u15", "eth0"}, Link: "routed", Check: "advisory"})
	return d
}

// TestFrozenDocument pins format v1 of the snapshot.
func TestFrozenDocument(t *testing.T) {
	signer, root := testKeys(t, "root")
	want := goodDocument(t)
	if *update {
		msg, err := SignDocument(want, signer)
		if err != nil {
			t.Fatal(err)
		}
		writeTestdata(t, "snapshot-v1.note", msg)
	}
	got, err := OpenDocument(readTestdata(t, "snapshot-v1.note"), root)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("frozen snapshot (-want +got):\n%s", diff)
	}
	if n := got.Slice("r07-u15").Neighbors[0]; n.Address != "10.0.7.5" || n.Link != "routed" {
		t.Errorf("routed neighbor %+v, want it asked at 10.0.7.5", n)
	}
	if got.Find("r07-u12") == nil || got.Find("r07-u99") != nil {
		t.Error("Find is mistaken")
	}
}

func TestDocumentVectors(t *testing.T) {
	signer, root := testKeys(t, "root")
	stranger, _ := testKeys(t, "other")
	frozen := readTestdata(t, "snapshot-v1.note")
	text, _, _ := strings.Cut(string(frozen), "\n\n")
	text += "\n"
	sign := func(text string, s note.Signer) []byte {
		b, err := note.Sign(&note.Note{Text: text}, s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	edit := func(old, new string) []byte {
		if !strings.Contains(text, old) {
			t.Fatalf("fixture has no %q", old)
		}
		return sign(strings.Replace(text, old, new, 1), signer)
	}
	last := text[strings.LastIndex(text, `"device": "r07-u14"`):]
	made := []vector{
		{"every field", "ok", "", frozen},
		{"no signature", "signature", "", []byte(text)},
		{"signed by another key", "signature", "", sign(text, stranger)},
		{"edited after signing", "signature", "", bytes.Replace(frozen, []byte("10.0.7.3/24"), []byte("10.0.7.9/24"), 1)},
		{"a slice", "type", "", readTestdata(t, "slice-v1.note")},
		{"unknown field", "form", "", edit(`"region"`, `"regions": 1, "region"`)},
		{"field twice", "form", "", edit(`"generation": 2,`, "\"generation\": 1,\n  \"generation\": 2,")},
		{"address twice", "invalid", "r07-u13/eth0", edit("10.0.7.4/24", "10.0.7.3/24")},
		{"MAC address twice", "invalid", "r07-u13/eth0", edit("52:54:00:00:03:00", "52:54:00:00:02:00")},
		{"device twice", "invalid", "r07-u12: id", edit(`"id": "r07-u13"`, `"id": "r07-u12"`)},
		{"link to nobody", "invalid", "link r07-u14/eth2 - r07-u99/eth1", edit(last, strings.Replace(last, "r07-u15", "r07-u99", 1))},
		{"link to no interface", "invalid", "link r07-u14/eth2 - r07-u15/eth7", edit(last, strings.Replace(last, "eth1", "eth7", 1))},
		{"link of a device with itself", "invalid", "link r07-u14/eth2 - r07-u14/eth1", edit(last, strings.Replace(last, "r07-u15", "r07-u14", 1))},
		{"ends in the wrong order", "invalid", "link r07-u14/eth2 - r07-u13/eth1", edit(last, strings.Replace(last, "r07-u15", "r07-u13", 1))},
		{"quarantine in use", "invalid", "r07-u01: dhcp.quarantine", edit(`"first": "10.0.7.200"`, `"first": "10.0.7.6"`)},
		{"lists of DHCP at a server", "invalid", "r07-u01: dhcp", edit("\"dhcp\",\n        \"keyserver\"", "\"keyserver\"")},
		{"generation without amendment", "invalid", "r07-u13: amendment", edit("\"srk_public\": \"c3JrIG9mIHIwNy11MTM=\",\n      \"generation\": 1", "\"srk_public\": \"c3JrIG9mIHIwNy11MTM=\",\n      \"generation\": 2")},
	}
	checkVectors(t, "snapshot-vectors.json", made, func(b []byte) error {
		_, err := OpenDocument(b, root)
		return err
	})
}

// FuzzDocument fuzzes the text behind the signature: whatever passes is
// canonical, has a slice for each device that passes as well, and differs from
// itself in nothing.
func FuzzDocument(f *testing.F) {
	text, _, _ := bytes.Cut(readTestdata(f, "snapshot-v1.note"), []byte("\n\n"))
	f.Add(append(text, '\n'))
	f.Add([]byte("{\n  \"type\": \"landfall.dev/snapshot/v1\"\n}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := ParseDocument(text)
		if err != nil {
			return
		}
		again, err := d.Bytes()
		if err != nil || !bytes.Equal(text, again) {
			t.Fatalf("read, but written differently: %v", err)
		}
		for s := range d.Slices() {
			if err := s.Validate(); err != nil {
				t.Fatalf("slice of a valid snapshot: %v", err)
			}
		}
		if lines := DiffDocuments(d, d); len(lines) > 0 {
			t.Errorf("differs from itself: %q", lines)
		}
	})
}

// FuzzCapture: what a machine posts is bounded, harmless and can be assembled.
func FuzzCapture(f *testing.F) {
	src := rackSources(f)
	for _, c := range src.Captures {
		b, err := c.Bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseCapture(text)
		if err != nil {
			return
		}
		b, err := c.Bytes()
		if err != nil || len(b) > MaxCaptureSize {
			t.Fatalf("read but cannot be written: %d bytes, %v", len(b), err)
		}
		src := rackSources(t)
		src.Captures[1] = c
		doc, notes, err := Assemble(src)
		if err == nil && doc.Validate() != nil {
			t.Error("assembled, but not valid")
		}
		for _, n := range append(notes, errorText(err)) {
			if strings.ContainsFunc(n, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) {
				t.Errorf("%q would draw on a console", n)
			}
		}
	})
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// FuzzPlan: what an importer or a person wrote never breaks Assemble.
func FuzzPlan(f *testing.F) {
	text, err := signed.Marshal(rackSources(f).Plans[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		src := rackSources(t)
		var err error
		if src.Plans[0], err = ParsePlan(text); err != nil {
			return
		}
		doc, _, err := Assemble(src)
		if err != nil {
			return
		}
		if _, err := doc.Bytes(); err != nil {
			t.Errorf("assembled, but not valid: %v", err)
		}
	})
}

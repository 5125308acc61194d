package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/newc"
	"github.com/landfall-project/landfall/pkg/signed"
)

// vector is one document with what a reader must make of it, for other
// implementations too: docs/spec/slice.md and landfall-partition.md.
type vector struct {
	Name  string `json:"name"`
	Want  string `json:"want"`            // "ok", or why it is refused
	Field string `json:"field,omitempty"` // that an "invalid" slice contradicts itself in
	Data  []byte `json:"data"`
}

func vectorResult(err error) string {
	for name, target := range map[string]error{
		"size": signed.ErrSize, "signature": signed.ErrSignature, "type": signed.ErrType, "form": signed.ErrForm, "partition": ErrPart,
	} {
		if errors.Is(err, target) {
			return name
		}
	}
	if err != nil {
		return "invalid"
	}
	return "ok"
}

func checkVectors(t *testing.T, file string, made []vector, read func([]byte) error) {
	t.Helper()
	if *update {
		b, err := json.MarshalIndent(made, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		writeTestdata(t, file, append(b, '\n'))
	}
	var vectors []vector
	if err := json.Unmarshal(readTestdata(t, file), &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) != len(made) {
		t.Errorf("%s holds %d vectors, the test makes %d", file, len(vectors), len(made))
	}
	for _, v := range vectors {
		err := read(v.Data)
		if got := vectorResult(err); got != v.Want {
			t.Errorf("%s: %s: %q (%v), want %q", file, v.Name, got, err, v.Want)
		}
		if v.Field != "" && !strings.Contains(err.Error(), v.Field+": ") {
			t.Errorf("%s: %s: %v, want a complaint about %s", file, v.Name, err, v.Field)
		}
	}
}

func TestSliceVectors(t *testing.T) {
	signer, root := testKeys(t, "root")
	stranger, _ := testKeys(t, "other")
	text, _, _ := strings.Cut(string(readTestdata(t, "slice-v1.note")), "\n\n")
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
	bootKeys := ",\n    \"keys\": [\n      \"" + strings.TrimSpace(string(readTestdata(t, "boot.pub"))) + "\"\n    ]"
	unsigned := strings.NewReplacer(bootKeys, "", ",\n    \"kernel_signature\": true", "")
	made := []vector{
		{"every field", "ok", "", readTestdata(t, "slice-v1.note")},
		{"no signature of the boot entry demanded", "ok", "", sign(unsigned.Replace(text), signer)},
		{"no signature", "signature", "", []byte(text)},
		{"signed by another key", "signature", "", sign(text, stranger)},
		{"edited after signing", "signature", "", bytes.Replace(readTestdata(t, "slice-v1.note"), []byte("10.0.7.12"), []byte("10.0.7.13"), 1)},
		{"another type", "type", "", edit(SliceType, "landfall.dev/received/v1")},
		{"a later version", "type", "", edit(SliceType, "landfall.dev/slice/v2")},
		{"unknown field", "form", "", edit(`"region"`, `"regions": 1, "region"`)},
		{"field twice", "form", "", edit(`"generation": 2,`, "\"generation\": 1,\n  \"generation\": 2,")},
		{"field in other case", "form", "", edit(`"hostname"`, `"Hostname"`)},
		{"escaped letter", "form", "", edit("north", `n\u006frth`)},
		{"trailing document", "form", "", sign(text+"{}\n", signer)},
		{"other indentation", "form", "", sign(strings.ReplaceAll(text, "  ", " "), signer)},
		{"SRK of another name", "invalid", "device.srk_public", edit(`"srk_public": "c3`, `"srk_public": "d3`)},
		{"UUID of another volume", "invalid", "volumes[0].uuid", edit(VolumeUUID("r07-u12", "root"), VolumeUUID("r07-u12", "data0"))},
		{"optional root", "invalid", "volumes[0].need", edit(`"need": "required"`, `"need": "optional"`)},
		{"key server by name", "invalid", "fleet.members[0].url", edit("https://10.0.7.2:", "https://kek.example:")},
		{"signature demanded, nobody may sign", "invalid", "boot.keys", edit(bootKeys, "")},
		{"boot key that is none", "invalid", "boot.keys[0]", edit("test-region/boot+", "test-region/boot-")},
		{"generation 1 with an amendment", "invalid", "amendment", edit(`"generation": 2`, `"generation": 1`)},
	}
	checkVectors(t, "slice-vectors.json", made, func(b []byte) error {
		_, _, err := OpenSlice(b, root)
		return err
	})
}

func TestPartVectors(t *testing.T) {
	archive := func(fill func(*newc.Writer)) []byte {
		w := new(newc.Writer)
		fill(w)
		return w.Bytes()
	}
	dir := func(w *newc.Writer) { w.Dir(partDir, 0o755) }
	small := archive(func(w *newc.Writer) { dir(w); w.File(partToken, 0o600, []byte("token\n")) })
	made := []vector{
		{"token only", "ok", "", small},
		{"tail behind the archive", "ok", "", append(bytes.Clone(small), "old content"...)},
		{"zeros", "partition", "", make([]byte, 512)},
		{"seal plan", "ok", "", archive(func(w *newc.Writer) { dir(w); w.File(partPlan, 0o644, []byte("{}")) })},
		{"seal plan too long", "partition", "", archive(func(w *newc.Writer) { dir(w); w.File(partPlan, 0o644, make([]byte, MaxSealPlan+1)) })},
		{"cut off", "partition", "", small[:200]},
		{"no directory", "partition", "", archive(func(w *newc.Writer) { w.File(partSlice, 0o644, []byte("x")) })},
		{"unknown file", "partition", "", archive(func(w *newc.Writer) { dir(w); w.File("landfall/init", 0o755, nil) })},
		{"climbing name", "partition", "", archive(func(w *newc.Writer) { dir(w); w.File("landfall/../init", 0o755, nil) })},
		{"slice twice", "partition", "", archive(func(w *newc.Writer) { dir(w); w.File(partSlice, 0, nil); w.File(partSlice, 0, nil) })},
		{"policy 1 without 0", "partition", "", archive(func(w *newc.Writer) { dir(w); w.File(policyName(1), 0, []byte("x")) })},
		{"symbolic link", "partition", "", bytes.Replace(small, []byte("00008180"), []byte("0000a180"), 1)},
		{"name without end", "partition", "", bytes.Replace(small, []byte("token\x00"), []byte("tokenx"), 1)},
	}
	checkVectors(t, "part-vectors.json", made, func(b []byte) error {
		_, err := ReadPart(bytes.NewReader(b), int64(len(b)))
		return err
	})
}

package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/landfall-project/landfall/pkg/newc"
)

func goodPart(t testing.TB) *Part {
	station := &Station{Type: StationType, Device: "r07-u12",
		Fleet: Fleet{CA: testCA(t), Members: []Member{{ID: "kek-1", URL: "https://10.0.7.2:7443"}}}}
	text, err := station.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return &Part{
		Slice:    readTestdata(t, "slice-v1.note"),
		Policies: [][]byte{[]byte("{\"a\":1}\n"), []byte("{}\n")},
		Station:  text,
		Token:    []byte("LFT1-one-use\n"),
	}
}

func TestPartRoundTrip(t *testing.T) {
	full := goodPart(t)
	for name, want := range map[string]*Part{
		"all":         full,
		"with a plan": {Slice: full.Slice, Policies: full.Policies, Plan: readTestdata(t, "seal-plan-v1.json")},
		"server":      {Slice: full.Slice, Policies: full.Policies},
		"before seal": {Station: full.Station, Token: full.Token},
		"empty":       {},
	} {
		b, err := want.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if len(b)%512 != 0 {
			t.Errorf("%s: %d bytes are no whole sectors", name, len(b))
		}
		// A partition is larger than its content, and its tail is anything.
		disk := append(bytes.Clone(b), bytes.Repeat([]byte("old"), 5000)...)
		got, err := ReadPart(bytes.NewReader(disk), int64(len(disk)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-written +read):\n%s", name, diff)
		}
	}
}

// TestFrozenPart pins the partition's bytes.
func TestFrozenPart(t *testing.T) {
	b, err := goodPart(t).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		writeTestdata(t, "part-v1.img", b)
	}
	if !bytes.Equal(b, readTestdata(t, "part-v1.img")) {
		t.Error("today's writer makes other bytes than v1")
	}
}

// TestPartCPIO holds the archive against GNU cpio, a reader that is not ours.
func TestPartCPIO(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("cpio", "--extract", "--quiet", "--make-directories")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(readTestdata(t, "part-v1.img"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	want := goodPart(t)
	for name, data := range map[string][]byte{partSlice: want.Slice, "landfall/policy/1.json": want.Policies[1], partToken: want.Token} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s as cpio unpacks it: %q, %v", name, got, err)
		}
	}
}

func TestReadPartRefuses(t *testing.T) {
	archive := func(fill func(*newc.Writer)) []byte {
		w := new(newc.Writer)
		fill(w)
		return w.Bytes()
	}
	dir := func(w *newc.Writer) { w.Dir(partDir, 0o755) }
	good := readTestdata(t, "part-v1.img")
	for _, tc := range []struct {
		name string
		data []byte
	}{
		{"empty", nil},
		{"zeros", make([]byte, 4096)},
		{"cut off", good[:1000]},
		{"no directory", archive(func(w *newc.Writer) { w.File(partSlice, 0o644, []byte("x")) })},
		{"unknown file", archive(func(w *newc.Writer) { dir(w); w.File("landfall/init", 0o755, nil) })},
		{"path that climbs", archive(func(w *newc.Writer) { dir(w); w.File("landfall/../init", 0o755, nil) })},
		{"unknown directory", archive(func(w *newc.Writer) { dir(w); w.Dir("etc", 0o755) })},
		{"slice twice", archive(func(w *newc.Writer) {
			dir(w)
			w.File(partSlice, 0o644, []byte("a"))
			w.File(partSlice, 0o644, []byte("b"))
		})},
		{"policy out of order", archive(func(w *newc.Writer) { dir(w); w.File(policyName(1), 0o644, []byte("x")) })},
		{"huge token", archive(func(w *newc.Writer) { dir(w); w.File(partToken, 0o600, bytes.Repeat([]byte("x"), maxTokenSize+1)) })},
		{"huge slice", archive(func(w *newc.Writer) { dir(w); w.File(partSlice, 0o600, make([]byte, MaxSliceSize+1)) })},
		{"too many entries", archive(func(w *newc.Writer) {
			dir(w)
			for i := range maxPartEntries {
				w.File(policyName(i), 0o644, []byte("x"))
			}
		})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := ReadPart(bytes.NewReader(tc.data), int64(len(tc.data)))
			if !errors.Is(err, ErrPart) {
				t.Errorf("ReadPart = %+v, %v; want ErrPart", p, err)
			}
		})
	}
}

// memDevice is a block device in memory that can lose power.
type memDevice struct {
	*bytes.Reader
	b []byte
}

func (d *memDevice) WriteAt(p []byte, off int64) (int, error) { return copy(d.b[off:], p), nil }

func TestBlankToken(t *testing.T) {
	b := bytes.Clone(readTestdata(t, "part-v1.img"))
	dev := &memDevice{bytes.NewReader(b), b}
	for range 2 { // the second time there is nothing left to do
		if err := BlankToken(dev, int64(len(b))); err != nil {
			t.Fatal(err)
		}
		want := goodPart(t)
		want.Token = nil
		got, err := ReadPart(dev, int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("after blanking (-want +got):\n%s", diff)
		}
	}
	if bytes.Contains(b, []byte("one-use")) {
		t.Error("the token is still on the disk")
	}
}

func TestStation(t *testing.T) {
	good := string(goodPart(t).Station)
	if _, err := ParseStation([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range [][2]string{
		{`"device": "r07-u12"`, `"device": "R07"`},
		{`"https://`, `"http://`},
		{`station/v1`, `slice/v1`},
		{`"fleet"`, `"fleets"`},
	} {
		bad := strings.Replace(good, tc[0], tc[1], 1)
		if bad == good {
			t.Fatalf("%s is not there", tc[0])
		}
		if s, err := ParseStation([]byte(bad)); err == nil {
			t.Errorf("%s accepted: %+v", tc[1], s)
		}
	}
	if _, err := ParseStation([]byte(fmt.Sprintf("%*s", maxStationSize+1, ""))); err == nil {
		t.Error("huge document accepted")
	}
}

// TestBlankPartition tells what was never written from what is broken.
func TestBlankPartition(t *testing.T) {
	broken := make([]byte, 4096)
	broken[100] = 1
	for name, tc := range map[string]struct {
		content []byte
		blank   bool
	}{
		"blank":      {make([]byte, 4096), true},
		"one sector": {make([]byte, 512), true},
		"broken":     {broken, false},
		"nothing":    {nil, false},
	} {
		_, err := ReadPart(bytes.NewReader(tc.content), int64(len(tc.content)))
		if !errors.Is(err, ErrPart) || errors.Is(err, ErrBlank) != tc.blank {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMostPolicies: a partition with everything in it holds MaxPolicies, and not
// one more.
func TestMostPolicies(t *testing.T) {
	p := &Part{Slice: []byte("s"), Station: []byte("{}"), Token: []byte("t"), Plan: []byte("{}")}
	for range MaxPolicies {
		p.Policies = append(p.Policies, []byte("{}"))
	}
	b, err := p.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ReadPart(bytes.NewReader(b), int64(len(b))); err != nil || len(got.Policies) != MaxPolicies {
		t.Errorf("ReadPart = %+v, %v", got, err)
	}
	p.Policies = append(p.Policies, []byte("{}"))
	if _, err := p.Bytes(); !errors.Is(err, ErrPart) {
		t.Errorf("one more: %v", err)
	}
}

package snapshot

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/signed"
)

func rackDocument(t testing.TB) *Document {
	t.Helper()
	doc, _, err := Assemble(rackSources(t))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func digestOf(t *testing.T, s *Slice) string {
	t.Helper()
	text, err := signed.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	d := signed.Digest(text)
	return hex.EncodeToString(d[:])
}

func TestAmend(t *testing.T) {
	newKeys := TPMKeys{EKName: tpmName([]byte("ek new")), AKName: tpmName([]byte("ak new")), SRKName: tpmName([]byte("srk new")), SRKPublic: []byte("srk new")}
	for name, tc := range map[string]struct {
		change Change
		want   []string // devices that need a new slice
		words  string
	}{
		"new NIC with a lease": {Change{MACs: map[Port]string{{"r07-u12", "eth0"}: "52:54:00:00:99:00"}},
			[]string{"r07-u01", "r07-u12"}, "r07-u12: eth0 MAC address changes from 52:54:00:00:02:00 to 52:54:00:00:99:00"},
		"new NIC without": {Change{MACs: map[Port]string{{"r07-u12", "eth2"}: "52:54:00:00:99:00"}}, []string{"r07-u12"}, "eth2 MAC address"},
		"replaced neighbor": {Change{Keys: map[string]TPMKeys{"r07-u13": newKeys}}, []string{"r07-u12", "r07-u13", "r07-u14"},
			"r07-u13: AK changes from " + tpmName([]byte("ak r07-u13")) + " to " + newKeys.AKName},
		"key server moved": {Change{Members: []Member{{"kek-1", "https://10.0.7.3:7443"}}},
			[]string{"r07-u01", "r07-u12", "r07-u13", "r07-u14", "r07-u15"}, "URL of key server kek-1 changes from https://10.0.7.2:7443 to https://10.0.7.3:7443"},
		"waiver": {Change{Waive: []Waiving{{Port{"r07-u12", "eth2"}, "r07-u13", "dead"}}}, []string{"r07-u12"}, "r07-u12: waiver of eth2 to r07-u13 is new"},
	} {
		t.Run(name, func(t *testing.T) {
			old := rackDocument(t)
			before, err := old.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			edited, err := tc.change.Apply(old)
			if err != nil {
				t.Fatal(err)
			}
			next, changed, err := Amend(old, edited, "because")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, changed); diff != "" {
				t.Errorf("changed devices (-want +got):\n%s", diff)
			}
			if after, err := old.Bytes(); err != nil || string(before) != string(after) {
				t.Errorf("the old snapshot was touched: %v", err)
			}
			if next.Generation != 2 {
				t.Errorf("generation %d", next.Generation)
			}
			for s := range next.Slices() {
				was := old.Slice(s.Device.ID)
				if !strings.Contains(strings.Join(changed, " "), s.Device.ID) {
					if diff := cmp.Diff(was, s); diff != "" {
						t.Errorf("slice of %s moved:\n%s", s.Device.ID, diff)
					}
					continue
				}
				if err := s.Validate(); err != nil {
					t.Error(err)
				}
				if s.Generation != 2 || s.Amendment.Replaces != digestOf(t, was) || s.Amendment.Reason != "because" {
					t.Errorf("%s: generation %d, %+v, want it to replace %s", s.Device.ID, s.Generation, s.Amendment, digestOf(t, was))
				}
			}
			if words := strings.Join(DiffDocuments(old, next), "\n"); !strings.Contains(words, tc.words) {
				t.Errorf("diff says\n%s\nwant %s", words, tc.words)
			}
		})
	}
}

// TestAmendAgain: a later amendment keeps the waivers of the one before, and
// replaces its slice.
func TestAmendAgain(t *testing.T) {
	step := func(d *Document, c Change) *Document {
		t.Helper()
		edited, err := c.Apply(d)
		if err != nil {
			t.Fatal(err)
		}
		next, _, err := Amend(d, edited, "step")
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	w := Waiving{Port{"r07-u12", "eth2"}, "r07-u13", "dead"}
	one := rackDocument(t)
	two := step(one, Change{Waive: []Waiving{w}})
	three := step(two, Change{MACs: map[Port]string{{"r07-u12", "eth0"}: "52:54:00:00:99:00"}})
	s := three.Slice("r07-u12")
	if s.Generation != 3 || len(s.Amendment.Waivers) != 1 || s.Amendment.Replaces != digestOf(t, two.Slice("r07-u12")) {
		t.Errorf("third slice: generation %d, %+v", s.Generation, s.Amendment)
	}
	if got := three.Slice("r07-u01").Generation; got != 2 {
		t.Errorf("the DHCP device's slice is of generation %d, want 2", got)
	}
	four := step(three, Change{Unwaive: []Waiving{w}})
	if s := four.Slice("r07-u12"); s.Generation != 4 || s.Amendment.Waivers != nil {
		t.Errorf("fourth slice: generation %d, %+v", s.Generation, s.Amendment)
	}
	// What is not known is listed, all of it; what changes nothing is refused.
	_, err := (&Change{MACs: map[Port]string{{"r07-u99", "eth0"}: "x"}, Waive: []Waiving{{Port{"r07-u12", "eth0"}, "r07-u13", "x"}},
		Members: []Member{{"kek-9", "x"}}, Unwaive: []Waiving{w}, Keys: map[string]TPMKeys{"r07-u98": {}}}).Apply(one)
	for _, want := range []string{"r07-u99/eth0: no such interface", "r07-u12/eth0: has no link to r07-u13", "kek-9: no such key server",
		"r07-u98: no such device", "r07-u12/eth2: the link to r07-u13 is waived already, or was not"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if _, _, err := Amend(one, one, "nothing"); err == nil {
		t.Error("an amendment that changes nothing was made")
	}
	if _, _, err := Amend(one, two, ""); err == nil {
		t.Error("an amendment without a reason was made")
	}
}

func TestAmendSlice(t *testing.T) {
	doc := rackDocument(t)
	for _, tc := range []struct {
		device string
		change Change
		words  string
	}{
		{"r07-u12", Change{MACs: map[Port]string{{"r07-u12", "eth0"}: "52:54:00:00:99:00"}}, "eth0 MAC address"},
		{"r07-u01", Change{MACs: map[Port]string{{"r07-u12", "eth0"}: "52:54:00:00:99:00"}}, "lease of r07-u12/eth0: MAC address"},
		{"r07-u12", Change{Waive: []Waiving{{Port{"r07-u12", "eth2"}, "r07-u13", "dead"}}}, "waiver of eth2 to r07-u13 is new"},
		{"r07-u12", Change{Keys: map[string]TPMKeys{"r07-u13": {AKName: tpmName([]byte("x"))}}}, "neighbor eth2 to r07-u13/eth1: AK"},
		{"r07-u12", Change{Members: []Member{{"kek-1", "https://10.0.7.3:7443"}}}, "URL of key server kek-1"},
	} {
		old := doc.Slice(tc.device)
		next, err := AmendSlice(old, &tc.change, "because")
		if err != nil {
			t.Fatal(err)
		}
		if next.Generation != 2 || next.Amendment.Replaces != digestOf(t, old) {
			t.Errorf("%s: generation %d, %+v", tc.words, next.Generation, next.Amendment)
		}
		if words := strings.Join(DiffSlices(old, next), "\n"); !strings.Contains(words, tc.words) {
			t.Errorf("diff says\n%s\nwant %s", words, tc.words)
		}
		if len(DiffSlices(next, next)) != 0 {
			t.Error("a slice differs from itself")
		}
	}
	for _, c := range []Change{{}, {MACs: map[Port]string{{"r07-u13", "eth0"}: "x"}}, {Waive: []Waiving{{Port{"r07-u13", "eth2"}, "r07-u14", ""}}}} {
		if s, err := AmendSlice(doc.Slice("r07-u12"), &c, "because"); err == nil {
			t.Errorf("%+v made generation %d", c, s.Generation)
		}
	}
}

func TestCountersigned(t *testing.T) {
	signer, root := testKeys(t, "root")
	other, second := testKeys(t, "other")
	one, err := SignSlice(goodSlice(t), signer)
	if err != nil {
		t.Fatal(err)
	}
	both, err := SignSlice(goodSlice(t), signer, other)
	if err != nil {
		t.Fatal(err)
	}
	if err := Countersigned(both, root, oneOf(second)); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"one signature":       Countersigned(one, root, oneOf(second)),
		"the root as second":  Countersigned(both, root, oneOf(root)),
		"nobody may":          Countersigned(both, root, nil),
		"edited after signed": Countersigned([]byte(strings.Replace(string(both), "10.0.7.12", "10.0.7.13", 1)), root, oneOf(second)),
	} {
		if !errors.Is(err, signed.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func oneOf[T any](v ...T) []T { return v }

// TestFaultsInOneOrder: what cannot be applied, and what a request contradicts,
// is listed in the same order each time, whatever order Go walks a map in.
func TestFaultsInOneOrder(t *testing.T) {
	change := Change{MACs: map[Port]string{}, Keys: map[string]TPMKeys{}}
	for _, n := range []string{"a", "b", "c", "d"} {
		change.MACs[Port{"r07-" + n, "eth9"}] = "52:54:00:00:99:00"
		change.Keys["r07-"+n] = TPMKeys{}
	}
	doc := rackDocument(t)
	slice := doc.Slice("r07-u12")
	for name, faults := range map[string]func() error{
		"of a document": func() error { _, err := change.Apply(doc); return err },
		"of a slice":    func() error { return change.applySlice(slice) },
		"of a request": func() error {
			return (&AssignmentRequest{Type: AssignmentRequestType, Serial: "\n", UUID: "\n", Model: "\n"}).Validate()
		},
		"of a slice's device": func() error {
			s := *slice
			s.Device.Rack, s.Device.Unit, s.Device.Serial = "\n", "\n", "\n"
			return s.Validate()
		},
		"of a partition": func() error {
			big := make([]byte, MaxSliceSize+1)
			return (&Part{Slice: big, Station: big, Token: big, Plan: big}).check()
		},
		"of a network boot": func() error {
			c := new(checker)
			(&NetBoot{File: "\n", Script: "\n"}).check(c)
			return errors.Join(c.errs...)
		},
	} {
		first := faults()
		if first == nil {
			t.Fatalf("faults %s: none", name)
		}
		for range 50 {
			if err := faults(); err.Error() != first.Error() {
				t.Errorf("faults %s:\n%v\nand then\n%v", name, first, err)
				break
			}
		}
	}
}

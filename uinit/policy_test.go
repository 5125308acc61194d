package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// signPolicy approves an image with these PCR values.
func signPolicy(t testing.TB, key *rsa.PrivateKey, image string, pcrs map[int][]byte) []byte {
	t.Helper()
	m := &measure.Manifest{Type: measure.ManifestType, Image: image, Version: "1", Role: measure.RoleServer,
		Form: measure.FormEFIKernel, PCRs: map[int]measure.Hex{}}
	for _, n := range measure.ImagePCRs() {
		m.PCRs[n] = pcrs[n]
	}
	doc, err := pcrpolicy.Sign(key, m)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func rsaKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// values are the image PCRs of some image.
func values(image byte) map[int][]byte {
	out := map[int][]byte{}
	for _, n := range measure.ImagePCRs() {
		out[n] = bytes.Repeat([]byte{image}, measure.Size)
	}
	return out
}

// TestPoliciesOfAllPartitions: the slice comes from one partition, policies
// from any. A boot volume that brings a policy and no slice is normal.
func TestPoliciesOfAllPartitions(t *testing.T) {
	region, regionPub := newRoot(t)
	stranger, _ := newRoot(t)
	key := rsaKey(t)
	note := func(s *snapshot.Slice, strange bool) []byte {
		signer := region
		if strange {
			signer = stranger
		}
		n, err := snapshot.SignSlice(s, signer)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	slice := note(testSlice(t), false)
	policy := func(image string) []byte { return signPolicy(t, key, image, values(1)) }
	a, b, c := policy("a"), policy("b"), policy("c")
	many := slices.Repeat([][]byte{c}, 40)
	tests := []struct {
		name  string
		parts []*snapshot.Part
		want  string // images of the policies, in order
		code  report.Code
	}{
		{"beside the slice", []*snapshot.Part{{Slice: slice, Policies: [][]byte{a, b}}}, "a b", ""},
		{"on the boot volume only", []*snapshot.Part{{Policies: [][]byte{b}}, {Slice: slice}}, "b", ""},
		{"the slice's own come first", []*snapshot.Part{{Policies: [][]byte{b}}, {Slice: slice, Policies: [][]byte{a}}, {Policies: [][]byte{c}}}, "a b c", ""},
		{"beside a foreign slice", []*snapshot.Part{{Slice: note(testSlice(t), true), Policies: [][]byte{b}}, {Slice: slice}}, "b", ""},
		{"junk hides nothing", []*snapshot.Part{{Policies: [][]byte{[]byte("{}\n"), b}}, {Slice: slice, Policies: [][]byte{a}}}, "a b", ""},
		{"bounded, the slice's own among them", []*snapshot.Part{{Policies: many}, {Policies: many}, {Slice: slice, Policies: [][]byte{a}}},
			"a" + strings.Repeat(" c", snapshot.MaxPolicies-1), ""},
		{"a blank boot volume", []*snapshot.Part{nil, {Slice: slice, Policies: [][]byte{a}}}, "a", ""},
		{"no slice anywhere", []*snapshot.Part{{Policies: [][]byte{b}}, {}}, "", report.SliceMissing},
		{"a slice that is not signed", []*snapshot.Part{{Policies: [][]byte{b}}, {Slice: note(testSlice(t), true)}}, "", report.SliceSignature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			testImage(t, root, regionPub)
			if err := os.MkdirAll(filepath.Join(root, "dev"), 0o755); err != nil {
				t.Fatal(err)
			}
			for i, part := range tt.parts {
				content := make([]byte, 4096)
				if part != nil {
					var err error
					if content, err = part.Bytes(); err != nil {
						t.Fatal(err)
					}
				}
				name := "vd" + string(rune('a'+i)) + "1"
				write(t, root, "sys/class/block/"+name+"/size", "2048\n")
				write(t, root, "sys/class/block/"+name+"/uevent", "PARTNAME=LANDFALL\n")
				write(t, root, "dev/"+name, string(content))
			}
			m, printed := testMachine(t, root)
			img, err := readImage(root)
			if err != nil {
				t.Fatal(err)
			}
			got, err := m.readSlice(img)
			if code(err) != tt.code {
				t.Fatalf("got %v, want %s", err, tt.code)
			}
			if err != nil {
				return
			}
			var images []string
			for _, p := range got.policies {
				images = append(images, strings.TrimSuffix(p.Image, " 1"))
			}
			if strings.Join(images, " ") != tt.want {
				t.Errorf("policies of %v, want %s", images, tt.want)
			}
			warned := strings.Contains(printed(), "warning LF-")
			if want := strings.HasPrefix(tt.name, "junk") || strings.HasPrefix(tt.name, "bounded"); warned != want {
				t.Errorf("warned: %v, want %v", warned, want)
			}
		})
	}
}

func TestFitting(t *testing.T) {
	key, stranger := rsaKey(t), rsaKey(t)
	policy := func(k *rsa.PrivateKey, image string, n byte) *pcrpolicy.Policy {
		p, err := pcrpolicy.Parse(signPolicy(t, k, image, values(n)))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	good, planted, other := policy(key, "good", 1), policy(stranger, "planted", 1), policy(key, "other", 2)
	for _, tt := range []struct {
		name     string
		policies []*pcrpolicy.Policy
		want     *pcrpolicy.Policy
		code     report.Code
		text     string
	}{
		{"good", []*pcrpolicy.Policy{other, good}, good, "", ""},
		{"a planted one does not hide the good one", []*pcrpolicy.Policy{planted, good}, good, "", ""},
		{"planted only", []*pcrpolicy.Policy{other, planted}, nil, report.NVPolicyBad, "planted 1"},
		{"of other images", []*pcrpolicy.Policy{other}, nil, report.NVNoPolicy, "(1 policies at hand); measured sha256 4=0101"},
		{"none", nil, nil, report.NVNoPolicy, "(0 policies at hand)"},
	} {
		p, bad := fitting(tt.policies, values(1), &key.PublicKey)
		if p != tt.want || (bad != nil) != (tt.code != "") || bad != nil && (bad.Code != tt.code || !strings.Contains(bad.What, tt.text)) {
			t.Errorf("%s: got %v, %v; want %s with %q", tt.name, p, bad, tt.code, tt.text)
		}
	}
}

// TestPolicyFromTheFleet: a new image whose policy lies on no partition opens
// the slot of an older one with the policy that comes with the release, if it
// is by the policy key and for what was measured. The TPM judges.
func TestPolicyFromTheFleet(t *testing.T) {
	s := newSealedTPM(t)
	old, now := s.measure(t, 1), s.measure(t, 2)
	oldPolicy, policy := signPolicy(t, s.key, "old", old), signPolicy(t, s.key, "new", now)
	for _, tt := range []struct {
		name  string
		local [][]byte
		fleet []byte
		code  report.Code
		text  string
		asked bool
	}{
		{"from the fleet", [][]byte{oldPolicy}, policy, "", "", true},
		{"at hand", [][]byte{oldPolicy, policy}, nil, "", "", false},
		{"planted at hand, good from the fleet", [][]byte{signPolicy(t, rsaKey(t), "planted", now)}, policy, "", "", true},
		{"nowhere", [][]byte{oldPolicy}, nil, report.NVNoPolicy, "key server ks1 has no PCR policy for this image: no signed PCR policy fits", true},
		{"planted at hand, none from the fleet", [][]byte{signPolicy(t, rsaKey(t), "planted", now)}, nil, report.NVPolicyBad, "ks1 has no PCR policy", true},
		{"for other values", nil, oldPolicy, report.NVPolicyBad, "from key server ks1: no signed PCR policy fits", true},
		{"by another key", nil, signPolicy(t, rsaKey(t), "new", now), report.NVPolicyBad, "from key server ks1: ", true},
		{"junk", nil, []byte("{}\n"), report.NVPolicyBad, "from key server ks1: ", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dek, asked, x, err := s.boot(t, 2, tt.local, tt.fleet)
			if asked != tt.asked {
				t.Errorf("asked the fleet for a policy: %v, want %v", asked, tt.asked)
			}
			if tt.code != "" {
				if code(err) != tt.code || !strings.Contains(err.Error(), tt.text) || dek != nil {
					t.Errorf("got %v, want %s with %q", err, tt.code, tt.text)
				}
				return
			}
			if err != nil || !bytes.Equal(dek.Expose(), s.dek.Expose()) {
				t.Fatalf("the DEK was not opened: %v", err)
			}
			if err := x.lock(); err != nil {
				t.Errorf("leaving with this policy: %v", err)
			}
		})
	}
}

// TestTheTPMJudgesThePolicy: what this program looks at itself is a convenience;
// without it a policy by another key, or for other values, opens nothing.
func TestTheTPMJudgesThePolicy(t *testing.T) {
	s := newSealedTPM(t)
	now := s.measure(t, 2)
	for name, doc := range map[string][]byte{
		"by another key":   signPolicy(t, rsaKey(t), "new", now),
		"for other values": signPolicy(t, s.key, "old", values(1)),
	} {
		policy, err := pcrpolicy.Parse(doc)
		if err != nil {
			t.Fatal(err)
		}
		x := &trust{TPM: s.TPM(), pcrs: now, policy: policy,
			slots: &nvslot.Slots{TPM: s.TPM(), SRKPublic: s.slice.Device.SRKPublic, PolicyKey: &s.key.PublicKey}}
		if _, err := x.read(1); code(err) != report.NVPolicyBad {
			t.Errorf("%s: got %v, want %s", name, err, report.NVPolicyBad)
		}
	}
}

// TestCommandsAfterTheRelease: with the policy at hand, one TPM command is left
// when the key is there; a policy of the fleet costs what preparing costs.
func TestCommandsAfterTheRelease(t *testing.T) {
	s := newSealedTPM(t)
	policy := signPolicy(t, s.key, "new", s.measure(t, 2))
	parsed, err := pcrpolicy.Parse(policy)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		local bool
		most  int
	}{"at hand": {true, 1}, "from the fleet": {false, 6}} {
		pcrs := s.measure(t, 2)
		m, _ := testMachine(t, "/")
		c := &carried{Slice: s.slice, digest: [32]byte{1}}
		if tt.local {
			c.policies = []*pcrpolicy.Policy{parsed}
		}
		x := &trust{TPM: s.TPM(), pcrs: pcrs}
		if err := x.identify(m, c, &image{policy: &s.key.PublicKey}); err != nil {
			t.Fatal(err)
		}
		if tt.local {
			if _, err := x.prepared.wait(); err != nil {
				t.Fatal(err)
			}
		} else {
			x.policy, x.noPolicy = parsed, nil
		}
		before := len(s.Bus().Commands())
		if _, err := x.read(1); err != nil {
			t.Fatal(err)
		}
		if n := len(s.Bus().Commands()) - before; n > tt.most {
			t.Errorf("%s: %d TPM commands, at most %d", name, n, tt.most)
		}
	}
}

// TestLatePartitions: a boot volume that is there before the disk with the
// slice makes nobody hold; one that comes after it still brings its policy.
func TestLatePartitions(t *testing.T) {
	region, regionPub := newRoot(t)
	note, err := snapshot.SignSlice(testSlice(t), region)
	if err != nil {
		t.Fatal(err)
	}
	s := newSealedTPM(t)
	now := s.measure(t, 2)
	root := t.TempDir()
	testImage(t, root, regionPub)
	show := func(name string, part *snapshot.Part) {
		content, err := part.Bytes()
		if err != nil {
			t.Error(err)
		}
		write(t, root, "dev/"+name, string(content))
		write(t, root, "sys/class/block/"+name+"/size", "2048\n")
		write(t, root, "sys/class/block/"+name+"/uevent", "PARTNAME=LANDFALL\n")
	}
	show("vda1", &snapshot.Part{Policies: [][]byte{signPolicy(t, s.key, "other", values(1))}})
	img, err := readImage(root)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := testMachine(t, root)
	late := start(m, func() (struct{}, error) {
		time.Sleep(partitionWait / 4)
		show("vdb1", &snapshot.Part{Slice: note})
		return struct{}{}, nil
	})
	c, err := m.readSlice(img)
	if err != nil || len(c.policies) != 1 {
		t.Fatalf("got %+v, %v", c, err)
	}
	_, _ = late.wait()

	x := &trust{TPM: s.TPM(), pcrs: now}
	c.Slice = s.slice
	if err := x.identify(m, c, &image{policy: &s.key.PublicKey}); err != nil || x.noPolicy == nil {
		t.Fatalf("a policy fits already: %v", err)
	}
	show("vdc1", &snapshot.Part{Policies: [][]byte{signPolicy(t, s.key, "new", now)}})
	asked := false
	client := member(t, func(w http.ResponseWriter, r *http.Request) { asked = release(t, w, r, s.kek, nil).NeedPolicy })
	c.Fleet = snapshot.Fleet{CA: client.CA, Members: client.Members}
	rel, err := m.release(x, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer rel.Close()
	dek, err := m.unwrap(x, c.Device.ID, &rel, nil)
	if err != nil || asked || !bytes.Equal(dek.Expose(), s.dek.Expose()) {
		t.Errorf("asked the fleet for a policy: %v; %v", asked, err)
	}
}

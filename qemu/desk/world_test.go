package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/qemu/fabric"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// region is a folder with a region root, which signs slices.
type region struct {
	t      *testing.T
	dir    string
	ca     []byte
	signer note.Signer
}

func newRegion(t *testing.T) *region {
	t.Helper()
	r := &region{t: t, dir: t.TempDir()}
	private, public, err := note.GenerateKey(rand.Reader, "desk/root")
	must(t, err)
	r.signer, err = note.NewSigner(private)
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(r.dir, "public"), 0o755))
	must(t, os.WriteFile(filepath.Join(r.dir, "public", "root.pub"), []byte(public+"\n"), 0o644))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fleet"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	r.ca, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return r
}

// slice writes a signed slice of a machine, with the TPM of that or of another
// one, into a folder. change may be nil.
func (r *region) slice(dir, id, tpm string, generation uint64, change func(*snapshot.Slice)) {
	r.t.Helper()
	keys, err := fabric.TPMOf(tpm)
	must(r.t, err)
	srk := []byte("srk")
	s := &snapshot.Slice{
		Type: snapshot.SliceType, Region: "desk", Generation: generation,
		Device: snapshot.Device{ID: id, Roles: []snapshot.Role{snapshot.RoleServer}, Hostname: id,
			EKName: tpmName([]byte("ek")), AKName: keys.AKName(), SRKName: tpmName(srk), SRKPublic: srk},
		Interfaces: []snapshot.Interface{{Name: "eth0", MAC: "02:00:00:00:00:0a", Addresses: []string{"10.0.0.1/24"}}},
		Volumes:    []snapshot.Volume{{Name: "root", UUID: snapshot.VolumeUUID(id, "root"), Use: "root", Need: "required"}},
		Fleet:      snapshot.Fleet{CA: r.ca, Members: []snapshot.Member{{ID: "ks1", URL: "https://10.0.0.2:7443"}}},
		Policy:     snapshot.Policy{Lease: "strict", Links: "required"},
	}
	if generation > 1 {
		s.Amendment = &snapshot.Amendment{Replaces: strings.Repeat("00", 32), Reason: "a test"}
	}
	if change != nil {
		change(s)
	}
	msg, err := snapshot.SignSlice(s, r.signer)
	must(r.t, err)
	must(r.t, os.MkdirAll(dir, 0o755))
	must(r.t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d.note", id, generation)), msg, 0o644))
}

// TestSlices: a slice counts as it does on a machine: signed by the region's
// root, for this TPM, and the newest of several.
func TestSlices(t *testing.T) {
	ours, other := newRegion(t), newRegion(t)
	cabling := filepath.Join(t.TempDir(), "c.dot")
	must(t, os.WriteFile(cabling, []byte(`graph { "a":"eth0" -- "b":"eth0" }`), 0o644))
	c, err := readCables(cabling)
	must(t, err)
	for _, tt := range []struct {
		name  string
		write func(dir string)
		want  string // generation of a's slice, or what is wrong
	}{
		{"good", func(dir string) { ours.slice(dir, "a", "a", 1, nil) }, "generation 1"},
		{"amended", func(dir string) { ours.slice(dir, "a", "a", 1, nil); ours.slice(dir, "a", "a", 2, nil) }, "generation 2"},
		{"of another region", func(dir string) { other.slice(dir, "a", "a", 1, nil) }, "no valid signature"},
		{"of another TPM", func(dir string) { ours.slice(dir, "a", "b", 1, nil) }, "a TPM that is not on this desk"},
		{"none", func(dir string) { must(t, os.Mkdir(dir, 0o755)) }, "holds no file *.note"},
	} {
		dir := filepath.Join(t.TempDir(), "notes")
		tt.write(dir)
		got := ""
		all, err := readSlices(ours.dir, []string{dir})
		if err == nil {
			got = fmt.Sprintf("generation %d", all[0].Generation)
			_, err = newWorld(c, all)
		}
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s, want %q", tt.name, got, tt.want)
		}
	}
}

// TestFraction: a machine says ok to its neighbors when its slice's policy is
// met, be one of them dead.
func TestFraction(t *testing.T) {
	r, dir := newRegion(t), filepath.Join(t.TempDir(), "notes")
	cabling := filepath.Join(t.TempDir(), "c.dot")
	must(t, os.WriteFile(cabling, []byte(`graph { "a":"eth0" -- "b":"eth0"; "a":"eth1" -- "c":"eth0" }`), 0o644))
	c, err := readCables(cabling)
	must(t, err)
	link := func(s *snapshot.Slice, ours, peer, theirs string) {
		tpm, err := fabric.TPMOf(peer)
		must(t, err)
		s.Neighbors = append(s.Neighbors, snapshot.Neighbor{Device: peer, Interface: ours, PeerInterface: theirs, AKName: tpm.AKName(), Link: "l2", Check: "required"})
	}
	r.slice(dir, "a", "a", 1, func(s *snapshot.Slice) {
		s.Interfaces = append(s.Interfaces, snapshot.Interface{Name: "eth1", MAC: "02:00:00:00:00:0b", Addresses: []string{}})
		link(s, "eth0", "b", "eth0")
		link(s, "eth1", "c", "eth0")
		s.Policy = snapshot.Policy{Lease: "strict", Links: "fraction", LinksPercent: 50}
	})
	r.slice(dir, "b", "b", 1, func(s *snapshot.Slice) { link(s, "eth0", "a", "eth0") })
	r.slice(dir, "c", "c", 1, func(s *snapshot.Slice) { link(s, "eth0", "a", "eth1") })
	all, err := readSlices(r.dir, []string{dir})
	must(t, err)
	w, err := newWorld(c, all)
	must(t, err)
	must(t, w.boot([]string{"c"}))
	if got := w.net.Device("b").Verdict("eth0", "a").Verdict; got != linkcheck.ProvedOK {
		t.Errorf("b finds that a is %s", got)
	}
}

// TestNoSuchMachine: -off and -reboot name machines that have slices.
func TestNoSuchMachine(t *testing.T) {
	w := &world{net: fabric.New(1), cables: &cables{}, found: map[string]found{}}
	for what, err := range map[string]error{"-off": w.boot([]string{"x"}), "-reboot": w.reboot("x")} {
		if err == nil || !strings.Contains(err.Error(), `no slice of "x"`) {
			t.Errorf("%s x: %v", what, err)
		}
	}
}

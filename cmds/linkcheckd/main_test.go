package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"flag"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/linknet"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/netconf/netnstest"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// TestMain gives the tests a network namespace of their own.
func TestMain(m *testing.M) { netnstest.Main(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The documentation above and the flags say the same.
func TestDocumentedFlags(t *testing.T) {
	source, err := os.ReadFile("main.go")
	must(t, err)
	doc, _, _ := strings.Cut(string(source), "\npackage main")
	_, text, _ := strings.Cut(doc, "Options:")
	n := 0
	flags(&options{}).VisitAll(func(f *flag.Flag) {
		n++
		if !strings.Contains(text, "//\t-"+f.Name) {
			t.Errorf("-%s is not documented", f.Name)
		}
	})
	if documented := strings.Count(text, "//\t-"); n != documented {
		t.Errorf("%d flags, %d documented", n, documented)
	}
}

// keepOpen is a TPM that outlives its users, as the device of a kernel does.
type keepOpen struct{ *tpmtest.Bus }

func (keepOpen) Close() error { return nil }

// lab is a device b in production, with its signed slice, and its neighbor a.
type lab struct {
	sim      *tpmtest.Sim
	slice    *snapshot.Slice
	signer   note.Signer
	a        *fabric.TPM
	macA     net.HardwareAddr
	akB      string
	region   string // file
	sliceOut string // file
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{sim: tpmtest.Start(t), macA: net.HardwareAddr{2, 0, 0, 0, 0, 0xa}}
	keys, err := l.sim.TPM().CreateKeys()
	must(t, err)
	names := map[string]string{}
	for what, public := range map[string][]byte{"ek": keys.EK, "ak": keys.AK, "srk": keys.SRK} {
		names[what], err = attest.Name(public)
		must(t, err)
	}
	l.akB = names["ak"]
	l.a, err = fabric.NewTPM()
	must(t, err)
	private, public, err := note.GenerateKey(rand.Reader, "sea1/root")
	must(t, err)
	l.signer, err = note.NewSigner(private)
	must(t, err)
	dir := t.TempDir()
	l.region, l.sliceOut = filepath.Join(dir, "region.pub"), filepath.Join(dir, "slice.note")
	must(t, os.WriteFile(l.region, []byte(public+"\n"), 0o644))
	l.slice = &snapshot.Slice{
		Type: snapshot.SliceType, Region: "sea1", Generation: 1,
		Device: snapshot.Device{
			ID: "b", Roles: []snapshot.Role{snapshot.RoleServer}, Hostname: "b",
			EKName: names["ek"], AKName: names["ak"], SRKName: names["srk"], SRKPublic: keys.SRK,
		},
		Interfaces: []snapshot.Interface{{Name: "eth0", MAC: "02:00:00:00:00:0b", Addresses: []string{"10.0.7.12/24"}}},
		Neighbors: []snapshot.Neighbor{{
			Device: "a", Interface: "eth0", PeerInterface: "eth0", AKName: l.a.AKName(), Link: "l2", Check: "required",
		}},
		Volumes: []snapshot.Volume{{Name: "root", UUID: snapshot.VolumeUUID("b", "root"), Use: "root", Need: "required"}},
		Fleet:   snapshot.Fleet{CA: newCA(t), Members: []snapshot.Member{{ID: "kek-1", URL: "https://10.0.7.2:7443"}}},
		Policy:  snapshot.Policy{Lease: "strict", Links: "required"},
	}
	l.sign(t)
	return l
}

func newCA(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fleet"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return ca
}

func (l *lab) sign(t *testing.T) []byte {
	t.Helper()
	text, err := signed.Sign(l.slice, l.signer)
	must(t, err)
	must(t, os.WriteFile(l.sliceOut, text, 0o644))
	return text
}

func (l *lab) cap(t *testing.T) {
	t.Helper()
	must(t, l.sim.TPM().Extend(measure.CapPCR, measure.CapDigest()))
}

func (l *lab) open(string) (*tpm.TPM, error) { return tpm.New(keepOpen{l.sim.Bus()}), nil }

func (l *lab) run(ctx context.Context, stderr *output, args ...string) error {
	return run(ctx, append([]string{"-slice", l.sliceOut, "-region", l.region}, args...), func(string) string { return "" }, l.open, stderr)
}

// output may be read while the daemon writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// cable makes the cable between a and b; b's end is up, as production has it.
func (l *lab) cable(t *testing.T) {
	t.Helper()
	macB, err := net.ParseMAC(l.slice.Interfaces[0].MAC)
	must(t, err)
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "near", HardwareAddr: l.macA}, PeerName: "enp1s0", PeerHardwareAddr: macB}
	must(t, netlink.LinkAdd(v))
	t.Cleanup(func() { _ = netlink.LinkDel(v) })
	far, err := netlink.LinkByName("enp1s0")
	must(t, err)
	must(t, netlink.LinkSetUp(far))
}

// bridge makes a bridge with the MAC address of b's port, and an address of its
// own, as hypervisors do.
func (l *lab) bridge(t *testing.T) netlink.Link {
	t.Helper()
	mac, err := net.ParseMAC(l.slice.Interfaces[0].MAC)
	must(t, err)
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", HardwareAddr: mac}}
	must(t, netlink.LinkAdd(br))
	t.Cleanup(func() { _ = netlink.LinkDel(br) })
	must(t, netlink.LinkSetUp(br))
	return br
}

// TestAnswers has a booting neighbor prove its link to this device, from the
// LANDFALL partition's slice, though a bridge that was made before has the
// port's MAC address.
func TestAnswers(t *testing.T) {
	l := newLab(t)
	l.cap(t)
	l.bridge(t)
	l.cable(t)
	part, err := (&snapshot.Part{Slice: l.sign(t)}).Bytes()
	must(t, err)
	must(t, os.WriteFile(l.sliceOut, part, 0o644))
	ctx, stop := context.WithCancel(t.Context())
	var out output
	ended := make(chan error, 1)
	go func() { ended <- l.run(ctx, &out) }()

	session, err := l.a.Session("sea1", "a")
	must(t, err)
	defer session.Wipe()
	c := linknet.Config{MACs: map[string]net.HardwareAddr{"eth0": l.macA}, Raise: true}
	c.Region, c.Device, c.Generation, c.Session = "sea1", "a", 1, session
	c.Ports = []linkcheck.PortConfig{{Name: "eth0"}}
	c.Links = []linkcheck.Link{{Interface: "eth0", Peer: fabric.E("b", "eth0"), AKName: l.akB, Required: true}}
	n, err := linknet.Start(ctx, c)
	must(t, err)
	defer n.Close()
	for end := time.After(15 * time.Second); !n.Summary().AllReady(); {
		select {
		case <-n.Changed():
		case <-end:
			t.Fatalf("%v\n%s", n.Links(), out.String())
		}
	}
	if v := n.Links()[0].Verdict; v != linkcheck.InProduction {
		t.Errorf("a proved %s", v)
	}
	stop()
	must(t, <-ended)
	for _, want := range []string{"b of region sea1 answers in production", "eth0 (enp1s0) is in use", "0 malformed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, out.String())
		}
	}
}

// TestRefuses lists what it does not start with, and the repair it names.
func TestRefuses(t *testing.T) {
	l := newLab(t)
	var out output
	if err := l.run(t.Context(), &out); err == nil || !strings.Contains(err.Error(), "boot this system through uinit") {
		t.Errorf("not capped: %v", err)
	}
	l.cap(t)
	good := l.sign(t)
	for name, tt := range map[string]struct {
		change func()
		want   string
	}{
		"another TPM": {func() { l.slice.Device.AKName = "000b" + strings.Repeat("ab", 32); l.sign(t) }, "the slice is for b"},
		"edited": {func() {
			must(t, os.WriteFile(l.sliceOut, bytes.Replace(good, []byte("10.0.7.12"), []byte("10.0.7.13"), 1), 0o644))
		}, "signature"},
		"no slice":        {func() { must(t, os.Remove(l.sliceOut)) }, "no such file"},
		"an empty file":   {func() { must(t, os.WriteFile(l.sliceOut, nil, 0o644)) }, "slice.note"},
		"no key":          {func() { must(t, os.WriteFile(l.region, nil, 0o644)) }, "region.pub"},
		"an unknown word": {func() {}, "unknown argument"},
		"no slice in part": {func() {
			b, err := (&snapshot.Part{Policies: [][]byte{[]byte("{}")}}).Bytes()
			must(t, err)
			must(t, os.WriteFile(l.sliceOut, b, 0o644))
		}, "snapshot part"},
	} {
		key, err := os.ReadFile(l.region)
		must(t, err)
		ak := l.slice.Device.AKName
		tt.change()
		args := []string{}
		if name == "an unknown word" {
			args = append(args, "now")
		}
		if err := l.run(t.Context(), &out, args...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want one with %q", name, err, tt.want)
		}
		l.slice.Device.AKName = ak
		must(t, os.WriteFile(l.region, key, 0o644))
		must(t, os.WriteFile(l.sliceOut, good, 0o644))
	}
}

// TestCheck tells an operator what is missing.
func TestCheck(t *testing.T) {
	l := newLab(t)
	l.cap(t)
	var out output
	if err := l.run(t.Context(), &out, "-check"); err == nil || !strings.Contains(err.Error(), "no port has the MAC address 02:00:00:00:00:0b") {
		t.Errorf("without a port: %v", err)
	}
	l.cable(t)
	must(t, l.run(t.Context(), &out, "-check"))
	if !strings.Contains(out.String(), "eth0 is enp1s0, carrier: false") {
		t.Errorf("got\n%s", out.String())
	}
	port, err := netlink.LinkByName("enp1s0")
	must(t, err)
	must(t, netlink.LinkSetMaster(port, l.bridge(t)))
	if err := l.run(t.Context(), &out, "-check"); err == nil || !strings.Contains(err.Error(), "eth0 (enp1s0) is a member of bridge br0") {
		t.Errorf("a bridge's member: %v", err)
	}
}

// TestUnit has systemd read the unit.
func TestUnit(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Fatal("needs systemd-analyze (apt-get install systemd)")
	}
	dir := t.TempDir()
	unit, err := os.ReadFile("linkcheckd.service")
	must(t, err)
	// verify wants the program to be there.
	file := filepath.Join(dir, "linkcheckd.service")
	must(t, os.WriteFile(file, bytes.ReplaceAll(unit, []byte("/usr/bin/linkcheckd"), []byte("/bin/true")), 0o644))
	if b, err := exec.Command("systemd-analyze", "verify", "--man=no", file).CombinedOutput(); err != nil || len(b) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, b)
	}
}

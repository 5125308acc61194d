package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekserver"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

// plant is a region with one real member.
type plant struct {
	t                  *testing.T
	dir                string
	devices, operators string // addresses
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	p := &plant{t: t, dir: filepath.Join(t.TempDir(), "r7")}
	p.kekctl("", "init", p.dir, "--name", "r7", "--member", "ks1=https://127.0.0.1:7443", "--ek-cert", "record",
		"--agent", "alice=operator", "--agent", "bob=agent", "--agent", "carol=viewer")
	member, err := fleetdir.LoadMember(filepath.Join(p.dir, "members", "ks1", "kekd.json"))
	p.check(err)
	unsealer, err := member.Unsealer("")
	p.check(err)
	server, store, err := member.Open(context.Background(), unsealer, slog.New(slog.DiscardHandler))
	p.check(err)
	var l kekserver.Listeners
	for _, at := range []*net.Listener{&l.Devices, &l.Operators} {
		*at, err = new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
		p.check(err)
	}
	p.devices, p.operators = l.Devices.Addr().String(), l.Operators.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *plant) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// try runs kekctl as an agent.
func (p *plant) try(agent string, args ...string) (string, error) {
	var out bytes.Buffer
	if agent != "" {
		args = append([]string{"--region", p.dir, "--as", agent, "--url", "https://" + p.operators}, args...)
	}
	err := run(context.Background(), args, strings.NewReader(""), &out, &out)
	return out.String(), err
}

func (p *plant) kekctl(agent string, args ...string) string {
	p.t.Helper()
	out, err := p.try(agent, args...)
	if err != nil {
		p.t.Fatalf("kekctl %v: %v", args, err)
	}
	return out
}

func (p *plant) file(name string) []byte {
	p.t.Helper()
	data, err := os.ReadFile(filepath.Join(p.dir, name))
	p.check(err)
	return data
}

// write writes a file beside the region's folder.
func (p *plant) write(name string, data []byte) string {
	p.t.Helper()
	path := filepath.Join(filepath.Dir(p.dir), name)
	p.check(os.WriteFile(path, data, 0o600))
	return path
}

// escrow takes a device through the factory as far as its recovery key, and
// returns that. seal goes on as far as the fleet's record that it is sealed.
func (p *plant) escrow(id string) (key *secret.Bytes, seal func()) {
	p.t.Helper()
	ctx := context.Background()
	sim := tpmtest.Start(p.t)
	keys, err := sim.TPM().CreateKeys()
	p.check(err)
	tokenFile := filepath.Join(filepath.Dir(p.dir), id+".token")
	p.kekctl("alice", "device", "add", id, "--token-file", tokenFile)
	token, err := os.ReadFile(tokenFile)
	p.check(err)
	ca, _ := pem.Decode(p.file("public/ca.pem"))
	c := &kekclient.Client{Members: []snapshot.Member{{ID: "ks1", URL: "https://" + p.devices}}, CA: ca.Bytes, Device: id}
	enrolled, err := c.Enroll(ctx, kekclient.Evidence{Token: secret.Take(bytes.TrimSpace(token)), EKPublic: keys.EK, AKPublic: keys.AK, SRKPublic: keys.SRK},
		func(credential, encrypted []byte) ([]byte, error) {
			return sim.TPM().ActivateCredential(credential, encrypted, keys.SRK)
		})
	p.check(err)
	p.kekctl("alice", "device", "approve", id, "--ek-name", enrolled.EKName)

	s, err := snapshot.ParseDescription([]byte(`{"device":{"id":"` + id + `","rack":"r07","unit":"12","roles":["server"]},
		"interfaces":[{"name":"eth0","mac":"52:54:00:00:00:01","addresses":["10.0.0.2/24"]}],
		"volumes":[{"name":"root","use":"root","need":"required"}]}`))
	p.check(err)
	s.Generation = 1
	srk := snapshot.TPMKeys{EKName: enrolled.EKName, AKName: enrolled.AKName, SRKPublic: keys.SRK}
	var info kekproto.DeviceInfo
	p.check(json.Unmarshal([]byte(p.kekctl("alice", "device", "show", id, "--json")), &info))
	srk.SRKName = info.SRKName
	p.check(s.Complete(&snapshot.Region{Name: "r7", Members: []snapshot.Member{{ID: "ks1", URL: "https://10.0.0.1:7443"}}}, ca.Bytes, srk))
	root, err := signed.ParseSigner(p.file("offline/root.key"))
	p.check(err)
	note, err := snapshot.SignSlice(s, root)
	p.check(err)
	p.kekctl("alice", "slice", "add", p.write(id+".note", note))

	verifier, err := signed.ParseVerifier(p.file("public/root.pub"))
	p.check(err)
	_, digest, err := snapshot.OpenSlice(note, verifier)
	p.check(err)
	p.check(sim.TPM().Extend(measure.SlicePCR, digest[:]))
	for _, pcr := range []int{4, 11} { // what a UKI's boot measures
		p.check(sim.TPM().Extend(pcr, bytes.Repeat([]byte{1}, measure.Size)))
	}
	pcrs, err := sim.TPM().ReadPCRs()
	p.check(err)
	p.factory(pcrs)
	q := kekclient.QuoterFunc(func(qualifying []byte) (kekproto.Quote, error) { return sim.TPM().Quote(qualifying, pcrs) })
	key, err = c.Recovery(ctx, q)
	p.check(err)
	return key, func() {
		kek, err := c.CreateKEK(ctx, q, 1)
		p.check(err)
		kek.Key.Wipe()
		p.check(c.Sealed(ctx, q, 1))
	}
}

// factory accepts these PCR values as a factory image.
func (p *plant) factory(pcrs map[int][]byte) {
	p.t.Helper()
	m := &measure.Manifest{Type: measure.ManifestType, Image: "landfall-factory", Version: "1", Role: measure.RoleFactory, Form: measure.FormUKI, PCRs: map[int]measure.Hex{}}
	for _, n := range measure.ImagePCRs() {
		m.PCRs[n] = pcrs[n]
	}
	signer, err := signed.ParseSigner(p.file("offline/manifest.key"))
	p.check(err)
	manifest, err := measure.SignManifest(m, signer)
	p.check(err)
	p.kekctl("alice", "manifest", "add", p.write("factory.manifest", manifest))
}

// What a device put into its keyslot is what two agents get out of kekctl, byte
// for byte, and nobody else gets it.
func TestRecovery(t *testing.T) {
	p := newPlant(t)
	key, _ := p.escrow("r07-u12")
	text, err := keyblob.RecoveryText(key)
	p.check(err)
	refused := func(agent, words string, args ...string) {
		t.Helper()
		if out, err := p.try(agent, args...); err == nil || !strings.Contains(err.Error(), words) || strings.Contains(out, string(text.Expose())) {
			t.Errorf("%s: kekctl %v: %q, %v; want %q", agent, args, out, err, words)
		}
	}
	var asked kekproto.RecoveryRequest
	p.check(json.Unmarshal([]byte(p.kekctl("bob", "recovery", "request", "r07-u12", "--reason", "board burnt", "--json")), &asked))
	refused("bob", "no other agent has approved it", "recovery", "read", "r07-u12", asked.ID)
	refused("bob", "bob asked for this, so another agent must approve it", "recovery", "approve", "r07-u12", asked.ID)
	refused("carol", "carol has role viewer", "recovery", "approve", "r07-u12", asked.ID)
	refused("alice", "see `kekctl device list`", "recovery", "approve", "r07-u12", "aaaaaaaaaa")
	refused("alice", "see `kekctl device list`", "recovery", "request", "r07-u99", "--reason", "x")
	if out := p.kekctl("alice", "recovery", "approve", "r07-u12", asked.ID); !strings.Contains(out, `bob, who gave as the reason "board burnt", may read`) {
		t.Errorf("approved: %s", out)
	}
	refused("alice", "bob asked for this and alone may read it", "recovery", "read", "r07-u12", asked.ID)
	refused("bob", "never as JSON", "recovery", "read", "r07-u12", asked.ID, "--json")
	if got := p.kekctl("bob", "recovery", "read", "r07-u12", asked.ID); got != string(text.Expose()) {
		t.Errorf("bob reads %d bytes, want the %d of the keyslot", len(got), text.Len())
	}
	list := p.kekctl("carol", "recovery", "list", "--device", "r07-u12")
	for _, want := range []string{asked.ID, "bob", "alice", "approved", "1 time", "board burnt"} {
		if !strings.Contains(list, want) {
			t.Errorf("the list does not say %q:\n%s", want, list)
		}
	}
	if out := p.kekctl("carol", "recovery", "list", "--device", "r07-u13"); !strings.Contains(out, "nobody asked") {
		t.Errorf("list of another device: %s", out)
	}
	for _, args := range [][]string{{"audit", "show"}, {"recovery", "list", "--json"}, {"device", "show", "r07-u12", "--json"}} {
		if out := p.kekctl("alice", args...); strings.Contains(out, string(text.Expose())) {
			t.Errorf("kekctl %v shows the key", args)
		}
	}
	if out := p.kekctl("alice", "audit", "show"); !strings.Contains(out, "recovery-read") || !strings.Contains(out, "alice approved: board burnt") {
		t.Errorf("audit log:\n%s", out)
	}
}

// devices finds a machine by the rack of its slice, or by its ID before it has
// one; slice add tells all that it was refused.
func TestDevicesAndSlices(t *testing.T) {
	p := newPlant(t)
	key, _ := p.escrow("m1") // of rack r07 by its slice
	key.Wipe()
	for _, id := range []string{"r07-u13", "spare"} {
		p.kekctl("alice", "device", "add", id, "--token-file", filepath.Join(filepath.Dir(p.dir), id))
	}
	out := p.kekctl("carol", "devices", "--rack", "r07")
	for _, want := range []string{"rack r07, region r7 (building): 2 devices: 1 expected, 1 slice", "m1       12    slice", "r07-u13  -     expected", "without a slice, so of no rack yet: spare"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if out := p.kekctl("carol", "devices", "--rack", "r99"); !strings.Contains(out, "no device of rack r99; without") {
		t.Errorf("a rack that is not there:\n%s", out)
	}
	if out := p.kekctl("carol", "devices"); !strings.Contains(out, "3 devices") || !strings.Contains(out, "r07 12") {
		t.Errorf("all devices:\n%s", out)
	}
	var all []kekproto.DeviceInfo
	p.check(json.Unmarshal([]byte(p.kekctl("carol", "devices", "--rack", "r07", "--json")), &all))
	if len(all) != 2 || !all[0].Recovery || all[0].Unit != "12" || all[0].Changed == nil {
		t.Errorf("as JSON: %+v", all)
	}
	if out, err := p.try("carol", "devices", "--watch", "--json"); err == nil {
		t.Errorf("--watch with --json: %s", out)
	}
	note, err := os.ReadFile(filepath.Join(filepath.Dir(p.dir), "m1.note"))
	p.check(err)
	good := filepath.Join(filepath.Dir(p.dir), "m1.note")
	broken := p.write("broken.note", bytes.Replace(note, []byte("eth0"), []byte("eth1"), 1))
	out, err = p.try("alice", "slice", "add", broken, p.write("junk", []byte("junk")), good)
	if err == nil || !strings.Contains(err.Error(), "2 of 3 slices not recorded") || !strings.Contains(err.Error(), broken) ||
		!strings.Contains(err.Error(), "want a signed slice") || !strings.Contains(out, good+": recorded") {
		t.Errorf("%s%v", out, err)
	}
}

// Who ships what was never booted hears of it.
func TestShipUnaccepted(t *testing.T) {
	p := newPlant(t)
	key, seal := p.escrow("r07-u12")
	key.Wipe()
	if out, err := p.try("alice", "ship"); err == nil || !strings.Contains(err.Error(), "not sealed: r07-u12") {
		t.Errorf("shipped before it was sealed: %s, %v", out, err)
	}
	seal()
	if out := p.kekctl("alice", "devices"); !strings.Contains(out, "1 sealed") || !strings.Contains(out, "boot the server image once") {
		t.Errorf("devices:\n%s", out)
	}
	if out, err := p.try("alice", "status"); err != errDark || !strings.Contains(out, "1 sealed, 0 of them accepted") {
		t.Errorf("status:\n%s", out)
	}
	if out := p.kekctl("alice", "ship"); !strings.Contains(out, "WARNING: sealed, but never reported that their server image opened all their volumes (`kekctl devices`): r07-u12") {
		t.Errorf("ship: %s", out)
	}
	if _, err := p.try("alice", "recovery", "request", "r07-u12", "--reason", "x"); err == nil || !strings.Contains(err.Error(), "in transit") {
		t.Errorf("a recovery key in transit: %v", err)
	}
}

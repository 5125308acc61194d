package main

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekserver"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

const testMember = "ks1"

// testDevice differs from run to run: cryptsetup's lock goes by UUID, for the
// whole host.
var testDevice = fmt.Sprintf("r01-u%d", os.Getpid())

// station is a factory with one device: a real member of the fleet on
// loopback, a real TPM emulator, and disks that are files.
type station struct {
	t         testing.TB
	dir       string
	region    string
	devices   string // the member's addresses
	operators string
	sim       *tpmtest.Sim
	edit      func(*system) context.Context // if set, of the next run of seal
	stop      func()                        // ends the member
	out       bytes.Buffer
}

func newStation(t testing.TB, edit ...func(*station, *fleetdir.Options)) *station {
	t.Helper()
	s := &station{t: t, dir: t.TempDir(), sim: tpmtest.Start(t)}
	s.region = filepath.Join(s.dir, "region")
	lis := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := kekserver.Listeners{Devices: lis(), Operators: lis()}
	s.devices, s.operators = l.Devices.Addr().String(), l.Operators.Addr().String()
	options := fleetdir.Options{
		Region: "north", Members: []snapshot.Member{{ID: testMember, URL: "https://" + s.devices}},
		Agents: []fleetdir.AgentOption{{Name: "alice", Role: "operator"}, {Name: "bob", Role: "agent"}}, Threshold: 1, EKPolicy: "record",
	}
	for _, f := range edit {
		f(s, &options)
	}
	if err := fleetdir.Init(context.Background(), s.region, options); err != nil {
		t.Fatal(err)
	}
	s.serve(l)
	s.image()
	return s
}

func (s *station) serve(l kekserver.Listeners) {
	s.t.Helper()
	m, err := fleetdir.LoadMember(filepath.Join(s.region, "members", testMember, "kekd.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	unsealer, err := m.Unsealer("")
	if err != nil {
		s.t.Fatal(err)
	}
	server, store, err := m.Open(context.Background(), unsealer, slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Serve(ctx, l) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		for _, err := range []error{<-done, server.Close(), store.Close()} {
			if err != nil {
				s.t.Error(err)
			}
		}
	})
	s.t.Cleanup(s.stop)
}

// image is what is built into the factory image.
func (s *station) image() {
	for from, to := range map[string]string{"root.pub": "region.pub", "policy.pub": "policy.pub"} {
		s.write("etc/"+to, s.read("region/public/"+from))
	}
}

func (s *station) read(name string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *station) write(name string, b []byte) {
	s.t.Helper()
	name = filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// disk shows a file as a disk, in the fake sysfs.
func (s *station) disk(name, serial, uevent string, content []byte) {
	s.write("dev/"+name, content)
	base := "sys/devices/pci0000:00/0000:00:04.0/block/" + name
	s.write(base+"/size", []byte(fmt.Sprintln(len(content)/512)))
	s.write(base+"/serial", []byte(serial))
	s.write(base+"/uevent", []byte(uevent))
	class := filepath.Join(s.dir, "sys/class/block")
	if err := os.MkdirAll(class, 0o755); err != nil {
		s.t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(class, name))
	if err := os.Symlink(filepath.Join(s.dir, base), filepath.Join(class, name)); err != nil {
		s.t.Fatal(err)
	}
}

// part writes the LANDFALL partition.
func (s *station) part(p *snapshot.Part) {
	s.t.Helper()
	b, err := p.Bytes()
	if err != nil {
		s.t.Fatal(err)
	}
	s.disk("vda1", "", "PARTNAME=LANDFALL\n", append(b, make([]byte, 1<<20-len(b))...))
}

// ext returns a disk of 160 MiB with a filesystem of 96 MiB.
func (s *station) ext() []byte {
	s.t.Helper()
	s.write("data/file", bytes.Repeat([]byte("production data "), 1<<20))
	s.write("fs", nil)
	name := filepath.Join(s.dir, "fs")
	if err := os.Truncate(name, 96<<20); err != nil {
		s.t.Fatal(err)
	}
	if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-d", filepath.Join(s.dir, "data"), name).CombinedOutput(); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	return append(s.read("fs"), make([]byte, 64<<20)...)
}

// boot power-cycles the machine; role is measured as its image.
func (s *station) boot(role measure.Role) *tpm.TPM {
	s.t.Helper()
	t := s.sim.Restart()
	for _, pcr := range []int{4, 9} {
		if err := t.Extend(pcr, bytes.Repeat([]byte{role[0]}, measure.Size)); err != nil {
			s.t.Fatal(err)
		}
	}
	return t
}

// seal boots the factory image and runs the command.
func (s *station) seal(args ...string) error {
	s.t.Helper()
	s.out.Reset()
	sys := &system{
		tree: disk.Tree{Sys: filepath.Join(s.dir, "sys"), Dev: filepath.Join(s.dir, "dev")},
		etc:  filepath.Join(s.dir, "etc"), work: filepath.Join(s.dir, "run"), out: io.MultiWriter(&s.out, testLog{s.t}),
		openTPM: func() (*tpm.TPM, error) {
			return s.boot(measure.RoleFactory), nil
		},
		capture: func(_ context.Context, device string) (*snapshot.Capture, error) {
			return &snapshot.Capture{Type: snapshot.CaptureType, Device: device,
				Ports: []snapshot.CapturePort{{Name: "eth0", MAC: "52:54:00:00:00:01", Carrier: true}}}, nil
		},
	}
	ctx := context.Background()
	if s.edit != nil {
		ctx = s.edit(sys)
	}
	return sys.run(ctx, args)
}

type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// must asks the operator plane as alice.
func (s *station) must(method, path string, in, out any) {
	s.t.Helper()
	agent, err := fleetdir.LoadAgent(filepath.Join(s.region, "agents/alice"))
	if err != nil {
		s.t.Fatal(err)
	}
	var config *tls.Config
	if config, err = agent.TLS(testMember); err != nil {
		s.t.Fatal(err)
	}
	body, err := json.Marshal(in)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequest(method, "https://"+s.operators+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if out == nil {
		out = new(json.RawMessage)
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil && resp.ContentLength != 0 {
		s.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s %s: %d %v", method, path, resp.StatusCode, out)
	}
}

// images has the fleet accept the factory and server images, and returns their
// PCR policies.
func (s *station) images() (policies [][]byte) {
	s.t.Helper()
	block, _ := pem.Decode(s.read("region/offline/policy.key"))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		s.t.Fatal(err)
	}
	signer, err := signed.ParseSigner(s.read("region/offline/manifest.key"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, role := range []measure.Role{measure.RoleFactory, measure.RoleServer} {
		pcrs, err := s.boot(role).ReadPCRs()
		if err != nil {
			s.t.Fatal(err)
		}
		m := &measure.Manifest{Type: measure.ManifestType, Image: string(role), Version: "1", Role: role,
			Form: measure.FormEFIKernel, PCRs: map[int]measure.Hex{}}
		for _, n := range measure.ImagePCRs() {
			m.PCRs[n] = pcrs[n]
		}
		msg, err := measure.SignManifest(m, signer)
		if err != nil {
			s.t.Fatal(err)
		}
		s.must("POST", "/v1/manifests", &kekproto.Document{Note: msg}, nil)
		policy, err := pcrpolicy.Sign(key.(*rsa.PrivateKey), m)
		if err != nil {
			s.t.Fatal(err)
		}
		policies = append(policies, policy)
	}
	return policies
}

func (s *station) fleet() snapshot.Fleet {
	block, _ := pem.Decode(s.read("region/public/ca.pem"))
	return snapshot.Fleet{CA: block.Bytes, Members: []snapshot.Member{{ID: testMember, URL: "https://" + s.devices}}}
}

// provision takes the device through `seal provision`.
func (s *station) provision() {
	s.t.Helper()
	var token kekproto.NewToken
	s.must("POST", "/v1/devices", &kekproto.NewDevice{Device: testDevice}, &token)
	st := &snapshot.Station{Type: snapshot.StationType, Device: testDevice, Fleet: s.fleet()}
	text, err := st.Bytes()
	if err != nil {
		s.t.Fatal(err)
	}
	s.part(&snapshot.Part{Station: text, Token: []byte(token.Token + "\n")})
	err = s.seal("provision")
	if err == nil {
		return
	}
	// The EK certificate of an emulator proves nothing: an operator approves.
	// The name is on the console, before the fleet has refused.
	if name := s.record().EKName; !strings.Contains(s.out.String(), "EK name "+name) {
		s.t.Errorf("a device that waits for approval does not show its EK name %s:\n%s", name, &s.out)
	}
	s.must("POST", "/v1/devices/"+testDevice+"/approve", &kekproto.Approval{EKName: s.record().EKName}, nil)
	if err := s.seal("provision"); err != nil {
		s.t.Fatal(err)
	}
}

func (s *station) record() *kekproto.DeviceInfo {
	info := new(kekproto.DeviceInfo)
	s.must("GET", "/v1/devices/"+testDevice, nil, info)
	return info
}

// slice makes and signs the device's slice.
func (s *station) slice(edit func(*snapshot.Slice)) []byte {
	s.t.Helper()
	sl, err := snapshot.ParseDescription([]byte(`{"device": {"id": "` + testDevice + `", "roles": ["server"]},
		"interfaces": [{"name": "eth0", "mac": "52:54:00:00:00:01", "addresses": ["10.0.0.2/24"]}],
		"volumes": [
			{"name": "root", "use": "root", "need": "required", "factory": {"way": "in-place", "disk": "ROOT"}},
			{"name": "data0", "use": "data", "need": "optional", "factory": {"way": "format", "disk": "DATA"}}]}`))
	if err != nil {
		s.t.Fatal(err)
	}
	info, fleet := s.record(), s.fleet()
	keys := snapshot.TPMKeys{EKName: info.EKName, AKName: info.AKName, SRKName: info.SRKName, SRKPublic: info.SRKPublic}
	if err := sl.Complete(&snapshot.Region{Name: "north", Members: fleet.Members}, fleet.CA, keys); err != nil {
		s.t.Fatal(err)
	}
	if edit != nil {
		edit(sl)
	}
	signer, err := signed.ParseSigner(s.read("region/offline/root.key"))
	if err != nil {
		s.t.Fatal(err)
	}
	msg, err := snapshot.SignSlice(sl, signer)
	if err != nil {
		s.t.Fatal(err)
	}
	return msg
}

package kekserver_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekserver"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

const (
	testRegion = "test"
	testMember = "ks1"
	testDevice = "r01-u01"
)

// region is one real member on loopback, with everything that kekctl init makes.
type region struct {
	t      testing.TB
	dir    string
	member *fleetdir.Member
	server *kekserver.Server
	stop   func()
	wrap   func(kekstore.Store) kekstore.Store // what start puts between server and store; may be nil

	devices, operators string // addresses
	log                lockedBuffer
}

func newFleet(t testing.TB, o fleetdir.Options) *region {
	t.Helper()
	f := &region{t: t, dir: filepath.Join(t.TempDir(), "region")}
	o.Region = testRegion
	o.Members = []snapshot.Member{{ID: testMember, URL: "https://127.0.0.1:7443"}}
	if o.Agents == nil {
		o.Agents = []fleetdir.AgentOption{{Name: "alice", Role: "operator"}, {Name: "bob", Role: "agent"},
			{Name: "carol", Role: "viewer"}, {Name: "mallory", Role: "metrics"}}
	}
	if o.Threshold == 0 {
		o.Threshold = 2
	}
	if err := fleetdir.Init(context.Background(), f.dir, o); err != nil {
		t.Fatal(err)
	}
	f.start()
	return f
}

// start opens the member and serves it; stop ends it as SIGTERM does.
func (f *region) start() {
	f.t.Helper()
	var err error
	if f.member, err = fleetdir.LoadMember(filepath.Join(f.dir, "members", testMember, "kekd.json")); err != nil {
		f.t.Fatal(err)
	}
	unsealer, err := f.member.Unsealer("")
	if err != nil {
		f.t.Fatal(err)
	}
	server, store, err := f.member.Open(context.Background(), unsealer, slog.New(slog.NewTextHandler(&f.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		f.t.Fatal(err)
	}
	f.server = server
	if f.wrap != nil {
		if err := server.WrapStore(f.wrap); err != nil {
			f.t.Fatal(err)
		}
	}
	l := kekserver.Listeners{Devices: &smallBuffers{listen(f.t)}, Operators: listen(f.t)}
	f.devices, f.operators = l.Devices.Addr().String(), l.Operators.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Serve(ctx, l) }()
	stopped := false
	f.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
		if err := server.Close(); err != nil {
			f.t.Error(err)
		}
		if err := store.Close(); err != nil {
			f.t.Error(err)
		}
	}
	f.t.Cleanup(f.stop)
}

// lockedBuffer is what the member logs.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// smallBuffers keeps the kernel from hiding a peer that does not read.
type smallBuffers struct{ net.Listener }

func (l *smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return c, c.(*net.TCPConn).SetWriteBuffer(16 << 10)
}

func (f *region) file(name string) []byte {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		f.t.Fatal(err)
	}
	return data
}

func (f *region) ca() []byte {
	f.t.Helper()
	block, _ := pem.Decode(f.file("public/ca.pem"))
	return block.Bytes
}

func (f *region) signer(path string) note.Signer {
	f.t.Helper()
	s, err := signed.ParseSigner(f.file(path))
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *region) client() *kekclient.Client {
	return &kekclient.Client{Members: []snapshot.Member{{ID: testMember, URL: "https://" + f.devices}}, CA: f.ca(), Device: testDevice}
}

// as asks the operator plane as an agent; "" is nobody.
func (f *region) as(agent, method, path string, in, out any) (int, string) {
	f.t.Helper()
	var config *tls.Config
	var err error
	if agent == "" {
		config, err = kekclient.TLSConfig(f.ca(), testMember)
	} else {
		var a *fleetdir.Agent
		if a, err = fleetdir.LoadAgent(filepath.Join(f.dir, "agents", agent)); err == nil {
			config, err = a.TLS(testMember)
		}
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return f.ask(config, method, path, in, out)
}

func (f *region) ask(config *tls.Config, method, path string, in, out any) (int, string) {
	f.t.Helper()
	var body string
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			f.t.Fatal(err)
		}
		body = string(data)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "https://"+f.operators+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		f.t.Fatal(err)
	}
	if out != nil && resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(data, out); err != nil {
			f.t.Fatalf("%s %s: %v in %.200s", method, path, err, data)
		}
	}
	return resp.StatusCode, string(data)
}

// must is as, by alice the operator, and must succeed.
func (f *region) must(method, path string, in, out any) {
	f.t.Helper()
	if status, body := f.as("alice", method, path, in, out); status != http.StatusOK {
		f.t.Fatalf("%s %s: %d %s", method, path, status, body)
	}
}

func (f *region) addDevice() *secret.Bytes {
	f.t.Helper()
	var token kekproto.NewToken
	f.must("POST", "/v1/devices", &kekproto.NewDevice{Device: testDevice}, &token)
	return secret.Take([]byte(token.Token))
}

func (f *region) device() *kekproto.DeviceInfo {
	f.t.Helper()
	info := new(kekproto.DeviceInfo)
	f.must("GET", "/v1/devices/"+testDevice, nil, info)
	return info
}

// slice signs a slice of a generation for the enrolled device.
func (f *region) slice(generation uint64, edit ...func(*snapshot.Slice)) (msg []byte, digest []byte) {
	f.t.Helper()
	info := f.device()
	s, err := snapshot.ParseDescription([]byte(`{"device":{"id":"` + testDevice + `","roles":["server"]},
		"interfaces":[{"name":"eth0","mac":"52:54:00:00:00:01","addresses":["10.0.0.2/24"]}],
		"volumes":[{"name":"root","use":"root","need":"required"}]}`))
	if err != nil {
		f.t.Fatal(err)
	}
	s.Generation = generation
	if info.SliceHash != "" {
		s.Amendment = &snapshot.Amendment{Replaces: info.SliceHash, Reason: "a new NIC"}
	}
	for _, e := range edit {
		e(s)
	}
	region := &snapshot.Region{Name: testRegion, Members: []snapshot.Member{{ID: testMember, URL: "https://10.0.0.1:7443"}}}
	if err := s.Complete(region, f.ca(), snapshot.TPMKeys{EKName: info.EKName, AKName: info.AKName, SRKName: info.SRKName, SRKPublic: info.SRKPublic}); err != nil {
		f.t.Fatal(err)
	}
	msg, err = snapshot.SignSlice(s, f.signer("offline/root.key"))
	if err != nil {
		f.t.Fatal(err)
	}
	verifier, err := signed.ParseVerifier(f.file("public/root.pub"))
	if err != nil {
		f.t.Fatal(err)
	}
	_, sum, err := snapshot.OpenSlice(msg, verifier)
	if err != nil {
		f.t.Fatal(err)
	}
	return msg, sum[:]
}

func (f *region) addSlice(generation uint64) (digest []byte) {
	f.t.Helper()
	msg, digest := f.slice(generation)
	f.must("POST", "/v1/slices", &kekproto.Document{Note: msg}, nil)
	return digest
}

// addImage accepts these PCR values as an image of a role.
func (f *region) addImage(role measure.Role, form measure.Form, pcrs map[int][]byte) {
	f.t.Helper()
	if status, body := f.tryImage(role, form, pcrs); status != http.StatusOK {
		f.t.Fatalf("manifest of %s: %d %s", role, status, body)
	}
}

func (f *region) tryImage(role measure.Role, form measure.Form, pcrs map[int][]byte) (int, string) {
	f.t.Helper()
	m := &measure.Manifest{Type: measure.ManifestType, Image: "landfall-" + string(role), Version: "1", Role: role, Form: form, PCRs: map[int]measure.Hex{}}
	for _, n := range measure.ImagePCRs() {
		m.PCRs[n] = pcrs[n]
	}
	msg, err := measure.SignManifest(m, f.signer("offline/manifest.key"))
	if err != nil {
		f.t.Fatal(err)
	}
	return f.as("alice", "POST", "/v1/manifests", &kekproto.Document{Note: msg}, nil)
}

// receive submits statements of these agents about a shipment.
func (f *region) receive(shipment string, agents ...string) (int, string) {
	f.t.Helper()
	var b kekproto.Bundle
	for _, a := range agents {
		msg, err := signed.Sign(&kekproto.Received{Type: kekproto.ReceivedType, Region: testRegion, Shipment: shipment}, f.signer("agents/"+a+"/note.key"))
		if err != nil {
			f.t.Fatal(err)
		}
		b.Notes = append(b.Notes, msg)
	}
	return f.as("alice", "POST", "/v1/region/received", &b, nil)
}

func (f *region) status() *kekproto.Status {
	f.t.Helper()
	st := new(kekproto.Status)
	f.must("GET", "/v1/status", nil, st)
	return st
}

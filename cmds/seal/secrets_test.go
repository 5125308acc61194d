package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/provision"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// factoryFloor is a station as far as one device needs it. It keeps all that it
// is told.
type factoryFloor struct {
	server *httptest.Server

	image []byte // of the one disk image

	mu     sync.Mutex
	has    snapshot.Assignment
	posted bytes.Buffer
}

func newFloor(t *testing.T, token string) *factoryFloor {
	t.Helper()
	f := &factoryFloor{image: bytes.Repeat(secret.Random(4096).Expose(), 2048)}
	f.bring(&snapshot.Assignment{Token: []byte(token)})
	f.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if _, err := f.posted.ReadFrom(r.Body); err != nil {
			t.Error(err)
		}
		switch r.URL.Path {
		case "/images/data.raw":
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.image))
		case "/v1/assignment":
			if err := json.NewEncoder(w).Encode(&f.has); err != nil {
				t.Error(err)
			}
		}
	}))
	t.Cleanup(f.server.Close)
	return f
}

// bring has it hand out something else.
func (f *factoryFloor) bring(a *snapshot.Assignment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.has = *a
	f.has.Type, f.has.Device = snapshot.AssignmentType, testDevice
}

// plan has the device's second volume made from the image.
func (f *factoryFloor) plan() *snapshot.SealPlan {
	sum := sha256.Sum256(f.image)
	return &snapshot.SealPlan{Type: snapshot.SealPlanType, Device: testDevice, Volumes: []snapshot.SealVolume{{
		Name: "data0", Way: snapshot.WayImage, Disk: "DATA",
		Image: &snapshot.VolumeImage{URL: "images/data.raw", Format: "raw", SHA256: hex.EncodeToString(sum[:]), Bytes: int64(len(f.image))},
	}}}
}

func (f *factoryFloor) told() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.posted.Bytes()
}

// learn asks everybody who knows them for the secrets of a sealed device.
func (s *station) learn(h *hunt, note []byte, policies [][]byte) {
	s.t.Helper()
	ctx := context.Background()
	root, err := signed.ParseVerifier(s.read("etc/region.pub"))
	if err != nil {
		s.t.Fatal(err)
	}
	slice, digest, err := snapshot.OpenSlice(note, root)
	if err != nil {
		s.t.Fatal(err)
	}
	x := s.boot(measure.RoleFactory)
	if _, err := measureSlice(x, digest); err != nil {
		s.t.Fatal(err)
	}
	client := &kekclient.Client{Members: slice.Fleet.Members, CA: slice.Fleet.CA, Device: testDevice, Slice: slice.Generation}
	owner, lockout, err := client.Auths(ctx, provision.Quoter(x))
	if err != nil {
		s.t.Fatal(err)
	}
	kek, err := client.CreateKEK(ctx, provision.Quoter(x), provision.FirstGeneration)
	if err != nil {
		s.t.Fatal(err)
	}
	recovery, err := client.Recovery(ctx, provision.Quoter(x))
	if err != nil {
		s.t.Fatal(err)
	}
	typed, err := keyblob.RecoveryText(recovery)
	if err != nil {
		s.t.Fatal(err)
	}
	_, dek := s.dek(note, policies)
	for name, key := range map[string]*secret.Bytes{"owner auth": owner, "lockout auth": lockout, "KEK": kek.Key, "DEK": dek, "recovery key": recovery, "recovery key as typed": typed} {
		h.add(name, key.Expose())
	}
	h.add("recovery key without dashes", bytes.ReplaceAll(typed.Expose(), []byte("-"), nil))
	f := &disk.Finder{Tree: disk.Tree{Sys: filepath.Join(s.dir, "sys"), Dev: filepath.Join(s.dir, "dev")}, Volumes: slice.Volumes}
	if err := f.Wait(ctx); err != nil {
		s.t.Fatal(err)
	}
	for _, v := range slice.Volumes {
		vol, err := f.Open(ctx, dek, testDevice, v)
		if err != nil {
			s.t.Fatal(err)
		}
		pass, err := luks2.Passphrase(dek, v.UUID)
		if err != nil {
			s.t.Fatal(err)
		}
		h.add("volume key of "+v.Name, vol.Key.Key.Expose())
		h.add("passphrase of "+v.Name, pass.Expose())
	}
}

// TestNoSecretIsLeftInTheFactory goes from enrolment to sealed disks with the
// real programs, one volume encrypted in place and one written from a disk image,
// and looks for every secret of the device, and for the image's plaintext, in all that was
// printed and written, and in what the programs were started with: logs,
// arguments, environments, temporary files, disks, the LANDFALL partition, and
// the fleet's own files.
func TestNoSecretIsLeftInTheFactory(t *testing.T) {
	s := newStation(t)
	policies := s.images()
	var token kekproto.NewToken
	s.must("POST", "/v1/devices", &kekproto.NewDevice{Device: testDevice}, &token)
	f := newFloor(t, token.Token)
	text, err := (&snapshot.Station{Type: snapshot.StationType, Device: testDevice, Fleet: s.fleet(),
		Source: &snapshot.Source{URL: f.server.URL, CA: f.server.Certificate().Raw}}).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	s.part(&snapshot.Part{Station: text})
	s.smallDisks()
	s.disk("vdc", "DATA", "", make([]byte, 64<<20))
	h := new(hunt)
	h.add("enrolment token", []byte(token.Token))

	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	r := record(t, filepath.Join(s.dir, "run"), tmp)
	var printed bytes.Buffer
	run := func(args ...string) error {
		err := s.seal(args...)
		fmt.Fprintf(&printed, "%s%v\n", &s.out, err)
		return err
	}
	if err := run("provision"); err == nil {
		t.Fatal("the fleet did not wait for an approval")
	}
	s.must("POST", "/v1/devices/"+testDevice+"/approve", &kekproto.Approval{EKName: s.record().EKName}, nil)
	if err := run("provision"); err != nil {
		t.Fatal(err)
	}
	note := s.slice(nil)
	s.must("POST", "/v1/slices", &kekproto.Document{Note: note}, nil)
	f.bring(&snapshot.Assignment{Slice: note, Policies: policies, Plan: f.plan()})
	h.add("plaintext of the disk image", f.image[:64])
	for range 2 { // sealed, and sealed already
		if err := run(); err != nil && !waitsForAcceptance(err) {
			t.Fatal(err)
		}
	}
	r.end()
	r.check(t)

	s.learn(h, note, policies)
	t.Logf("%d secrets: %v", len(h.names), h.names)
	for what, text := range map[string][]byte{"printed": printed.Bytes(), "told the station": f.told()} {
		if found := h.in(text); found != nil || len(text) == 0 {
			t.Errorf("%s, %d bytes: %v", what, len(text), found)
		}
	}
	for _, dir := range []string{s.dir, tmp, r.dir} {
		hits, looked := h.files(t, dir)
		t.Logf("%d files in %s", looked, dir)
		for _, hit := range hits {
			t.Errorf("left: %s", hit)
		}
	}
	if left, err := os.ReadDir(filepath.Join(s.dir, "run")); err != nil && !errors.Is(err, fs.ErrNotExist) || len(left) > 1 {
		t.Errorf("files are left in seal's folder: %v, %v", left, err)
	}
}

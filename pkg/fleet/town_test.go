package fleet

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/attest/attesttest"
	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/measure"
)

// town is a member with devices and agents, and what they were told. Whatever was
// acknowledged has to stay so.
type town struct {
	*world
	rand     *mathrand.Rand
	rules    Rules
	agents   []note.Signer
	member   *Member
	machines []*machine
	images   [2]string // digests of the manifests of two versions of the server image
	revoked  [2]belief
	state    kekproto.RegionState // acknowledged, or found after a restart
	doubtful bool                 // a move was not acknowledged
	keks     map[string][]byte    // what was given for a device and generation
	letters  []*letter            // that were sent once
	given    int
}

// belief is what the agents were told of something that was commanded.
type belief int

const (
	no belief = iota
	yes
	unknown // the member ended, or failed, before it answered
)

// machine is a device.
type machine struct {
	id        string
	ak        *attesttest.SoftAK
	name      string // of the AK
	image     int    // -1: the factory's, else the server image's version
	suspended belief
	sealed    uint32 // acknowledged
	counted   uint32 // the highest reset count at which it was given its key
}

// letter is a request on its way: it may come late, and more than once.
type letter struct {
	from  *machine
	image int
	reset uint32
	gen   uint32
	raw   []byte
	keys  *kekproto.KeyPair
	ask   Ask
}

var letterExporter = bytes.Repeat([]byte{7}, kekproto.ExporterLength)

func imagePCRs(image int) map[int][]byte {
	pcrs := map[int][]byte{}
	for _, n := range attest.Selection() {
		pcrs[n] = bytes.Repeat([]byte{byte(n)}, measure.Size)
	}
	for _, n := range measure.ImagePCRs() {
		pcrs[n] = bytes.Repeat([]byte{byte(100 + image)}, measure.Size)
	}
	return pcrs
}

func newTown(t *testing.T, seed uint64) *town {
	t.Helper()
	w := newWorld(t)
	w.stop()
	tn := &town{world: w, rand: mathrand.New(mathrand.NewPCG(seed, 0)), keks: map[string][]byte{}, state: kekproto.StateBuilding}
	key := func(name string) (note.Signer, note.Verifier) {
		private, public, err := note.GenerateKey(rand.Reader, name)
		if err != nil {
			t.Fatal(err)
		}
		s, err := note.NewSigner(private)
		if err != nil {
			t.Fatal(err)
		}
		v, err := note.NewVerifier(public)
		if err != nil {
			t.Fatal(err)
		}
		return s, v
	}
	manifests, manifestKey := key("manifest")
	_, rootKey := key("root")
	tn.rules = Rules{Region: "north", ManifestKey: manifestKey, RootKey: rootKey, EKPolicy: EKRecord, Threshold: 2}
	for i, name := range []string{"alice", "bob"} {
		s, v := key("agent/" + name)
		tn.agents = append(tn.agents, s)
		tn.rules.Agents = append(tn.rules.Agents, Agent{Name: name, Role: RoleOperator, Certificate: [32]byte{byte(i)}, Key: v, PublicKey: bytes.Repeat([]byte{byte(i)}, 32)})
	}
	if err := tn.rules.Check(); err != nil {
		t.Fatal(err)
	}
	tn.found(manifests)
	tn.open()
	return tn
}

// found writes a region with two devices that have enrolled, as an enrolment leaves
// them, and the images' manifests.
func (tn *town) found(manifests note.Signer) {
	tn.t.Helper()
	ctx := context.Background()
	store, err := kekstore.OpenBolt(tn.path("store.db"), tn.key)
	if err != nil {
		tn.t.Fatal(err)
	}
	put := func(path string, v any) {
		w, err := write(path, 0, v)
		if err == nil {
			_, err = store.Commit(ctx, nil, w)
		}
		if err != nil {
			tn.t.Fatal(err)
		}
	}
	if err := InitStore(ctx, store, tn.rules.Region); err != nil {
		tn.t.Fatal(err)
	}
	slice := sha256.Sum256([]byte("slice"))
	for _, id := range []string{"r01-u01", "r01-u02"} {
		pcrs := imagePCRs(-1)
		pcrs[measure.SlicePCR] = measure.SliceValue(slice[:])
		m := &machine{id: id, ak: attesttest.New(tn.t, pcrs), image: -1}
		if m.name, err = attest.Name(m.ak.Public(tn.t)); err != nil {
			tn.t.Fatal(err)
		}
		tn.machines = append(tn.machines, m)
		put(pathDevices+id, &deviceRecord{AKPublic: m.ak.Public(tn.t), AKName: m.name, Approved: true})
		put(pathSlices+id, &sliceRecord{measuredSlice: measuredSlice{1, slice[:]}})
	}
	for image := -1; image < len(tn.images); image++ {
		m := &measure.Manifest{Type: measure.ManifestType, Image: "server", Version: fmt.Sprint(1 + image), Role: measure.RoleServer, Form: measure.FormEFIKernel, PCRs: map[int]measure.Hex{}}
		if image < 0 {
			m.Image, m.Version, m.Role = "factory", "1", measure.RoleFactory
		}
		for _, n := range measure.ImagePCRs() {
			m.PCRs[n] = imagePCRs(image)[n]
		}
		text, err := measure.SignManifest(m, manifests)
		if err != nil {
			tn.t.Fatal(err)
		}
		sum := sha256.Sum256(text)
		digest := hex.EncodeToString(sum[:])
		if image >= 0 {
			tn.images[image] = digest
		}
		if _, err := store.Commit(ctx, nil, kekstore.Write{Path: pathManifests + digest, Data: text}); err != nil {
			tn.t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		tn.t.Fatal(err)
	}
}

func (tn *town) open() {
	tn.t.Helper()
	store, log := tn.disk()
	var err error
	if tn.member, err = Open(context.Background(), tn.rules, store, func() time.Time { return tn.at }, log); err != nil {
		tn.t.Fatalf("after a restart: %v", err)
	}
}

// restart switches the member off and on, and has nothing go wrong until it has
// told what a crash left.
func (tn *town) restart() {
	tn.t.Helper()
	next := tn.next
	tn.next = func() fault { return none }
	defer func() { tn.next = next }()
	tn.stop()
	tn.at = tn.at.Add(time.Minute)
	tn.open()
	if err := tn.member.Ready(context.Background()); err != nil {
		tn.t.Fatalf("after a restart: %v", err)
	}
	tn.accounts()
}

// failed takes in that something was not acknowledged.
func (tn *town) failed(err error) {
	tn.t.Helper()
	switch {
	case tn.dead:
		tn.restart()
	case errors.Is(err, audit.ErrBroken):
		tn.at = tn.at.Add(2 * mendPause) // it goes on by itself
	}
}

// accounts holds what the member has recorded against what was acknowledged, and
// against what its log tells.
func (tn *town) accounts() {
	tn.t.Helper()
	ctx := context.Background()
	status, err := tn.member.Status(ctx, "ks1")
	if err != nil {
		tn.t.Fatal(err)
	}
	if status.State != tn.state && !tn.doubtful {
		tn.t.Errorf("the region is %s, and was acknowledged to be %s", status.State, tn.state)
	}
	tn.state, tn.doubtful = status.State, false
	told := tn.told()
	if told.state != status.State {
		tn.t.Errorf("the region is %s, and the log tells of %s", status.State, told.state)
	}
	for _, m := range tn.machines {
		info, err := tn.member.Device(ctx, m.id)
		if err != nil {
			tn.t.Fatal(err)
		}
		if m.suspended != unknown && info.Suspended != (m.suspended == yes) {
			tn.t.Errorf("%s is suspended: %t, against what was acknowledged", m.id, info.Suspended)
		}
		m.suspended = no
		if info.Suspended {
			m.suspended = yes
		}
		if info.Sealed < m.sealed {
			tn.t.Errorf("%s is sealed under generation %d, acknowledged was %d", m.id, info.Sealed, m.sealed)
		}
		if got := told.devices[m.id]; got.suspended != info.Suspended || got.sealed != info.Sealed {
			tn.t.Errorf("%s is suspended: %t, sealed: %d; the log tells of %+v", m.id, info.Suspended, info.Sealed, got)
		}
	}
	for i, digest := range tn.images {
		_, err := tn.store.Get(ctx, pathRevoked+digest)
		is := err == nil
		if tn.revoked[i] == yes && !is || told.revoked[digest] != is {
			tn.t.Errorf("image %d is revoked: %t; acknowledged: %v, told: %t", i, is, tn.revoked[i], told.revoked[digest])
		}
		tn.revoked[i] = no
		if is {
			tn.revoked[i] = yes
		}
	}
}

// tale is what a log tells of.
type tale struct {
	state   kekproto.RegionState
	devices map[string]struct {
		suspended bool
		sealed    uint32
	}
	revoked map[string]bool
}

func (tn *town) told() tale {
	tn.t.Helper()
	out := tale{state: kekproto.StateBuilding, revoked: map[string]bool{}, devices: map[string]struct {
		suspended bool
		sealed    uint32
	}{}}
	text, err := os.ReadFile(tn.path("audit.jsonl"))
	if err != nil {
		tn.t.Fatal(err)
	}
	if _, _, err := audit.Verify(text, func(r audit.Record) error {
		d := out.devices[r.Device]
		switch r.Event {
		case audit.EventSuspend, audit.EventResume:
			d.suspended = r.Event == audit.EventSuspend
		case audit.EventSealed:
			d.sealed = uint32(r.Generation)
		case audit.EventRegion:
			out.state = kekproto.RegionState(r.State)
		case audit.EventRevoke:
			out.revoked[r.Digest] = true
		}
		out.devices[r.Device] = d
		return nil
	}); err != nil {
		tn.t.Fatal(err)
	}
	return out
}

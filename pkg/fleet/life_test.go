package fleet

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/attest/attesttest"
	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/signed"
)

// lives is how many random lives of a member TestAnyLife tries; LANDFALL_ALL_CUTS
// makes it many.
const lives, manyLives, steps = 24, 2000, 150

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

// command has alice command something, and returns whether it was acknowledged.
func command[R any](tn *town, c Command[R]) bool {
	tn.t.Helper()
	_, err := Do(context.Background(), tn.member, By{Agent: &tn.rules.Agents[0]}, c)
	if err != nil {
		tn.failed(err)
	}
	return err == nil
}

func (tn *town) suspend(m *machine) {
	if m.suspended != yes {
		m.suspended = unknown // until it is acknowledged
	}
	if command(tn, Suspend{m.id, "a crate was open"}) {
		m.suspended = yes
	}
}

func (tn *town) resume(m *machine) {
	before := m.suspended
	m.suspended = unknown
	_, err := Do(context.Background(), tn.member, By{Agent: &tn.rules.Agents[0]}, Resume{m.id})
	switch {
	case err == nil:
		m.suspended = no
	case errors.Is(err, ErrConflict):
		m.suspended = before
	default:
		tn.failed(err)
	}
}

func (tn *town) revoke(i int) {
	if tn.revoked[i] != yes {
		tn.revoked[i] = unknown
	}
	if command(tn, RevokeManifests{kekproto.Revocation{Digest: tn.images[i], Reason: "a hole"}}) {
		tn.revoked[i] = yes
	}
}

// move takes the region to its next state, if there is one.
func (tn *town) move() {
	tn.t.Helper()
	next := map[kekproto.RegionState]kekproto.RegionState{kekproto.StateBuilding: kekproto.StateInTransit,
		kekproto.StateInTransit: kekproto.StateReceived, kekproto.StateReceived: kekproto.StateLive}[tn.state]
	if next == "" || tn.doubtful {
		return
	}
	tn.doubtful = true
	ok := false
	switch next {
	case kekproto.StateInTransit:
		ok = command(tn, Ship{})
	case kekproto.StateLive:
		ok = command(tn, GoLive{})
	default:
		v, err := tn.member.state.view(context.Background())
		if err != nil {
			tn.t.Fatal(err)
		}
		var notes [][]byte
		for _, s := range tn.agents {
			n, err := signed.Sign(&kekproto.Received{Type: kekproto.ReceivedType, Region: tn.rules.Region, Shipment: v.region.Shipment}, s)
			if err != nil {
				tn.t.Fatal(err)
			}
			notes = append(notes, n)
		}
		ok = command(tn, Receive{notes})
	}
	if ok {
		tn.state, tn.doubtful = next, false
	}
}

// write has a machine ask for something, as it is now. What it writes may be sent
// at once, later, or more often.
func (tn *town) write(m *machine, op kekproto.Op, generation uint32) *letter {
	tn.t.Helper()
	keys, err := kekproto.NewKeyPair()
	if err != nil {
		tn.t.Fatal(err)
	}
	req := &kekproto.Request{Protocol: kekproto.Version, Op: op, Device: m.id, Generation: generation, Slice: 1}
	if op.Secret() {
		req.HPKEPublic = keys.Public()
	}
	raw, err := json.Marshal(req)
	if err != nil {
		tn.t.Fatal(err)
	}
	pcrs := imagePCRs(m.image)
	pcrs[measure.SlicePCR] = m.ak.PCRs[measure.SlicePCR]
	m.ak.PCRs = pcrs
	quote, err := m.ak.Quote(attest.Qualify(op.Label(), letterExporter, raw))
	if err != nil {
		tn.t.Fatal(err)
	}
	body, err := json.Marshal(&kekproto.Attested{Request: raw, Quote: quote})
	if err != nil {
		tn.t.Fatal(err)
	}
	l := &letter{from: m, image: m.image, reset: m.ak.Reset, gen: generation, raw: raw, keys: keys,
		ask: Ask{Op: op, Body: body, Exporter: letterExporter, Peer: "10.0.0.9:1"}}
	tn.letters = append(tn.letters, l)
	return l
}

// deliver brings a letter, and holds what comes back against what was acknowledged
// before.
func (tn *town) deliver(l *letter) {
	tn.t.Helper()
	m := l.from
	refused := tn.member.Answer(context.Background(), &l.ask, func(a *Answer) {
		if l.ask.Op == kekproto.OpSealed {
			m.sealed = max(m.sealed, l.gen)
			return
		}
		tn.given++
		if m.suspended == yes {
			tn.t.Errorf("%s got its key after its suspension was acknowledged", m.id)
		}
		if s := tn.state; !tn.doubtful && (s == kekproto.StateInTransit || s == kekproto.StateReceived) {
			tn.t.Errorf("%s got its key though the region is acknowledged to be %s", m.id, s)
		}
		if l.image >= 0 && tn.revoked[l.image] == yes {
			tn.t.Errorf("%s got its key for an image whose revocation was acknowledged", m.id)
		}
		if l.reset < m.counted {
			tn.t.Errorf("%s got its key at reset count %d, after %d", m.id, l.reset, m.counted)
		}
		if l.ask.Op == kekproto.OpRelease {
			m.counted = l.reset
		}
		tn.sameKEK(l, a.Response.KEK)
	})
	if refused != nil {
		tn.failed(errors.Join(refused.Fault, refused.Untold))
	}
}

// sameKEK shows that a KEK of a generation is what it was before.
func (tn *town) sameKEK(l *letter, sealed *kekproto.KEK) {
	tn.t.Helper()
	if sealed == nil {
		tn.t.Fatalf("%s got no KEK in its answer", l.from.id)
	}
	plain, err := l.keys.Open(kekproto.Info(l.ask.Op, l.raw), sealed.Sealed, kekSize)
	if err != nil {
		tn.t.Fatal(err)
	}
	defer plain.Wipe()
	name := fmt.Sprint(l.from.id, "/", sealed.Generation)
	value := append(bytes.Clone(sealed.ID), plain.Expose()...)
	if before, ok := tn.keks[name]; ok && !bytes.Equal(before, value) {
		tn.t.Errorf("KEK %s has another value than before", name)
	}
	tn.keks[name] = value
}

// step is one thing that happens.
func (tn *town) step() {
	tn.t.Helper()
	tn.at = tn.at.Add(time.Duration(tn.rand.IntN(5000)) * time.Millisecond)
	m := tn.machines[tn.rand.IntN(len(tn.machines))]
	switch n := tn.rand.IntN(100); {
	case n < 45 && m.image < 0 && m.sealed == 0: // seal, in the factory
		op := kekproto.OpKEK
		if n < 15 {
			op = kekproto.OpSealed
		}
		tn.deliver(tn.write(m, op, 1))
	case n < 10:
		tn.deliver(tn.write(m, kekproto.OpKEK, m.sealed+uint32(tn.rand.IntN(2))))
	case n < 15:
		tn.deliver(tn.write(m, kekproto.OpSealed, m.sealed+uint32(tn.rand.IntN(2))))
	case n < 45:
		tn.deliver(tn.write(m, kekproto.OpRelease, 0))
	case n < 62 && len(tn.letters) > 0: // late, or once more
		tn.deliver(tn.letters[tn.rand.IntN(len(tn.letters))])
	case n < 80 && (m.sealed > 0 || n < 65): // it boots
		m.ak.Reset += uint32(tn.rand.IntN(3))
		m.image = tn.rand.IntN(3) - 1
	case n < 85:
		tn.suspend(m)
	case n < 93:
		tn.resume(m)
	case n < 94:
		tn.move()
	case n < 95:
		tn.revoke(tn.rand.IntN(len(tn.images)))
	default:
		tn.restart()
	}
}

// live is a random life: faults come at any step of store and log.
func live(t *testing.T, seed uint64) {
	tn := newTown(t, seed)
	tn.next = func() fault {
		if tn.rand.IntN(8) > 0 {
			return none
		}
		return fault(tn.rand.IntN(int(faults)))
	}
	for range steps {
		tn.step()
		if t.Failed() {
			break
		}
	}
	tn.restart()
	tn.stop()
	for _, l := range tn.letters {
		l.keys.Wipe()
	}
	if tn.given == 0 {
		t.Logf("seed %d: no key was given", seed)
	}
}

// Whatever commands, requests, crashes, restarts, full disks and failed fsyncs come,
// in whatever order, doubled and late: no key leaves after an acknowledged
// suspension, shipment or revocation; a generation of a KEK has one value; what is
// remembered of a TPM never shrinks; and the log tells of what the store has.
func TestAnyLife(t *testing.T) {
	n := uint64(lives)
	if os.Getenv("LANDFALL_ALL_CUTS") != "" {
		n = manyLives
	}
	for seed := range n {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			live(t, seed)
		})
	}
}

// The lives notice what they are there for: with each of these mistakes in the
// rules, some fail.
func TestMistakesAreFound(t *testing.T) {
	for name, m := range map[string]struct{ file, right, wrong, says string }{
		"suspension that a release does not heed": {"decide.go", "if !d.Suspended {", "if d.Reason != `\\x00` {", "after its suspension"},
		"an older copy of a TPM":                  {"history.go", "if reset < last.reset {", "if reset+100 < last.reset {", "at reset count"},
		"a KEK that is made twice":                {"keys.go", "if errors.Is(err, kekstore.ErrNotFound) {\n\t\trandom", "if bytes.HasSuffix([]byte(path), []byte(`/1`)) {\n\t\trandom", "another value"},
		"a key on the road":                       {"decide.go", "return report.Errorf(report.KeyState, \"the region is in transit: no key leaves\")", "return nil", "in-transit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), m.right); n != 1 {
				t.Fatalf("%q is %d times in %s", m.right, n, m.file)
			}
			wrong := strings.Replace(string(text), m.right, m.wrong, 1)
			if strings.Contains(m.wrong, "bytes.HasSuffix") {
				wrong = strings.Replace(wrong, "kekstore.Write{{Path: path, Data", "kekstore.Write{{Path: path, Old: v.Version, Data", 1)
			}
			dir := t.TempDir()
			here, err := filepath.Abs(m.file)
			if err != nil {
				t.Fatal(err)
			}
			overlay, err := json.Marshal(map[string]map[string]string{"Replace": {here: filepath.Join(dir, m.file)}})
			if err == nil {
				err = errors.Join(os.WriteFile(filepath.Join(dir, m.file), []byte(wrong), 0o644), os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o644))
			}
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("go", "test", "-vet=off", "-count=1", "-overlay", filepath.Join(dir, "overlay.json"), "-run", "^TestAnyLife$", ".").CombinedOutput()
			if err == nil || !strings.Contains(string(out), m.says) {
				t.Errorf("the lives do not find it (%v):\n%.2000s", err, out)
			}
		})
	}
}

package kekserver_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// account is what a member owes to those whom it answered: what each thing became,
// what it may have become where no answer came, and the lines of its audit log.
type account struct {
	t     *testing.T
	mu    sync.Mutex
	known map[string]string // by thing
	maybe map[string]string
	lines map[string]int // how many there must be of each, as lineOf tells them
	heads map[uint64]string
	log   map[string]int // the lines that there are
}

// did takes the outcome of a change of a thing. Without an answer the stream ends.
func (a *account) did(err error, thing, state, line string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	var p *report.Problem
	switch {
	case err == nil:
		a.lines[line]++
		if thing != "" {
			a.known[thing] = state
		}
		return true
	case errors.Is(err, errLost), errors.As(err, &p) && p.Code == report.KeyUnreachable:
		if thing != "" {
			a.maybe[thing] = state
		}
	default:
		a.t.Errorf("%s: %v", line, err)
	}
	return false
}

// settle compares what a thing is with what is owed, after which it is known.
func (a *account) settle(thing, is string) {
	a.t.Helper()
	known := a.known[thing]
	maybe, asked := a.maybe[thing]
	if is != known && (!asked || is != maybe) {
		a.t.Errorf("%s is %q, was acknowledged to be %q, and asked to become %q", thing, is, known, maybe)
	}
	if line := lineFor(thing, is); line != "" && a.log[line] == 0 {
		a.t.Errorf("%s is %q, and no line %q tells of it", thing, is, line)
	}
	a.known[thing] = is
	delete(a.maybe, thing)
}

// lineFor is the line that a thing became so by; none if it is not there, and
// perhaps never was.
func lineFor(thing, is string) string {
	kind, id, _ := strings.Cut(thing, " ")
	event := map[string]string{"device expected": "device-added", "device enrolled": "enrol", "device approved": "device-approved",
		"device suspended": "suspend", "image accepted": "manifest new", "image revoked": "revoke new"}[kind+" "+is]
	switch {
	case event != "":
		return event + " " + id
	case kind == "kek" && is != "":
		return thing
	case kind == "sealed" && is != "1": // the one before the test
		return "sealed " + is
	}
	return ""
}

// things are all that begin so, acknowledged or not.
func (a *account) things(prefix string) []string {
	all := maps.Clone(a.known)
	maps.Copy(all, a.maybe)
	return slices.DeleteFunc(slices.Sorted(maps.Keys(all)), func(thing string) bool { return !strings.HasPrefix(thing, prefix) })
}

// lineOf is what a line is told by.
func lineOf(r *audit.Record) string {
	switch r.Event {
	case "kek-created", "kek": // one that was made before an answer was lost is no new one
		return fmt.Sprint("kek ", r.Generation)
	case "sealed":
		return fmt.Sprint("sealed ", r.Generation)
	case "manifest", "revoke":
		return string(r.Event) + " " + r.Image
	}
	return string(r.Event) + " " + r.Device
}

// audited: each line that was acknowledged is in the log, which verifies, and
// which nothing is torn of; nor is a head gone that somebody kept.
func (a *account) audited(log []byte) {
	a.t.Helper()
	lines, prev := map[string]int{}, map[uint64]string{}
	head, rest, err := audit.Verify(log, func(r audit.Record) error {
		lines[lineOf(&r)]++
		prev[r.Number-1] = r.Prev
		return nil
	})
	if err != nil || rest != 0 {
		a.t.Fatalf("the audit log: %d bytes are torn, %v", rest, err)
	}
	for line, n := range a.lines {
		if lines[line] < n {
			a.t.Errorf("%d lines %q were acknowledged, the log has %d", n, line, lines[line])
		}
	}
	a.log = lines
	prev[head.Number] = hex.EncodeToString(head.Hash[:])
	for number, hash := range a.heads {
		if prev[number] != hash {
			a.t.Errorf("line %d had the hash %s, now it is %s", number, hash, prev[number])
		}
	}
	a.heads[head.Number] = prev[head.Number]
}

// killing is a member that is killed while three streams of changes go on.
type killing struct {
	*account
	p        *process
	m, other *machine // one that is sealed; one that enrols under one name after another
	evidence kekclient.Evidence
	manifest note.Signer
	names    int
	images   int
	sealed   uint32
	until    int           // how many answers of the TPM's stream are awaited yet
	enough   chan struct{} // closed after them
}

// answered counts an answer that took the TPM: the slowest of the streams says
// when the member is killed, so that the machine's speed does not.
func (k *killing) answered() {
	if k.until--; k.until == 0 {
		close(k.enough)
	}
}

// devices adds devices; each second one it enrols, approves, suspends and takes
// back.
func (k *killing) devices() {
	for {
		k.names++
		stays, id := fmt.Sprintf("stays-%d", k.names), fmt.Sprintf("goes-%d", k.names)
		if !k.did(k.p.ask("POST", "/v1/devices", &kekproto.NewDevice{Device: stays}, nil), "device "+stays, "expected", "device-added "+stays) {
			return
		}
		var token kekproto.NewToken
		if !k.did(k.p.ask("POST", "/v1/devices", &kekproto.NewDevice{Device: id}, &token), "device "+id, "expected", "device-added "+id) {
			return
		}
		c, e := k.p.f.client(), k.evidence
		c.Device, e.Token = id, secret.Take([]byte(token.Token))
		enrolled, err := c.Enroll(context.Background(), e, k.other.activate)
		if !k.did(err, "device "+id, "enrolled", "enrol "+id) {
			return
		}
		path := "/v1/devices/" + id
		if !k.did(k.p.ask("POST", path+"/approve", &kekproto.Approval{EKName: enrolled.EKName}, nil), "device "+id, "approved", "device-approved "+id) ||
			!k.did(k.p.ask("POST", path+"/suspend", &kekproto.Reason{Reason: "test"}, nil), "device "+id, "suspended", "suspend "+id) ||
			!k.did(k.p.ask("POST", path+"/remove", nil, nil), "device "+id, "", "device-removed "+id) {
			return
		}
	}
}

// manifests adds images, and revokes each second one.
func (k *killing) manifests() {
	for {
		k.images++
		m := &measure.Manifest{Type: measure.ManifestType, Image: "new", Version: fmt.Sprint(k.images), Role: measure.RoleServer, Form: measure.FormEFIKernel, PCRs: map[int]measure.Hex{}}
		for _, n := range measure.ImagePCRs() {
			m.PCRs[n] = make([]byte, measure.Size)
		}
		m.PCRs[4][0], m.PCRs[4][1], m.PCRs[9][0] = byte(k.images), byte(k.images>>8), 1
		text, err := measure.SignManifest(m, k.manifest)
		if err == nil {
			err = k.p.ask("POST", "/v1/manifests", &kekproto.Document{Note: text}, nil)
		}
		if !k.did(err, "image "+m.Version, string(kekproto.ManifestAccepted), "manifest new "+m.Version) {
			return
		}
		if k.images%2 == 1 {
			continue
		}
		err = k.p.ask("POST", "/v1/manifests/revoke", &kekproto.Revocation{Image: "new", Version: m.Version, Reason: "test"}, nil)
		if !k.did(err, "image "+m.Version, string(kekproto.ManifestRevoked), "revoke new "+m.Version) {
			return
		}
	}
}

// keys makes one KEK after another, and says that the device is sealed under it.
func (k *killing) keys() {
	for next := k.sealed + 1; ; next++ {
		kek, err := k.p.f.client().CreateKEK(context.Background(), k.m, next)
		state := ""
		if err == nil {
			state = fmt.Sprintf("%x", kek.Key.Expose())
			kek.Key.Wipe()
		}
		if !k.did(err, fmt.Sprint("kek ", next), state, fmt.Sprint("kek ", next)) {
			return
		}
		k.answered()
		if !k.did(k.p.f.client().Sealed(context.Background(), k.m, next), "sealed", fmt.Sprint(next), fmt.Sprint("sealed ", next)) {
			return
		}
		k.answered()
	}
}

// releases asks for the key again and again.
func (k *killing) releases() {
	for {
		r, err := k.p.f.client().Release(context.Background(), k.m, 1)
		if !k.did(err, "", "", "release "+testDevice) {
			return
		}
		k.answered()
		got := fmt.Sprintf("%x", r.KEK.Key.Expose())
		r.Close()
		k.mu.Lock()
		want := k.known[fmt.Sprint("kek ", k.sealed)]
		k.mu.Unlock()
		if want != "" && got != want {
			k.t.Errorf("another key of generation %d was released", k.sealed)
		}
	}
}

// check settles the account with a member that was started anew.
func (k *killing) check() {
	k.t.Helper()
	devices := k.p.devices() // it has begun to serve, so that its log has begun too
	k.audited(k.p.f.file("members/" + testMember + "/audit.jsonl"))
	for _, thing := range k.things("device ") {
		id := strings.TrimPrefix(thing, "device ")
		d, is := devices[id], ""
		switch {
		case d.Suspended:
			is = "suspended"
		case d.Approved:
			is = "approved"
		case d.Enrolled:
			is = "enrolled"
		case d.Device != "":
			is = "expected"
		}
		k.settle(thing, is)
		if is != "" && strings.HasPrefix(id, "goes-") { // its TPM is wanted for the next name
			k.did(k.p.ask("POST", "/v1/devices/"+id+"/remove", nil, nil), thing, "", "device-removed "+id)
		}
	}
	var images kekproto.Images
	if err := k.p.ask("GET", "/v1/manifests", nil, &images); err != nil {
		k.t.Fatal(err)
	}
	states := map[string]string{}
	for _, m := range images.Manifests {
		states["image "+m.Version+" of "+m.Image] = string(m.State)
	}
	for _, thing := range k.things("image ") {
		k.settle(thing, states[thing+" of new"])
	}
	k.settle("sealed", fmt.Sprint(devices[testDevice].Sealed))
	k.sealed = devices[testDevice].Sealed
}

// sameKeys: the member has the keys that it gave.
func (k *killing) sameKeys() {
	k.t.Helper()
	for _, generation := range []uint32{k.sealed, k.sealed + 1} {
		thing := fmt.Sprint("kek ", generation)
		if k.known[thing] == "" {
			continue
		}
		kek, err := k.p.f.client().CreateKEK(context.Background(), k.m, generation)
		if err != nil {
			k.t.Fatal(err)
		}
		k.settle(thing, fmt.Sprintf("%x", kek.Key.Expose()))
		kek.Key.Wipe()
	}
}

// kills is how often the member is killed in the midst of changes, and as often
// while it starts.
const kills = 15

// A member that is killed at any moment starts by itself, owes nobody anything
// that it had answered, and its audit log is whole. What it had not answered may
// have happened; then a line tells of it.
func TestKilledAtAnyMoment(t *testing.T) {
	f, m, slice := sealedDevice(t)
	k := &killing{m: m, other: newMachine(t), manifest: f.signer("offline/manifest.key"), sealed: 1,
		account: &account{t: t, known: map[string]string{"sealed": "1"}, maybe: map[string]string{}, lines: map[string]int{}, heads: map[uint64]string{}}}
	k.evidence = k.other.evidence(nil)
	k.p = f.process(nil)
	for round := range kills {
		k.p.launch()
		time.Sleep(rand.N(40 * time.Millisecond))
		k.p.kill()
		image, third := factoryImage, k.keys
		if round%2 == 1 {
			image, third = serverImage, k.releases
		}
		m.boot(image, slice)
		if err := k.p.start(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		k.check()
		if image == factoryImage {
			k.sameKeys()
		}
		k.until, k.enough = 2+rand.IntN(4), make(chan struct{})
		var streams sync.WaitGroup
		for _, stream := range []func(){k.devices, k.manifests, third} {
			streams.Go(stream)
		}
		ended := make(chan struct{})
		go func() { streams.Wait(); close(ended) }()
		select {
		case <-k.enough:
			if round%4 > 1 { // else at once: what was answered just now counts
				time.Sleep(rand.N(30 * time.Millisecond))
			}
		case <-ended: // of something that was refused
		}
		k.p.kill()
		<-ended
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	if err := k.p.start(); err != nil {
		t.Fatal(err)
	}
	k.check()
	t.Logf("%d things and %d kinds of lines were acknowledged, %d keys, %d releases", len(k.known), len(k.lines), k.sealed, k.lines["release "+testDevice])
}

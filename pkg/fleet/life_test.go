package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/signed"
)

// lives is how many random lives of a member TestAnyLife tries; LANDFALL_ALL_CUTS
// makes it many.
const lives, manyLives, steps = 24, 2000, 150

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

// A word that a device was sealed, which comes once more when it is sealed under the
// next generation, does not take it back to a KEK that opens nothing.
func TestALateWord(t *testing.T) {
	tn := newTown(t, 0)
	defer tn.stop()
	m := tn.machines[0]
	var first *letter
	for generation := uint32(1); generation <= 2; generation++ {
		tn.deliver(tn.write(m, kekproto.OpKEK, generation))
		said := tn.write(m, kekproto.OpSealed, generation)
		tn.deliver(said)
		if first == nil {
			first = said
		}
	}
	if m.sealed != 2 {
		t.Fatalf("sealed under generation %d", m.sealed)
	}
	if refused := tn.member.Answer(context.Background(), &first.ask, func(*Answer) {}); refused == nil || refused.Code != string(report.KeyProtocol) {
		t.Errorf("a late word: %+v", refused)
	}
	tn.accounts()
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

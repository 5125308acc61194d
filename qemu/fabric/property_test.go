package fabric_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// TestMain takes fewer random cases than usual, and the same ones each time, so
// that a failure is that of a change; -rapid.checks=N -rapid.seed=0 takes more
// and others.
func TestMain(m *testing.M) {
	if err := errors.Join(flag.Set("rapid.checks", "40"), flag.Set("rapid.seed", "20261122")); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// drawPlan draws a connected region of 2 to 7 devices: a random tree of cables,
// further cables between any two, and perhaps a switch.
func drawPlan(t *rapid.T, switches bool) fabric.Plan {
	p := fabric.Plan{Region: "sea1", Generation: 1}
	n := rapid.IntRange(2, 7).Draw(t, "devices")
	ports := make([]int, n)
	port := func(d int) linkcheck.End {
		ports[d]++
		return fabric.E(fmt.Sprintf("d%d", d), fmt.Sprintf("eth%d", ports[d]))
	}
	for d := 1; d < n; d++ {
		other := rapid.IntRange(0, d-1).Draw(t, "neighbor")
		p.Wires = append(p.Wires, fabric.Wire{A: port(d), B: port(other)})
	}
	for range rapid.IntRange(0, 4).Draw(t, "further cables") {
		a, b := rapid.IntRange(0, n-1).Draw(t, "from"), rapid.IntRange(0, n-1).Draw(t, "to")
		if a != b {
			p.Wires = append(p.Wires, fabric.Wire{A: port(a), B: port(b), Advisory: rapid.Bool().Draw(t, "advisory")})
		}
	}
	if switches && rapid.Bool().Draw(t, "with a switch") {
		for d := 1; d < n; d++ {
			p.Wires = append(p.Wires, fabric.Wire{
				A: fabric.E(fmt.Sprintf("d%d", d), "eth0"), B: fabric.E("d0", "eth0"), Switch: "tor",
			})
		}
	}
	return p
}

// world is a region under faults, and what must hold in it at any time.
type world struct {
	*fabric.Network
	plan      fabric.Plan
	connected map[[2]linkcheck.End]time.Duration // when a pair of ends was last on one segment
	seen      map[*fabric.Device]int             // history that was checked
}

func newWorld(t *rapid.T, p fabric.Plan) *world {
	w := &world{
		Network: fabric.New(rapid.Uint64().Draw(t, "seed")), plan: p,
		connected: map[[2]linkcheck.End]time.Duration{}, seen: map[*fabric.Device]int{},
	}
	if err := w.Build(p); err != nil {
		t.Fatal(err)
	}
	return w
}

// ends returns all ports, in a fixed order.
func (w *world) ends() (all []linkcheck.End) {
	for _, x := range w.plan.Wires {
		for _, e := range []linkcheck.End{x.A, x.B} {
			if !slices.Contains(all, e) {
				all = append(all, e)
			}
		}
	}
	return all
}

// note remembers which pairs are connected now, before that changes.
func (w *world) note() {
	for _, e := range w.ends() {
		for _, x := range w.Peers(e) {
			w.connected[[2]linkcheck.End{e, x}] = w.Now()
		}
	}
}

// safe fails if a device ever took a link for proved whose ends were not
// connected within the life of a nonce.
func (w *world) safe(t *rapid.T) {
	w.note()
	for _, d := range w.Devices() {
		for _, c := range d.History[w.seen[d]:] {
			if !c.Status.Verdict.Proof() {
				continue
			}
			pair := [2]linkcheck.End{{Device: d.Config.Device, Interface: c.Status.Interface}, c.Status.Peer}
			last, ever := w.connected[pair]
			if !ever || last < c.At-10*time.Second {
				t.Fatalf("after %v, %s says %s: %v were connected last at %v", c.At, d.Config.Device, c.Status, pair, last)
			}
		}
		w.seen[d] = len(d.History)
	}
}

func (w *world) powerAll(t *rapid.T) {
	for _, d := range w.Devices() {
		if err := d.PowerOn(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFaultFreeAlwaysCompletes: any region, powered on in any order and with
// the losses of a bad day.
func TestFaultFreeAlwaysCompletes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, drawPlan(t, true))
		w.Conditions = fabric.Conditions{
			Loss:      float64(rapid.IntRange(0, 20).Draw(t, "loss, %")) / 100,
			Duplicate: float64(rapid.IntRange(0, 50).Draw(t, "duplicates, %")) / 100,
			Jitter:    time.Duration(rapid.IntRange(0, 500).Draw(t, "jitter, ms")) * time.Millisecond,
		}
		spread := time.Duration(rapid.IntRange(0, 120).Draw(t, "power on within, s")) * time.Second
		w.PowerOnWithin(spread, func(err error) { t.Fatal(err) })
		if !w.Run(spread+5*time.Minute, w.AllReady) {
			t.Fatal("not ready 5 min after the last device had power")
		}
		w.safe(t)
	})
}

// fault makes one random fault. Honest ones change carriers wherever cables
// change; the others also cut and deliver behind the devices' backs.
func (w *world) fault(t *rapid.T, honest bool, heard []fabric.Packet) {
	ends := w.ends()
	a, b := rapid.SampledFrom(ends).Draw(t, "port"), rapid.SampledFrom(ends).Draw(t, "other port")
	d := rapid.SampledFrom(w.Devices()).Draw(t, "device")
	most := 6
	if honest {
		most = 3
	}
	switch rapid.IntRange(0, most).Draw(t, "fault") {
	case 0:
		if a != b {
			w.Swap(a, b)
		}
	case 1:
		w.Unplug(a)
	case 2:
		d.PowerOff()
	case 3:
		if err := d.PowerOn(); err != nil {
			t.Fatal(err)
		}
	case 4:
		w.Conditions = fabric.Conditions{
			Loss: float64(rapid.IntRange(0, 90).Draw(t, "loss, %")) / 100, Duplicate: 0.3,
			Jitter: time.Duration(rapid.IntRange(0, 12_000).Draw(t, "jitter, ms")) * time.Millisecond,
		}
	case 5:
		// The enemy sends again what was heard, anywhere; but a request to its
		// right port is a wormhole, which is not claimed to be found.
		for _, p := range heard[max(0, len(heard)-40):] {
			p.To = rapid.SampledFrom(ends).Draw(t, "replay to")
			if q, err := linkcheck.ParseRequest(p.Datagram); err == nil && q.To == p.To {
				continue
			}
			w.Inject(p)
		}
	case 6:
		if s := w.Segment(a); s != nil {
			s.Silent = !s.Silent
		}
	}
}

// repair plugs everything in as planned.
func (w *world) repair(t *rapid.T) {
	w.Conditions = fabric.Conditions{Delay: time.Millisecond}
	for _, e := range w.ends() {
		w.Unplug(e)
	}
	var tor []linkcheck.End
	for _, x := range w.plan.Wires {
		if x.Switch == "" {
			w.Cable(x.A, x.B)
			continue
		}
		for _, e := range []linkcheck.End{x.A, x.B} {
			if !slices.Contains(tor, e) {
				tor = append(tor, e)
			}
		}
	}
	if len(tor) > 0 {
		w.Connect(tor...)
	}
	w.powerAll(t)
}

// TestMendedAlwaysCompletes runs a region through any faults: no link is ever
// proved that is not there, and once all is mended it completes.
func TestMendedAlwaysCompletes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, drawPlan(t, true))
		var heard []fabric.Packet
		w.Tap = func(p fabric.Packet) []fabric.Packet {
			heard = append(heard, p)
			return []fabric.Packet{p}
		}
		w.powerAll(t)
		for range rapid.IntRange(1, 15).Draw(t, "faults") {
			w.Run(w.Now()+time.Duration(rapid.IntRange(0, 8000).Draw(t, "wait, ms"))*time.Millisecond, nil)
			w.safe(t)
			w.fault(t, false, heard)
		}
		w.Run(w.Now()+time.Duration(rapid.IntRange(0, 30_000).Draw(t, "wait, ms"))*time.Millisecond, nil)
		w.safe(t)
		w.repair(t)
		if !w.Run(w.Now()+time.Minute, w.AllReady) {
			for _, d := range w.Devices() {
				t.Logf("%s ok %t: %v", d.Config.Device, d.OK(), d.Machine.Links())
			}
			t.Fatal("not ready a minute after all was mended")
		}
		w.safe(t)
	})
}

// TestEndsAgree leaves a region as miswired as faults have made it: in the end
// both ends of each planned link say the same of it, and whoever has a wrong
// cable names what is at its other end.
func TestEndsAgree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, drawPlan(t, false))
		w.Conditions.Delay = time.Millisecond
		w.powerAll(t)
		for range rapid.IntRange(0, 10).Draw(t, "faults") {
			w.Run(w.Now()+time.Duration(rapid.IntRange(0, 8000).Draw(t, "wait, ms"))*time.Millisecond, nil)
			w.safe(t)
			w.fault(t, true, nil)
		}
		w.powerAll(t)
		w.Run(w.Now()+time.Minute, nil)
		w.safe(t)
		for _, x := range w.plan.Wires {
			w.agree(t, x.A, x.B)
			w.agree(t, x.B, x.A)
		}
	})
}

// agree compares one end's verdict with the cable.
func (w *world) agree(t *rapid.T, ours, theirs linkcheck.End) {
	var s linkcheck.Status
	for _, l := range w.Device(ours.Device).Machine.Links() {
		if l.Interface == ours.Interface && l.Peer == theirs {
			s = l
		}
	}
	other, plugged := w.Other(ours)
	switch {
	case plugged && other == theirs:
		if !s.Verdict.Proof() {
			t.Errorf("%s has the right cable, and says %s", ours, s)
		}
	case plugged:
		if s.Verdict != linkcheck.WrongPort && s.Verdict != linkcheck.WrongDevice || s.Seen != other {
			t.Errorf("%s is plugged into %s, and says %s", ours, other, s)
		}
	default:
		if s.Verdict != linkcheck.Unknown {
			t.Errorf("%s has no carrier, and says %s", ours, s)
		}
	}
}

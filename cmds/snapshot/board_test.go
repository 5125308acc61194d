package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/snapshot/draw"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// board is a rack in virtual time, and what is drawn of it.
type board struct {
	*testing.T
	net *fabric.Network
	doc *snapshot.Document
}

// newBoard has a rack of a ring of cables and a switch, all powered on.
func newBoard(t *testing.T, seed uint64, devices int) *board {
	t.Helper()
	b := &board{T: t, net: fabric.New(seed), doc: &snapshot.Document{Type: snapshot.DocumentType, Region: "sea1", Generation: 1}}
	plan := fabric.Region(1, devices)
	if err := b.net.Build(plan); err != nil {
		t.Fatal(err)
	}
	ports := map[string]bool{}
	for _, w := range plan.Wires {
		c := snapshot.Cable{A: snapshot.Port(w.A), B: snapshot.Port(w.B), Link: "l2", Check: "required"}
		if c.A.String() > c.B.String() {
			c.A, c.B = c.B, c.A
		}
		b.doc.Links = append(b.doc.Links, c)
		for _, p := range []snapshot.Port{c.A, c.B} {
			if ports[p.String()] {
				continue
			}
			ports[p.String()] = true
			i := slices.IndexFunc(b.doc.Devices, func(e snapshot.DeviceEntry) bool { return e.ID == p.Device })
			if i < 0 {
				rack, unit, _ := strings.Cut(p.Device, "-u")
				b.doc.Devices = append(b.doc.Devices, snapshot.DeviceEntry{Device: snapshot.Device{ID: p.Device, Rack: rack, Unit: unit}, Generation: 1})
				i = len(b.doc.Devices) - 1
			}
			b.doc.Devices[i].Interfaces = append(b.doc.Devices[i].Interfaces, snapshot.Interface{Name: p.Interface})
		}
	}
	b.net.PowerOnWithin(time.Second, func(err error) { t.Error(err) })
	return b
}

// draw lets time pass, and draws what the devices report then.
func (b *board) draw() string {
	b.Helper()
	b.net.Run(b.net.Now()+2*time.Minute, nil)
	var lines bytes.Buffer
	for _, d := range b.net.Devices() {
		if !d.On {
			continue
		}
		r, err := linkcheck.Report(d.Config.Device, d.Config.Generation, d.Machine.Links(), d.Machine.Summary()).Bytes()
		if err != nil {
			b.Fatal(err)
		}
		lines.Write(append(r, '\n'))
	}
	reports, err := parseReports(lines.Bytes())
	if err != nil {
		b.Fatal(err)
	}
	var out bytes.Buffer
	if err := draw.New(b.doc, reports).Tree(&out, draw.TreeOptions{}); err != nil {
		b.Fatal(err)
	}
	return out.String()
}

// repair does what the drawing says.
func (b *board) repair(text string) {
	b.Helper()
	text = regexp.MustCompile(`\n +`).ReplaceAllString(text, " ")
	if m := regexp.MustCompile(`DO  at (\S+), swap the cables in (\S+) and (\S+)`).FindStringSubmatch(text); m != nil {
		b.net.Swap(fabric.E(m[1], m[2]), fabric.E(m[1], m[3]))
	} else if m := regexp.MustCompile(`DO  swap the cables in (\S+) (\S+) and (\S+) (\S+)`).FindStringSubmatch(text); m != nil {
		b.net.Swap(fabric.E(m[1], m[2]), fabric.E(m[3], m[4]))
	} else {
		b.Fatalf("it does not say what to swap:\n%s", text)
	}
}

// TestBoardRepairs crosses two cables of a simulated rack, draws what its
// devices report, and does what the drawing says: then nothing is left to do.
func TestBoardRepairs(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for i := range 6 {
		b := newBoard(t, uint64(i), 5+rng.IntN(6))
		var plugs []linkcheck.End // of the ring
		for _, l := range b.doc.Links {
			if l.A.Interface != "eth0" {
				plugs = append(plugs, linkcheck.End(l.A), linkcheck.End(l.B))
			}
		}
		x := rng.IntN(len(plugs))
		y := rng.IntN(len(plugs))
		if x/2 == y/2 {
			y = (y + 2) % len(plugs)
		}
		b.net.Swap(plugs[x], plugs[y])
		text := b.draw()
		if strings.Count(text, " two cables swapped") != 1 || strings.Contains(text, "  2  ") {
			t.Fatalf("%s and %s:\n%s", plugs[x], plugs[y], text)
		}
		b.repair(text)
		if text := b.draw(); strings.Contains(text, "TO DO") || !strings.Contains(text, fmt.Sprintf("%d ok; ", len(b.doc.Devices))) {
			t.Fatalf("%s and %s, afterwards:\n%s", plugs[x], plugs[y], text)
		}
	}
}

// TestBoardDeadNeighbor: of a dead device and what it causes, one entry is left.
func TestBoardDeadNeighbor(t *testing.T) {
	b := newBoard(t, 1, 5)
	b.net.Run(500*time.Millisecond, nil) // some have heard it, some have not
	b.net.Device("r001-u03").PowerOff()
	b.net.Run(2*time.Second, nil)
	b.net.Device("r001-u03").PowerOff()
	text := b.draw()
	for _, want := range []string{"  1  LF-LINK-01 r001-u03 does not answer", "2 ok, 1 BAD, 2 waiting"} {
		if !strings.Contains(text, want) || strings.Contains(text, "  2  ") {
			t.Errorf("no %q, or more to do:\n%s", want, text)
		}
	}
}

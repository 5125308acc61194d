package fabric_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/lldp"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// square is a region of four devices in a ring, a.eth1 - b.eth0 and so on.
func square() fabric.Plan {
	e := fabric.E
	return fabric.Plan{Region: "sea1", Generation: 1, Wires: []fabric.Wire{
		{A: e("a", "eth1"), B: e("b", "eth0")},
		{A: e("b", "eth1"), B: e("c", "eth0")},
		{A: e("c", "eth1"), B: e("d", "eth0")},
		{A: e("d", "eth1"), B: e("a", "eth0")},
	}}
}

func build(t testing.TB, p fabric.Plan) *fabric.Network {
	t.Helper()
	n := fabric.New(7)
	n.Conditions = fabric.Conditions{Delay: time.Millisecond}
	if err := n.Build(p); err != nil {
		t.Fatal(err)
	}
	return n
}

func on(t testing.TB, n *fabric.Network, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := n.Device(id).PowerOn(); err != nil {
			t.Fatal(err)
		}
	}
}

// want compares the verdict of a link, given as "device eth0 peer", with the
// words of a verdict, and who was seen, if that is given.
func want(t testing.TB, n *fabric.Network, device, iface, peer string, v linkcheck.Verdict, seen ...linkcheck.End) linkcheck.Status {
	t.Helper()
	s := n.Device(device).Verdict(iface, peer)
	if s.Verdict != v {
		t.Errorf("%s after %v: %s, want %s", device, n.Now(), s, v)
	}
	if len(seen) > 0 && s.Seen != seen[0] {
		t.Errorf("%s after %v: saw %s, want %s", device, n.Now(), s.Seen, seen[0])
	}
	return s
}

func TestFaultFree(t *testing.T) {
	t.Parallel()
	n := build(t, square())
	on(t, n, "a", "b", "c", "d")
	if !n.Run(5*time.Second, n.AllReady) {
		t.Fatal("not ready after 5 s")
	}
	want(t, n, "a", "eth1", "b", linkcheck.ProvedOK, fabric.E("b", "eth0"))
	n.Run(time.Minute, nil)
	for _, d := range n.Devices() {
		if !d.Machine.Done(time.Date(1970, 1, 1, 0, 1, 0, 0, time.UTC)) {
			t.Errorf("%s lingers for ever", d.Config.Device)
		}
		if n := len(d.Sent); n > 12 {
			t.Errorf("%s sent %d datagrams for two links", d.Config.Device, n)
		}
	}
}

func TestDeadNeighbor(t *testing.T) {
	t.Parallel()
	for _, advisory := range []bool{false, true} {
		t.Run(fmt.Sprintf("advisory=%t", advisory), func(t *testing.T) {
			t.Parallel()
			p := square()
			p.Wires[2].Advisory, p.Wires[3].Advisory = advisory, advisory // those of d
			n := build(t, p)
			on(t, n, "a", "b", "c", "d")
			// d hangs, with its carriers up.
			n.Tap = func(p fabric.Packet) []fabric.Packet {
				if p.To.Device == "d" || p.FromPort.Device == "d" {
					return nil
				}
				return []fabric.Packet{p}
			}
			n.Run(20*time.Second, nil)
			want(t, n, "c", "eth1", "d", linkcheck.Silent)
			want(t, n, "a", "eth0", "d", linkcheck.Silent)
			if got := n.Device("a").OK(); got != advisory {
				t.Errorf("a is ok: %t, want %t", got, advisory)
			}
			if got, want := n.Device("b").Verdict("eth0", "a").Verdict == linkcheck.ProvedOK, advisory; got != want {
				t.Errorf("b heard that a is ok: %t, want %t", got, want)
			}
			n.Tap = nil
			if !n.Run(45*time.Second, n.AllReady) {
				t.Error("the mended region does not complete")
			}
		})
	}
}

// TestWaiver lets a link pass that its slice excuses; the other end, whose slice
// does not, still waits.
func TestWaiver(t *testing.T) {
	t.Parallel()
	n := build(t, square())
	d := n.Device("a")
	for i := range d.Config.Links {
		if d.Config.Links[i].Peer.Device == "b" {
			d.Config.Links[i].Waiver = "b is dead"
		}
	}
	on(t, n, "a", "c", "d")
	n.Run(20*time.Second, nil)
	if !d.OK() {
		t.Error("a waits for a link that is waived")
	}
	if n.Device("c").OK() {
		t.Error("c does not wait for its required link to b")
	}
	on(t, n, "b")
	if !n.Run(40*time.Second, n.AllReady) {
		t.Error("the mended region does not complete")
	}
	want(t, n, "a", "eth1", "b", linkcheck.ProvedOK)
}

// TestDHCPDeviceLast powers the others on first: they are proved among
// themselves, and ready only once the dhcp device has passed; it says pending
// until then, however many have proved their link to it.
func TestDHCPDeviceLast(t *testing.T) {
	t.Parallel()
	p := square()
	n := build(t, p)
	on(t, n, "a", "b", "c") // d serves addresses
	n.Run(time.Minute, nil)
	want(t, n, "b", "eth0", "a", linkcheck.Proved)
	want(t, n, "a", "eth0", "d", linkcheck.Unknown) // no carrier
	// d comes, with a broken cable to c.
	n.Unplug(fabric.E("c", "eth1"))
	on(t, n, "d")
	n.Run(90*time.Second, nil)
	want(t, n, "a", "eth0", "d", linkcheck.Proved)
	if n.Device("d").OK() {
		t.Error("the dhcp device is ok with a broken link")
	}
	n.Cable(fabric.E("c", "eth1"), fabric.E("d", "eth0"))
	if !n.Run(110*time.Second, n.AllReady) {
		t.Error("the mended region does not complete")
	}
	want(t, n, "a", "eth0", "d", linkcheck.ProvedOK)
}

// TestSwappedCables names both wrong ends, with where they belong, and goes on
// by itself once they are put right, with and without the switch's carriers
// going down in between.
func TestSwappedCables(t *testing.T) {
	t.Parallel()
	n := build(t, square())
	e := fabric.E
	// Now a.eth1 - c.eth0, and b.eth1 - b.eth0, a loop.
	n.Swap(e("b", "eth0"), e("c", "eth0"))
	on(t, n, "a", "b", "c", "d")
	n.Run(15*time.Second, nil)
	s := want(t, n, "a", "eth1", "b", linkcheck.WrongDevice, e("c", "eth0"))
	if s.Belongs != e("b", "eth1") || s.Proven {
		t.Errorf("a says: %s", s)
	}
	want(t, n, "c", "eth0", "b", linkcheck.WrongDevice, e("a", "eth1"))
	want(t, n, "b", "eth0", "a", linkcheck.WrongDevice, e("b", "eth1"))
	want(t, n, "b", "eth1", "c", linkcheck.WrongDevice, e("b", "eth0"))
	for _, id := range []string{"a", "b", "c"} {
		if n.Device(id).OK() {
			t.Errorf("%s has a wrong link and is ok", id)
		}
	}
	n.Swap(e("b", "eth0"), e("c", "eth0"))
	if !n.Run(35*time.Second, n.AllReady) {
		t.Error("the mended region does not complete")
	}
}

// TestOwnPortsSwapped has a device's cables in each other's ports: what a
// technician does, and what happens when network cards get other names and are
// told apart by those. Its neighbors prove who it is, and name its ports.
func TestOwnPortsSwapped(t *testing.T) {
	t.Parallel()
	n := build(t, square())
	e := fabric.E
	n.Swap(e("b", "eth0"), e("b", "eth1"))
	on(t, n, "a", "b", "c", "d")
	n.Run(15*time.Second, nil)
	for _, tt := range []struct {
		device, iface, peer string
		seen, belongs       linkcheck.End
		ours                string
	}{
		{"a", "eth1", "b", e("b", "eth1"), e("c", "eth0"), ""},
		{"c", "eth0", "b", e("b", "eth0"), e("a", "eth1"), ""},
		{"b", "eth0", "a", e("c", "eth0"), e("b", "eth1"), "eth1"},
		{"b", "eth1", "c", e("a", "eth1"), e("b", "eth0"), "eth0"},
	} {
		s := want(t, n, tt.device, tt.iface, tt.peer, linkcheck.WrongPort, tt.seen)
		if !s.Proven || s.Belongs != tt.belongs || s.Ours != tt.ours {
			t.Errorf("%s says: %s", tt.device, s)
		}
	}
	n.Swap(e("b", "eth0"), e("b", "eth1"))
	if !n.Run(35*time.Second, n.AllReady) {
		t.Error("the mended region does not complete")
	}
}

// TestWrongRack has a device of another rack at the end of a cable.
func TestWrongRack(t *testing.T) {
	t.Parallel()
	n := build(t, fabric.Region(2, 3))
	e := fabric.E
	n.Swap(e("r001-u02", "eth2"), e("r002-u02", "eth2"))
	n.PowerOnWithin(time.Second, func(err error) { t.Error(err) })
	n.Run(20*time.Second, nil)
	s := want(t, n, "r001-u01", "eth1", "r001-u02", linkcheck.WrongDevice, e("r002-u02", "eth2"))
	if s.Belongs != e("r002-u01", "eth1") {
		t.Errorf("says: %s", s)
	}
	want(t, n, "r002-u02", "eth2", "r002-u01", linkcheck.WrongDevice, e("r001-u01", "eth1"))
	want(t, n, "r001-u01", "eth0", "r001-u02", linkcheck.Proved)
	want(t, n, "r001-u03", "eth0", "r001-u01", linkcheck.Proved)
}

// TestFlappingCarrier forgets a proof with its carrier, and does not ask faster
// because of it.
func TestFlappingCarrier(t *testing.T) {
	t.Parallel()
	n := build(t, square())
	e := fabric.E
	on(t, n, "a", "b", "c", "d")
	n.Run(10*time.Second, n.AllReady)
	before := len(n.Device("a").Sent)
	for i := range 200 {
		n.Unplug(e("a", "eth1"))
		want(t, n, "a", "eth1", "b", linkcheck.Unknown)
		n.Unplug(e("b", "eth0"))
		n.Cable(e("a", "eth1"), e("b", "eth0"))
		n.Run(10*time.Second+time.Duration(i)*100*time.Millisecond, nil)
	}
	if sent := len(n.Device("a").Sent) - before; sent > 60 {
		t.Errorf("a sent %d datagrams in 20 s of a flapping carrier", sent)
	}
	if !n.Run(time.Minute, n.AllReady) {
		t.Error("the mended region does not complete")
	}
}

// TestGenerations mixes slices of two generations in one rack: that alone is no
// fault, but contradicting each other is, and both ends see it.
func TestGenerations(t *testing.T) {
	t.Parallel()
	n := build(t, square())
	e := fabric.E
	n.Device("b").Config.Generation = 2
	n.Device("c").Config.Generation = 2
	on(t, n, "a", "b", "c", "d")
	if !n.Run(10*time.Second, n.AllReady) {
		t.Error("links that both generations have are not proved")
	}
	if s := want(t, n, "a", "eth1", "b", linkcheck.ProvedOK); s.Generation != 2 {
		t.Errorf("a saw generation %d of b, want 2", s.Generation)
	}
	// By its newer slice, b's eth0 belongs to d.
	n.Device("b").PowerOff()
	n.Device("b").Config.Links[0].Peer = e("d", "eth1")
	n.Device("b").Config.Links[0].AKName = n.Device("d").TPM.AKName()
	on(t, n, "b")
	n.Run(40*time.Second, nil)
	s := want(t, n, "a", "eth1", "b", linkcheck.Disagrees, e("b", "eth0"))
	if s.Belongs != e("d", "eth1") || s.Generation != 2 || !s.Proven {
		t.Errorf("a says: %s", s)
	}
	want(t, n, "b", "eth0", "d", linkcheck.WrongDevice, e("a", "eth1"))
}

// TestReplacedDevice has another TPM under the old ID, which needs an amendment
// of its neighbors' slices.
func TestReplacedDevice(t *testing.T) {
	t.Parallel()
	n := build(t, square())
	other, err := fabric.NewTPM()
	if err != nil {
		t.Fatal(err)
	}
	n.Device("b").TPM = other
	on(t, n, "a", "b", "c", "d")
	n.Run(10*time.Second, nil)
	if s := want(t, n, "a", "eth1", "b", linkcheck.BadSignature, fabric.E("b", "eth0")); s.Proven || !errors.Is(s.Err, linkcheck.ErrAK) {
		t.Errorf("a says: %s, want ErrAK", s)
	}
	want(t, n, "b", "eth0", "a", linkcheck.Proved)
	for id, i := range map[string]int{"a": 0, "c": 0} {
		d := n.Device(id)
		d.PowerOff()
		d.Config.Generation, d.Config.Links[i].AKName = 2, other.AKName()
		on(t, n, id)
	}
	if !n.Run(40*time.Second, n.AllReady) {
		t.Error("the amended region does not complete")
	}
}

// TestProduction has devices leave as soon as they may: each has heard "ok"
// before, or hears from production. Production claims nothing else.
func TestProduction(t *testing.T) {
	t.Parallel()
	n := build(t, square())
	n.Conditions.Loss = 0.05
	for _, d := range n.Devices() {
		d.Leaves = 45 * time.Second
	}
	on(t, n, "a", "c", "d")
	n.Run(time.Second, nil)
	on(t, n, "b")
	left := func() bool {
		return !slices.ContainsFunc(n.Devices(), func(d *fabric.Device) bool { return !d.Left })
	}
	if !n.Run(2*time.Minute, left) {
		t.Error("not all devices have left")
	}
	n.Run(5*time.Minute, nil)
	// One boots again, among neighbors that are all in production.
	n.Device("a").PowerOff()
	n.Device("a").Leaves = 0
	on(t, n, "a")
	if !n.Run(6*time.Minute, n.Device("a").OK) {
		t.Error("a waits for neighbors in production")
	}
	want(t, n, "a", "eth1", "b", linkcheck.InProduction)
	want(t, n, "a", "eth0", "d", linkcheck.InProduction)
}

// TestSwitch has many neighbors on one port: none is taken for a wrong one,
// however the answers arrive.
func TestSwitch(t *testing.T) {
	t.Parallel()
	n := build(t, fabric.Region(1, 12))
	n.Conditions = fabric.Conditions{Delay: time.Millisecond, Jitter: 300 * time.Millisecond, Loss: 0.2, Duplicate: 0.2}
	n.PowerOnWithin(10*time.Second, func(err error) { t.Error(err) })
	if !n.Run(5*time.Minute, n.AllReady) {
		t.Fatal("not ready after 5 min")
	}
	for _, d := range n.Devices() {
		for _, c := range d.History {
			if v := c.Status.Verdict; v == linkcheck.WrongPort || v == linkcheck.WrongDevice || v == linkcheck.BadSignature {
				t.Errorf("%s after %v: %s", d.Config.Device, c.At, c.Status)
			}
		}
	}
}

// TestLLDP is a map, not a proof: a switch that swallows LLDP, or says another
// port, changes no verdict.
func TestLLDP(t *testing.T) {
	t.Parallel()
	n := build(t, square())
	a := n.Device("a")
	a.Config.Ports[0].LLDP = &snapshot.LLDP{ChassisID: "mac:00:11:22:33:44:55", PortID: "ifname:Eth1/7"}
	on(t, n, "a", "b", "c", "d")
	if !n.Run(10*time.Second, n.AllReady) {
		t.Fatal("not ready without LLDP")
	}
	iface := a.Config.Ports[0].Name
	du := &lldp.DU{
		Chassis: lldp.ID{Subtype: lldp.MACAddress, Value: []byte{0, 0x11, 0x22, 0x33, 0x44, 0x55}},
		Port:    lldp.ID{Subtype: lldp.InterfaceName, Value: []byte("Eth1/7")}, TTL: 120,
	}
	for _, tt := range []struct {
		port string
		ttl  uint16
		want linkcheck.LLDPVerdict
	}{{"Eth1/7", 120, linkcheck.LLDPMatch}, {"Eth1/9", 120, linkcheck.LLDPMismatch}, {"Eth1/9", 0, ""}} {
		du.Port.Value, du.TTL = []byte(tt.port), tt.ttl
		o := a.Machine.LLDP(time.Time{}, iface, du)
		if len(o.Changed) != 1 || o.Changed[0].LLDP != tt.want || o.Changed[0].Verdict != linkcheck.ProvedOK {
			t.Errorf("port %s, TTL %d: got %+v, want %q", tt.port, tt.ttl, o.Changed, tt.want)
		}
	}
	a.Machine.LLDP(time.Time{}, iface, &lldp.DU{Chassis: du.Chassis, Port: du.Port, TTL: 1})
	if o := a.Machine.LinkDown(time.Time{}, iface); len(o.Changed) != 1 || o.Changed[0].LLDP != "" {
		t.Errorf("the carrier went and the switch's word stays: %+v", o.Changed)
	}
}

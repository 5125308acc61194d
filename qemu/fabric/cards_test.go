package fabric_test

import (
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/lldp"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// TestRenamedPorts: the kernel of a device names its ports in another order
// than the slice, which knows them by their MAC addresses. Names decide nothing.
func TestRenamedPorts(t *testing.T) {
	t.Parallel()
	n := build(t, square())
	a := n.Device("a")
	// The slice's eth0 is the kernel's eth1, and the reverse; cables end where
	// they did, at the cards.
	a.Rename("eth0", "eth1")
	a.Rename("eth1", "eth0")
	n.Swap(fabric.E("a", "eth0"), fabric.E("a", "eth1"))
	on(t, n, "a", "b", "c", "d")
	if !n.Run(5*time.Second, n.AllReady) {
		t.Fatal("not ready after 5 s")
	}
	want(t, n, "a", "eth1", "b", linkcheck.ProvedOK, fabric.E("b", "eth0"))
	want(t, n, "b", "eth0", "a", linkcheck.ProvedOK, fabric.E("a", "eth1"))
}

// TestReplacedCard: a card is replaced, and with it a MAC address that the slice
// names is gone: the link is not there, whatever the new card is called. The
// amendment, which only its own device needs, names the new card, and all go on.
func TestReplacedCard(t *testing.T) {
	t.Parallel()
	n := build(t, square())
	a := n.Device("a")
	a.Rename("eth1", "")
	n.Swap(fabric.E("a", "eth1"), fabric.E("a", "enp9s0")) // the same cable, in the new card
	on(t, n, "a", "b", "c", "d")
	n.Run(20*time.Second, nil)
	want(t, n, "a", "eth1", "b", linkcheck.Unknown)
	want(t, n, "b", "eth0", "a", linkcheck.Silent)
	if a.OK() || n.Device("b").OK() || !n.Device("c").OK() {
		t.Errorf("ok: a %t, b %t, c %t; want only c", a.OK(), n.Device("b").OK(), n.Device("c").OK())
	}
	// uinit takes the amended slice into use without a reboot, and measures it.
	a.Rename("eth1", "enp9s0")
	a.Config.Generation++
	a.PowerOff()
	on(t, n, "a")
	if !n.Run(60*time.Second, n.AllReady) {
		t.Error("the amended region does not complete")
	}
	s := want(t, n, "b", "eth0", "a", linkcheck.ProvedOK, fabric.E("a", "eth1"))
	if s.Generation != 2 {
		t.Errorf("b heard of slice generation %d of a, want 2", s.Generation)
	}
}

// TestSilentSwitch: a switch that swallows LLDP keeps nothing from being proved,
// although the slice expects its word.
func TestSilentSwitch(t *testing.T) {
	t.Parallel()
	p := square()
	for i := range p.Wires {
		p.Wires[i].Switch = "tor-7"
	}
	n := build(t, p)
	for _, d := range n.Devices() {
		for i := range d.Config.Ports {
			d.Config.Ports[i].LLDP = &snapshot.LLDP{ChassisID: "mac:00:11:22:33:44:55", PortID: "ifname:Eth1/7"}
		}
	}
	on(t, n, "a", "b", "c", "d")
	if !n.Run(10*time.Second, n.AllReady) {
		t.Fatal("not ready after 10 s")
	}
	if s := want(t, n, "a", "eth1", "b", linkcheck.ProvedOK); s.LLDP != "" {
		t.Errorf("a heard %q from a silent switch", s.LLDP)
	}
	// And one that says something else stops nothing, either.
	a := n.Device("a").Machine
	a.LLDP(time.Date(1970, 1, 1, 0, 1, 0, 0, time.UTC), "eth1", &lldp.DU{
		Chassis: lldp.ID{Subtype: lldp.MACAddress, Value: []byte{0, 0x11, 0x22, 0x33, 0x44, 0x55}},
		Port:    lldp.ID{Subtype: lldp.InterfaceName, Value: []byte("Eth1/8")}, TTL: 120,
	})
	if s := want(t, n, "a", "eth1", "b", linkcheck.ProvedOK); s.LLDP != linkcheck.LLDPMismatch {
		t.Errorf("a's LLDP verdict is %q, want %q", s.LLDP, linkcheck.LLDPMismatch)
	}
}

package fabric_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/landfall-project/landfall/pkg/dhcpserve"
	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// server is a DHCP device: its links in the fabric, its leases by the real
// core. As uinit does, it serves the snapshot's leases once its own links have
// passed, and goes on then.
type server struct {
	*fabric.Device
	core *dhcpserve.Core
}

const clientMAC, clientAddress = "52:54:00:0a:07:0c", "10.7.0.12"

func serve(t *testing.T, n *fabric.Network, id, address string) *server {
	t.Helper()
	core, err := dhcpserve.NewCore(dhcpserve.Config{
		DHCP: &snapshot.DHCP{Leases: []snapshot.Lease{{Device: "s", Interface: "eth0", MAC: clientMAC, Addresses: []string{clientAddress + "/24"}}}},
		Ports: []dhcpserve.Port{{
			Name: "eth0", Link: netconf.Link{Index: 1, Name: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
			Addresses: []netip.Prefix{netip.MustParsePrefix(address)},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &server{n.Device(id), core}
}

// offer is the address that the device offers to the client; "" for silence.
func (s *server) offer(t *testing.T, n *fabric.Network) string {
	t.Helper()
	if s.OK() {
		s.core.Allow()
	}
	mac, err := net.ParseMAC(clientMAC)
	if err != nil {
		t.Fatal(err)
	}
	m, err := dhcpv4.NewDiscovery(mac)
	if err != nil {
		t.Fatal(err)
	}
	a := s.core.Answer4(time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC).Add(n.Now()), 0, m.ToBytes())
	if a == nil {
		return ""
	}
	reply, err := dhcpv4.FromBytes(a.Payload)
	if err != nil {
		t.Fatal(err)
	}
	return reply.YourIPAddr.String()
}

// TestTwoDHCPDevices: each is the other's neighbor, and neither waits for the
// other's state. One has a broken link: the other serves alone, the same leases
// as both do in the end.
func TestTwoDHCPDevices(t *testing.T) {
	t.Parallel()
	e := fabric.E
	n := build(t, fabric.Plan{Region: "sea1", Generation: 1, Wires: []fabric.Wire{
		{A: e("d1", "eth0"), B: e("d2", "eth0"), Switch: "tor-7"},
		{A: e("d1", "eth0"), B: e("s", "eth0"), Switch: "tor-7"},
		{A: e("d2", "eth0"), B: e("s", "eth0"), Switch: "tor-7"},
		{A: e("d2", "eth1"), B: e("s", "eth1")},
	}})
	d1, d2 := serve(t, n, "d1", "10.7.0.1/24"), serve(t, n, "d2", "10.7.0.2/24")
	if got := d1.offer(t, n) + d2.offer(t, n); got != "" {
		t.Errorf("devices without power offer %s", got)
	}
	n.Unplug(e("s", "eth1"))
	on(t, n, "d1", "d2", "s")
	n.Run(20*time.Second, nil)
	if got := d1.offer(t, n); got != clientAddress {
		t.Errorf("the whole device offers %q, want %s", got, clientAddress)
	}
	if got := d2.offer(t, n); got != "" {
		t.Errorf("the device with the broken link offers %s", got)
	}
	n.Cable(e("s", "eth1"), e("d2", "eth1"))
	if !n.Run(60*time.Second, n.AllReady) {
		t.Fatal("the mended region does not complete")
	}
	if one, two := d1.offer(t, n), d2.offer(t, n); one != clientAddress || two != clientAddress {
		t.Errorf("the devices offer %q and %q, both should offer %s", one, two, clientAddress)
	}
	// A link that breaks later stops no server that serves.
	n.Unplug(e("s", "eth1"))
	n.Run(90*time.Second, nil)
	if d2.OK() {
		t.Error("the fabric's device is ok with a broken link: the test shows nothing")
	}
	if got := d2.offer(t, n); got != clientAddress {
		t.Errorf("after a link broke the device offers %q, want %s", got, clientAddress)
	}
}

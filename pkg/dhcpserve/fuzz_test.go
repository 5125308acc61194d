package dhcpserve

import (
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
)

// FuzzDHCPv4: whatever comes, a known device's address goes to its MAC address
// only, and answers stay small.
func FuzzDHCPv4(f *testing.F) {
	f.Add(true, message(f, knownMAC, dhcpv4.MessageTypeDiscover, rapid, ask))
	f.Add(false, message(f, knownMAC, dhcpv4.MessageTypeRequest, pxe, ask, wanted("10.9.0.12")))
	f.Add(true, message(f, strangeMAC, dhcpv4.MessageTypeRequest, wanted("10.9.0.201"), ipxe))
	f.Add(true, message(f, strangeMAC, dhcpv4.MessageTypeDecline, wanted("10.9.0.201")))
	f.Fuzz(func(t *testing.T, allowed bool, msg []byte) {
		c := newCore(t, config(table()), allowed)
		a := c.Answer4(noon, 0, msg)
		n := c.Counters()
		if n.Received != 1 {
			t.Errorf("counted %+v", n)
		}
		if a == nil {
			return
		}
		m, err := dhcpv4.FromBytes(a.Payload)
		if err != nil {
			t.Fatalf("answered what can't be read: %v", err)
		}
		if valid4(m.YourIPAddr) == netip.MustParseAddr("10.9.0.12") && m.ClientHWAddr.String() != knownMAC.String() {
			t.Errorf("the device's address goes to %s", m.ClientHWAddr)
		}
		if len(a.Payload) > len(msg)+600 {
			t.Errorf("%d octets answer %d", len(a.Payload), len(msg))
		}
		if a.MAC == nil && !newCore(t, config(table()), true).relayIsOurs(a.To.Addr()) {
			t.Errorf("sent to %s", a.To)
		}
	})
}

// FuzzDHCPv6 is the same for IPv6.
func FuzzDHCPv6(f *testing.F) {
	f.Add(true, message6(f, dhcpv6.MessageTypeSolicit, ia(), dhcpv6.WithRapidCommit).ToBytes())
	f.Add(true, message6(f, dhcpv6.MessageTypeRequest, ia("fd00:9::99"), dhcpv6.WithServerID(serverDUID)).ToBytes())
	f.Add(false, message6(f, dhcpv6.MessageTypeSolicit, ia(), dhcpv6.WithUserClass([]byte("iPXE"))).ToBytes())
	relay, err := dhcpv6.EncapsulateRelay(message6(f, dhcpv6.MessageTypeSolicit, ia()), dhcpv6.MessageTypeRelayForward, fromOther.AsSlice(), fromKnown.AsSlice())
	must(f, err)
	f.Add(true, relay.ToBytes())
	f.Fuzz(func(t *testing.T, allowed bool, msg []byte) {
		c := newCore(t, config(table()), allowed)
		a := c.Answer6(noon, 0, fromKnown, group6, msg)
		if n := c.Counters(); n.Received != 1 {
			t.Errorf("counted %+v", n)
		}
		if a == nil {
			return
		}
		if _, err := dhcpv6.FromBytes(a.Payload); err != nil {
			t.Fatalf("answered what can't be read: %v", err)
		}
		if len(a.Payload) > len(msg)+600 {
			t.Errorf("%d octets answer %d", len(a.Payload), len(msg))
		}
	})
}

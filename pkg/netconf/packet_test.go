package netconf

import (
	"net"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// packetFrom makes a server's packet: a client's with the ports swapped.
func packetFrom(t testing.TB, mods ...dhcpv4.Modifier) ([]byte, dhcpv4.TransactionID) {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithHwAddr(testMAC),
		dhcpv4.WithReply(&dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, ClientHWAddr: testMAC, TransactionID: dhcpv4.TransactionID{1, 2, 3, 4}}),
		dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer),
		dhcpv4.WithYourIP(net.IPv4(10, 9, 0, 12)),
		dhcpv4.WithServerIP(net.IPv4(10, 9, 0, 1)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 9, 0, 1))),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithRouter(net.IPv4(10, 9, 0, 1)),
	}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	b := Datagram4(nowhere(), everybody(), m.ToBytes())
	b[ipv4Header+1], b[ipv4Header+3] = serverPort, clientPort
	return b, m.TransactionID
}

func TestParseAnswer(t *testing.T) {
	good, xid := packetFrom(t)
	tests := []struct {
		name string
		edit func([]byte) []byte
		mods []dhcpv4.Modifier
		ok   bool
	}{
		{name: "good", ok: true},
		{name: "empty", edit: func([]byte) []byte { return nil }},
		{name: "cut in the header", edit: func(b []byte) []byte { return b[:19] }},
		{name: "cut in the payload", edit: func(b []byte) []byte { return b[:200] }},
		{name: "IPv6", edit: func(b []byte) []byte { b[0] = 0x65; return b }},
		{name: "TCP", edit: func(b []byte) []byte { b[9] = 6; return b }},
		{name: "fragment", edit: func(b []byte) []byte { b[7] = 1; return b }},
		{name: "header length past the end", edit: func(b []byte) []byte { b[0] = 0x4f; return b[:30] }},
		{name: "UDP length too long", edit: func(b []byte) []byte { b[24] = 0xff; return b }},
		{name: "other port", edit: func(b []byte) []byte { b[21] = 66; return b }},
		{name: "other transaction", mods: []dhcpv4.Modifier{dhcpv4.WithTransactionID(dhcpv4.TransactionID{9})}},
		{name: "other port's MAC", mods: []dhcpv4.Modifier{dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 9})}},
		{name: "a client's message", mods: []dhcpv4.Modifier{dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest)}},
		{name: "no mask", mods: []dhcpv4.Modifier{dhcpv4.WithoutOption(dhcpv4.OptionSubnetMask)}},
		{name: "mask with holes", mods: []dhcpv4.Modifier{dhcpv4.WithNetmask(net.IPMask{255, 0, 255, 0})}},
		{name: "no server", mods: []dhcpv4.Modifier{dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier)}},
		{name: "multicast address", mods: []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 1))}},
		{name: "no address", mods: []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4zero)}},
		{name: "loopback address", mods: []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(127, 0, 0, 1))}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := append([]byte(nil), good...)
			if tt.mods != nil {
				b, _ = packetFrom(t, tt.mods...)
			}
			if tt.edit != nil {
				b = tt.edit(b)
			}
			a, err := parseAnswer(b, testMAC, xid)
			if (err == nil) != tt.ok {
				t.Fatalf("got %+v, %v; want accepted: %v", a, err, tt.ok)
			}
			if tt.ok && (a.lease.Address.String() != "10.9.0.12/24" || a.lease.Router.String() != "10.9.0.1") {
				t.Errorf("got %+v", a.lease)
			}
		})
	}
}

func TestLeaseTime(t *testing.T) {
	for offered, want := range map[time.Duration]time.Duration{
		0: minLease, time.Second: minLease, time.Hour: time.Hour, 0xffffffff * time.Second: 0xffffffff * time.Second,
	} {
		b, xid := packetFrom(t, dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(offered)))
		a, err := parseAnswer(b, testMAC, xid)
		if err != nil {
			t.Fatal(err)
		}
		if a.lease.Duration != want {
			t.Errorf("lent for %s: got %s, want %s", offered, a.lease.Duration, want)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	good, xid := packetFrom(f)
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAnswer(b, testMAC, xid)
		if err == nil && a.kind != dhcpv4.MessageTypeNak && !usable(a.lease.Address.Addr()) {
			t.Errorf("took the address %s", a.lease.Address)
		}
	})
}

package netconf

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
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

// resum makes a header's checksum right again.
func resum(b []byte) []byte {
	if len(b) >= ipv4Header {
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], checksum(b[:min(int(b[0]&15)*4, len(b))]))
	}
	return b
}

// inField moves options to the field file, or sname (RFC 2132, 9.3).
func inField(at, size int, over byte, codes ...dhcpv4.OptionCode) func([]byte) []byte {
	return func(b []byte) []byte {
		m, err := dhcpv4.FromBytes(b[ipv4Header+udpHeader:])
		if err != nil {
			panic(err)
		}
		var moved []byte
		for _, code := range codes {
			v := m.Options.Get(code)
			moved = append(append(moved, code.Code(), byte(len(v))), v...)
			m.Options.Del(code)
		}
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionOptionOverload, []byte{over}))
		msg := m.ToBytes()
		copy(msg[at:at+size], append(moved, 255))
		b = Datagram4(nowhere(), everybody(), msg)
		b[ipv4Header+1], b[ipv4Header+3] = serverPort, clientPort
		return b
	}
}

func TestParseAnswer(t *testing.T) {
	good, xid := packetFrom(t)
	other := errNotOurs.Error()
	twice := func(code dhcpv4.OptionCode, v ...byte) []dhcpv4.Modifier {
		return []dhcpv4.Modifier{dhcpv4.WithGeneric(code, v)}
	}
	tests := []struct {
		name   string
		edit   func([]byte) []byte
		mods   []dhcpv4.Modifier
		summed bool
		want   netip.Prefix
		err    string
	}{
		{name: "good"},
		{name: "empty", edit: func([]byte) []byte { return nil }, err: other},
		{name: "cut in the header", edit: func(b []byte) []byte { return b[:19] }, err: other},
		{name: "cut in the payload", edit: func(b []byte) []byte { return b[:200] }, err: other},
		{name: "IPv6", edit: func(b []byte) []byte { b[0] = 0x65; return resum(b) }, err: other},
		{name: "TCP", edit: func(b []byte) []byte { b[9] = 6; return resum(b) }, summed: true, err: other},
		{name: "fragment", edit: func(b []byte) []byte { b[7] = 1; return resum(b) }, err: other},
		{name: "header length past the end", edit: func(b []byte) []byte { b[0] = 0x4f; return resum(b[:30]) }, err: other},
		{name: "UDP length too long", edit: func(b []byte) []byte { b[24] = 0xff; return b }, summed: true, err: other},
		{name: "other port", edit: func(b []byte) []byte { b[21] = 66; return b }, summed: true, err: other},
		{name: "the first fragment of several", edit: func(b []byte) []byte { b[6] = 0x20; return resum(b) }, err: other},
		{name: "header of four words", edit: func(b []byte) []byte {
			b = append(b[:16], b[ipv4Header:]...)
			b[0], b[3] = 0x44, b[3]-4
			return resum(b)
		}, summed: true, err: other},
		{name: "UDP length too short", edit: func(b []byte) []byte { b[24], b[25] = 0, 4; return b }, summed: true, err: other},
		{name: "a request", edit: func(b []byte) []byte { b[ipv4Header+udpHeader] = 1; return b }, summed: true, err: other},
		{name: "MAC address of another length", edit: func(b []byte) []byte { b[ipv4Header+udpHeader+2] = 8; return b }, summed: true, err: other},
		{name: "header's checksum", edit: func(b []byte) []byte { b[8]--; return b }, err: other},
		{name: "UDP checksum", edit: func(b []byte) []byte { b[26]++; return b }, err: other},
		{name: "UDP checksum, offloaded", edit: func(b []byte) []byte { b[26]++; return b }, summed: true},
		{name: "no UDP checksum", edit: func(b []byte) []byte { b[26], b[27] = 0, 0; return b }},
		{name: "other transaction", mods: []dhcpv4.Modifier{dhcpv4.WithTransactionID(dhcpv4.TransactionID{9})}, err: other},
		{name: "other port's MAC", mods: []dhcpv4.Modifier{dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 9})}, err: other},
		{name: "a client's message", mods: []dhcpv4.Modifier{dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest)}, err: other},
		{name: "a proxy's", mods: append(twice(dhcpv4.OptionClassIdentifier, []byte("PXEClient")...), dhcpv4.WithYourIP(net.IPv4zero)), err: other},

		{name: "a proxy's, for HTTP", mods: append(twice(dhcpv4.OptionClassIdentifier, []byte("HTTPClient")...), dhcpv4.WithYourIP(net.IPv4zero)), err: other},

		// What RFCs allow.
		{name: "server twice", mods: twice(dhcpv4.OptionServerIdentifier, 10, 9, 0, 1, 10, 9, 0, 99)},
		{name: "mask twice", mods: twice(dhcpv4.OptionSubnetMask, 255, 255, 255, 0, 255, 255, 255, 0)},
		{name: "options in file", edit: inField(atFile, 128, 1, dhcpv4.OptionDHCPMessageType, dhcpv4.OptionSubnetMask, dhcpv4.OptionServerIdentifier)},
		{name: "options in sname", edit: inField(atSname, 64, 2, dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter)},
		{name: "no mask, one is expected", mods: []dhcpv4.Modifier{dhcpv4.WithoutOption(dhcpv4.OptionSubnetMask)}, want: want.Address},
		{name: "no End", edit: func(b []byte) []byte {
			i := bytes.LastIndexByte(b, 255)
			b[i] = 0
			return b
		}, summed: true},

		// What is named.
		{name: "no mask", mods: []dhcpv4.Modifier{dhcpv4.WithoutOption(dhcpv4.OptionSubnetMask)}, err: "offers 10.9.0.12 without a subnet mask (option 1)"},
		{name: "half a mask", mods: twice(dhcpv4.OptionSubnetMask, 255, 255), err: "offers 10.9.0.12 with an unreadable mask: option 1 has 2 octets"},
		{name: "mask with holes", mods: []dhcpv4.Modifier{dhcpv4.WithNetmask(net.IPMask{255, 0, 255, 0})}, err: "offers 10.9.0.12 with the subnet mask 255.0.255.0, which has holes"},
		{name: "no server", mods: []dhcpv4.Modifier{dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier)}, err: "sends an answer without its own address (option 54), which a request must name"},
		{name: "BOOTP", mods: []dhcpv4.Modifier{dhcpv4.WithoutOption(dhcpv4.OptionDHCPMessageType)}, err: "sends a BOOTP answer, which is no lease: it has no message type (option 53)"},
		{name: "an empty type", mods: twice(dhcpv4.OptionDHCPMessageType), err: "sends a BOOTP answer, which is no lease: it has no message type (option 53)"},
		{name: "everybody's address", mods: []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4bcast)}, err: "offers 255.255.255.255, which is no host's address"},
		{name: "BOOTP without options", edit: func(b []byte) []byte { b[ipv4Header+udpHeader+atCookie] = 0; return b }, summed: true, err: "sends a BOOTP answer, which is no lease: it has no message type (option 53)"},
		{name: "options cut", edit: func(b []byte) []byte { b[ipv4Header+udpHeader+atOption+1] = 255; return b }, summed: true, err: "sends an answer that cannot be read: error collecting options: buffer too short at position 2: have 58 bytes, want 255 bytes"},
		{name: "multicast address", mods: []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 1))}, err: "offers 224.0.0.1, which is no host's address"},
		{name: "no address", mods: []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4zero)}, err: "offers 0.0.0.0, which is no host's address"},
		{name: "loopback address", mods: []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(127, 0, 0, 1))}, err: "offers 127.0.0.1, which is no host's address"},
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
			got := ""
			a, err := parseAnswer(b, tt.summed, question{testMAC, xid, tt.want})
			if err != nil {
				got = err.Error()
			}
			if got != tt.err {
				t.Fatalf("got %+v, %q; want %q", a, got, tt.err)
			}
			if err == nil && (a.lease.Address.String() != "10.9.0.12/24" || a.lease.Router.String() != "10.9.0.1" || a.server.String() != "10.9.0.1") {
				t.Errorf("got %+v", a)
			}
		})
	}
}

// TestRouterOfNobody: a lease by a router that can be none is one without.
func TestRouterOfNobody(t *testing.T) {
	for _, router := range []net.IP{net.IPv4zero, net.IPv4bcast, net.IPv4(127, 0, 0, 1), net.IPv4(224, 0, 0, 1)} {
		b, xid := packetFrom(t, dhcpv4.WithRouter(router))
		a, err := parseAnswer(b, true, question{mac: testMAC, xid: xid})
		if err != nil {
			t.Fatal(err)
		}
		if a.lease.Router.IsValid() {
			t.Errorf("router %s was taken", a.lease.Router)
		}
	}
}

// TestWrongServersAreNamedOnce, and not without end.
func TestWrongServersAreNamedOnce(t *testing.T) {
	named := 0
	c := &client{link: Link{Name: "lf0"}, cfg: Config{Wrong: func(*WrongLeaseError) { named++ }}}
	for i := range 100 {
		for range 2 {
			c.note(netip.AddrFrom4([4]byte{10, 66, 0, byte(i)}), "offers 10.66.0.9/24")
		}
	}
	if named != 16 || len(c.named) != 16 {
		t.Errorf("told of %d servers and kept %d, want 16", named, len(c.named))
	}
}

func TestLeaseTime(t *testing.T) {
	for offered, want := range map[time.Duration]time.Duration{
		0: minLease, time.Second: minLease, time.Hour: time.Hour, 0xffffffff * time.Second: 0xffffffff * time.Second,
	} {
		b, xid := packetFrom(t, dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(offered)))
		a, err := parseAnswer(b, true, question{mac: testMAC, xid: xid})
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
		a, err := parseAnswer(b, true, question{mac: testMAC, xid: xid})
		if err == nil && a.kind != dhcpv4.MessageTypeNak && !usable(a.lease.Address.Addr()) {
			t.Errorf("took the address %s", a.lease.Address)
		}
	})
}

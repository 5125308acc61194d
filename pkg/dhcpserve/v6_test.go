package dhcpserve

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

var (
	fromKnown = netip.MustParseAddr("fe80::5054:ff:fe00:12")
	fromOnly6 = netip.MustParseAddr("fe80::5054:ff:fe00:66")
	fromOther = netip.MustParseAddr("fe80::1")
)

func duidLL(hw net.HardwareAddr) dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: hw}
}

var serverDUID = duidLL(serverMAC)

func message6(t testing.TB, kind dhcpv6.MessageType, mods ...dhcpv6.Modifier) *dhcpv6.Message {
	t.Helper()
	m, err := dhcpv6.NewMessage(append([]dhcpv6.Modifier{dhcpv6.WithClientID(&dhcpv6.DUIDUUID{UUID: [16]byte{1}})}, mods...)...)
	must(t, err)
	m.MessageType = kind
	return m
}

func ia(addrs ...string) dhcpv6.Modifier {
	return func(d dhcpv6.DHCPv6) {
		o := &dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, 7}}
		for _, a := range addrs {
			o.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(a), ValidLifetime: 60e9})
		}
		d.AddOption(o)
	}
}

func option(o dhcpv6.Option) dhcpv6.Modifier { return dhcpv6.WithOption(o) }

// words6 shows what matters of an answer.
func words6(t testing.TB, a *Answer) string {
	t.Helper()
	if a == nil {
		return "silence"
	}
	outer, err := dhcpv6.FromBytes(a.Payload)
	must(t, err)
	s := ""
	m, err := outer.GetInnerMessage()
	must(t, err)
	if outer.IsRelay() {
		s = "relayed "
	}
	s += m.MessageType.String()
	for _, i := range m.Options.IANA() {
		for _, x := range i.Options.Addresses() {
			s += fmt.Sprintf(" %s %s", x.IPv6Addr, x.ValidLifetime)
		}
		if st := i.Options.Status(); st != nil {
			s += " " + st.StatusCode.String()
		}
	}
	if st := m.Options.Status(); st != nil {
		s += " " + st.StatusCode.String()
	}
	if u := m.Options.BootFileURL(); u != "" {
		s += " boot " + u
	}
	if len(m.Options.VendorClasses()) > 0 {
		s += " HTTPClient"
	}
	if m.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
		s += " rapid"
	}
	return s
}

func TestAnswer6(t *testing.T) {
	const (
		solicit = dhcpv6.MessageTypeSolicit
		request = dhcpv6.MessageTypeRequest
		lease   = " fd00:9::12 24h0m0s"
	)
	class := func(s string) dhcpv6.Modifier {
		return option(&dhcpv6.OptVendorClass{EnterpriseNumber: firmwareVendor, Data: [][]byte{[]byte(s)}})
	}
	mine, other := dhcpv6.WithServerID(serverDUID), dhcpv6.WithServerID(duidLL(strangeMAC))
	urls := table()
	urls.Boot = &snapshot.NetBoot{File: "http://[fd00:9::1]/landfall.efi"}
	tftp := table()
	tftp.Boot = &snapshot.NetBoot{Server: "fd00:9::1", File: "/landfall.efi"}
	tests := []struct {
		name          string
		dhcp          *snapshot.DHCP
		from          netip.Addr
		msg           *dhcpv6.Message
		before, after string
	}{
		{name: "ordinary client", from: fromKnown, msg: message6(t, solicit, ia()), before: "silence", after: "ADVERTISE" + lease},
		{name: "rapid commit", from: fromKnown, msg: message6(t, solicit, ia(), dhcpv6.WithRapidCommit), before: "silence", after: "REPLY" + lease + " rapid"},
		{name: "known by its DUID", from: fromOther, msg: message6(t, solicit, ia(), dhcpv6.WithClientID(duidLL(knownMAC))), before: "silence", after: "ADVERTISE" + lease},
		{name: "known by its DUID with time", from: fromOther, before: "silence", after: "ADVERTISE" + lease,
			msg: message6(t, solicit, ia(), dhcpv6.WithClientID(&dhcpv6.DUIDLLT{HWType: iana.HWTypeEthernet, Time: 9, LinkLayerAddr: knownMAC}))},
		{name: "DUID of another of its ports", from: fromOnly6, msg: message6(t, solicit, ia(), dhcpv6.WithClientID(duidLL(knownMAC))),
			before: "silence", after: "ADVERTISE fd00:9::13 24h0m0s"},
		{name: "stranger", from: fromOther, msg: message6(t, solicit, ia()), before: "silence", after: "silence"},
		{name: "no address asked for", from: fromKnown, msg: message6(t, solicit), before: "silence", after: "silence"},
		{name: "solicits one server", from: fromKnown, msg: message6(t, solicit, ia(), mine), before: "silence", after: "silence"},
		{name: "request", from: fromKnown, msg: message6(t, request, ia("fd00:9::12"), mine), before: "silence", after: "REPLY" + lease},
		{name: "requests another address", from: fromKnown, msg: message6(t, request, ia("fd00:9::99"), mine), before: "silence", after: "REPLY" + lease + " fd00:9::99 0s"},
		{name: "requests of another server", from: fromKnown, msg: message6(t, request, ia("fd00:9::12"), other), before: "silence", after: "silence"},
		{name: "requests of nobody", from: fromKnown, msg: message6(t, request, ia("fd00:9::12")), before: "silence", after: "silence"},
		{name: "two identities", from: fromKnown, msg: message6(t, request, ia(), ia(), mine), before: "silence", after: "REPLY" + lease + " NoAddrsAvail"},
		{name: "renew", from: fromKnown, msg: message6(t, dhcpv6.MessageTypeRenew, ia("fd00:9::12"), mine), before: "silence", after: "REPLY" + lease},
		{name: "rebind", from: fromKnown, msg: message6(t, dhcpv6.MessageTypeRebind, ia("fd00:9::12")), before: "silence", after: "REPLY" + lease},
		{name: "confirm", from: fromKnown, msg: message6(t, dhcpv6.MessageTypeConfirm, ia("fd00:9::12")), before: "silence", after: "REPLY Success"},
		{name: "confirm elsewhere", from: fromKnown, msg: message6(t, dhcpv6.MessageTypeConfirm, ia("fd00:1::12")), before: "silence", after: "REPLY NotOnLink"},
		{name: "release", from: fromKnown, msg: message6(t, dhcpv6.MessageTypeRelease, ia("fd00:9::12"), mine), before: "REPLY Success", after: "REPLY Success"},
		{name: "information", from: fromKnown, msg: message6(t, dhcpv6.MessageTypeInformationRequest), before: "silence", after: "silence"},
		{name: "a server's message", from: fromKnown, msg: message6(t, dhcpv6.MessageTypeAdvertise, ia()), before: "silence", after: "silence"},

		{name: "UEFI PXE", dhcp: tftp, from: fromKnown, msg: message6(t, solicit, ia(), class("PXEClient:Arch:00007")),
			before: "ADVERTISE fd00:9::12 2m0s boot tftp://[fd00:9::1]/landfall.efi", after: "ADVERTISE" + lease + " boot tftp://[fd00:9::1]/landfall.efi"},
		{name: "UEFI PXE, IPv4 server", from: fromKnown, msg: message6(t, solicit, ia(), class("PXEClient:Arch:00007")), before: "silence", after: "ADVERTISE" + lease},
		{name: "UEFI HTTP", dhcp: urls, from: fromKnown, msg: message6(t, solicit, ia(), class("HTTPClient:Arch:00016")),
			before: "ADVERTISE fd00:9::12 2m0s boot http://[fd00:9::1]/landfall.efi HTTPClient", after: "ADVERTISE" + lease + " boot http://[fd00:9::1]/landfall.efi HTTPClient"},
		{name: "iPXE", from: fromKnown, msg: message6(t, solicit, ia(), dhcpv6.WithUserClass([]byte("iPXE"))),
			before: "ADVERTISE fd00:9::12 2m0s boot http://10.9.0.1/boot.ipxe", after: "ADVERTISE" + lease + " boot http://10.9.0.1/boot.ipxe"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for allowed, want := range map[bool]string{false: tt.before, true: tt.after} {
				d := tt.dhcp
				if d == nil {
					d = table()
				}
				a := newCore(t, config(d), allowed).Answer6(noon, 0, tt.from, tt.msg.ToBytes())
				if got := words6(t, a); got != want {
					t.Errorf("allowed %v:\n got %s\nwant %s", allowed, got, want)
				}
				if a != nil && a.To != netip.AddrPortFrom(tt.from, 546) {
					t.Errorf("sent to %s", a.To)
				}
			}
		})
	}
}

func TestRelay6(t *testing.T) {
	router := netip.MustParseAddr("fd00:9::254")
	wrap := func(m dhcpv6.DHCPv6, opts ...dhcpv6.Option) dhcpv6.DHCPv6 {
		r, err := dhcpv6.EncapsulateRelay(m, dhcpv6.MessageTypeRelayForward, router.AsSlice(), fromOther.AsSlice())
		must(t, err)
		for _, o := range opts {
			r.AddOption(o)
		}
		return r
	}
	saw := dhcpv6.OptClientLinkLayerAddress(iana.HWTypeEthernet, knownMAC)
	solicit := func() dhcpv6.DHCPv6 { return message6(t, dhcpv6.MessageTypeSolicit, ia()) }
	deep := wrap(solicit(), saw)
	for range maxRelays + 1 {
		deep = wrap(deep)
	}
	tests := []struct {
		name string
		msg  dhcpv6.DHCPv6
		want string
	}{
		{"MAC by RFC 6939", wrap(solicit(), saw), "relayed ADVERTISE fd00:9::12 24h0m0s"},
		{"two relay agents", wrap(wrap(solicit(), saw)), "relayed ADVERTISE fd00:9::12 24h0m0s"},
		// An outer relay agent's word about an inner one is not the client's.
		{"told by the outer one", wrap(wrap(solicit()), saw), "silence"},
		{"unknown", wrap(solicit()), "silence"},
		{"too many", deep, "silence"},
	}
	for _, tt := range tests {
		a := newCore(t, config(table()), true).Answer6(noon, 0, router, tt.msg.ToBytes())
		if got := words6(t, a); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
		if a != nil && a.To != netip.AddrPortFrom(router, 547) {
			t.Errorf("%s: sent to %s", tt.name, a.To)
		}
	}
}

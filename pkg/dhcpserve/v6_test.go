package dhcpserve

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

var (
	fromKnown = netip.MustParseAddr("fe80::5054:ff:fe00:12")
	fromOnly6 = netip.MustParseAddr("fe80::5054:ff:fe00:66")
	fromOther = netip.MustParseAddr("fe80::1")
	group6    = netip.MustParseAddr("ff02::1:2")
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

// iata and iapd are identity associations that nothing is given to.
func iata(addrs ...string) dhcpv6.Modifier {
	return func(d dhcpv6.DHCPv6) {
		o := &dhcpv6.OptIATA{IaId: [4]byte{0, 0, 0, 8}}
		for _, a := range addrs {
			o.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(a), ValidLifetime: 60e9})
		}
		d.AddOption(o)
	}
}

func iapd() dhcpv6.Modifier { return option(&dhcpv6.OptIAPD{IaId: [4]byte{0, 0, 0, 9}}) }

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
			s += " NA " + st.StatusCode.String()
		}
	}
	for _, i := range m.Options.IATA() {
		s += " TA " + i.Options.Status().StatusCode.String()
	}
	for _, i := range m.Options.IAPD() {
		s += " PD " + i.Options.Status().StatusCode.String()
	}
	if m.MessageType == dhcpv6.MessageTypeAdvertise && m.Options.Preference() != 255 {
		s += " or others"
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
		renew   = dhcpv6.MessageTypeRenew
		release = dhcpv6.MessageTypeRelease
		confirm = dhcpv6.MessageTypeConfirm
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
		{name: "an address that no MAC address made", from: netip.MustParseAddr("fe80::5054:0:0:12"), msg: message6(t, solicit, ia()), before: "silence", after: "silence"},
		{name: "an address of the network, as a MAC address makes it", from: netip.MustParseAddr("fd00:9::5054:ff:fe00:12"), msg: message6(t, solicit, ia()), before: "silence", after: "silence"},
		{name: "DUID of other hardware", from: fromOther, before: "silence", after: "silence",
			msg: message6(t, solicit, ia(), dhcpv6.WithClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeInfiniband, LinkLayerAddr: knownMAC}))},
		{name: "no address asked for", from: fromKnown, msg: message6(t, solicit), before: "silence", after: "silence"},
		{name: "solicits one server", from: fromKnown, msg: message6(t, solicit, ia(), mine), before: "silence", after: "silence"},
		{name: "request", from: fromKnown, msg: message6(t, request, ia("fd00:9::12"), mine), before: "silence", after: "REPLY" + lease},
		{name: "requests another address", from: fromKnown, msg: message6(t, request, ia("fd00:9::99"), mine), before: "silence", after: "REPLY" + lease + " fd00:9::99 0s"},
		{name: "requests of another server", from: fromKnown, msg: message6(t, request, ia("fd00:9::12"), other), before: "silence", after: "silence"},
		{name: "requests of nobody", from: fromKnown, msg: message6(t, request, ia("fd00:9::12")), before: "silence", after: "silence"},
		{name: "two identities", from: fromKnown, msg: message6(t, request, ia(), ia(), mine), before: "silence", after: "REPLY" + lease + " NA NoAddrsAvail"},
		{name: "six identities", from: fromKnown, msg: message6(t, request, ia(), ia(), ia(), ia(), ia(), ia(), mine), before: "silence",
			after: "REPLY" + lease + " NA NoAddrsAvail NA NoAddrsAvail NA NoAddrsAvail"},
		{name: "renew", from: fromKnown, msg: message6(t, dhcpv6.MessageTypeRenew, ia("fd00:9::12"), mine), before: "silence", after: "REPLY" + lease},
		{name: "rebind", from: fromKnown, msg: message6(t, dhcpv6.MessageTypeRebind, ia("fd00:9::12")), before: "silence", after: "REPLY" + lease},
		{name: "renews two identities", from: fromKnown, msg: message6(t, renew, ia("fd00:9::12"), ia("fd00:9::77"), mine), before: "silence", after: "REPLY" + lease + " NA NoBinding"},
		{name: "solicits a prefix too", from: fromKnown, msg: message6(t, solicit, ia(), iapd()), before: "silence", after: "ADVERTISE" + lease + " PD NoPrefixAvail or others"},
		{name: "solicits a prefix only", from: fromKnown, msg: message6(t, solicit, iapd()), before: "silence", after: "ADVERTISE PD NoPrefixAvail or others"},
		{name: "solicits a prefix only, rapid", from: fromKnown, msg: message6(t, solicit, iapd(), dhcpv6.WithRapidCommit), before: "silence", after: "ADVERTISE PD NoPrefixAvail or others"},
		{name: "requests a prefix too", from: fromKnown, msg: message6(t, request, ia(), iapd(), mine), before: "silence", after: "REPLY" + lease + " PD NoPrefixAvail"},
		{name: "renews a prefix", from: fromKnown, msg: message6(t, renew, iapd(), mine), before: "silence", after: "REPLY PD NoBinding"},
		{name: "rebinds a prefix", from: fromKnown, msg: message6(t, dhcpv6.MessageTypeRebind, iapd()), before: "silence", after: "REPLY PD NoBinding"},
		{name: "requests a temporary address", from: fromKnown, msg: message6(t, request, iata(), mine), before: "silence", after: "REPLY TA NoAddrsAvail"},
		{name: "stranger's prefix", from: fromOther, msg: message6(t, solicit, iapd()), before: "silence", after: "silence"},

		{name: "confirm", from: fromKnown, msg: message6(t, confirm, ia("fd00:9::12")), before: "silence", after: "REPLY Success"},
		{name: "confirm another of the prefix", from: fromKnown, msg: message6(t, confirm, ia("fd00:9::99")), before: "silence", after: "REPLY Success"},
		{name: "confirm elsewhere", from: fromKnown, msg: message6(t, confirm, ia("fd00:1::12")), before: "silence", after: "REPLY NotOnLink"},
		{name: "confirm here and elsewhere", from: fromKnown, msg: message6(t, confirm, ia("fd00:9::12"), ia("fd00:1::12")), before: "silence", after: "REPLY NotOnLink"},
		{name: "confirm a temporary one elsewhere", from: fromKnown, msg: message6(t, confirm, ia("fd00:9::12"), iata("fd00:1::12")), before: "silence", after: "REPLY NotOnLink"},
		{name: "confirm without addresses", from: fromKnown, msg: message6(t, confirm, ia()), before: "silence", after: "silence"},
		{name: "confirm of a stranger", from: fromOther, msg: message6(t, confirm, ia("fd00:9::12")), before: "silence", after: "silence"},

		{name: "release", from: fromKnown, msg: message6(t, release, ia("fd00:9::12"), mine), before: "REPLY Success", after: "REPLY Success"},
		{name: "release of a strange address", from: fromKnown, msg: message6(t, release, ia("fd00:9::99"), mine), before: "REPLY NA NoBinding Success", after: "REPLY NA NoBinding Success"},
		{name: "release of one of two", from: fromKnown, msg: message6(t, release, ia("fd00:9::12"), ia("fd00:9::99"), mine), before: "REPLY NA NoBinding Success", after: "REPLY NA NoBinding Success"},
		{name: "release of all kinds", from: fromKnown, msg: message6(t, release, ia("fd00:9::12"), iata("fd00:9::98"), iapd(), mine),
			before: "REPLY TA NoBinding PD NoBinding Success", after: "REPLY TA NoBinding PD NoBinding Success"},
		{name: "release by a stranger", from: fromOther, msg: message6(t, release, ia("fd00:9::12"), mine), before: "REPLY NA NoBinding Success", after: "REPLY NA NoBinding Success"},
		{name: "release at another server", from: fromKnown, msg: message6(t, release, ia("fd00:9::12"), other), before: "silence", after: "silence"},
		{name: "decline of a strange address", from: fromKnown, msg: message6(t, dhcpv6.MessageTypeDecline, ia("fd00:9::99"), mine), before: "REPLY NA NoBinding Success", after: "REPLY NA NoBinding Success"},
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
				a := newCore(t, config(d), allowed).Answer6(noon, 0, tt.from, group6, tt.msg.ToBytes())
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

// TestUnicast6: no client is ever allowed to leave the group out (RFC 8415, 16
// and 18.3); a relay agent may.
func TestUnicast6(t *testing.T) {
	own := netip.MustParseAddr("fd00:9::1")
	mine, other := dhcpv6.WithServerID(serverDUID), dhcpv6.WithServerID(duidLL(strangeMAC))
	relay, err := dhcpv6.EncapsulateRelay(message6(t, dhcpv6.MessageTypeSolicit, ia()), dhcpv6.MessageTypeRelayForward, own.AsSlice(), fromKnown.AsSlice())
	must(t, err)
	tests := []struct {
		name string
		from netip.Addr
		msg  dhcpv6.DHCPv6
		want string
	}{
		{"solicit", fromKnown, message6(t, dhcpv6.MessageTypeSolicit, ia()), "silence"},
		{"confirm", fromKnown, message6(t, dhcpv6.MessageTypeConfirm, ia("fd00:9::12")), "silence"},
		{"rebind", fromKnown, message6(t, dhcpv6.MessageTypeRebind, ia("fd00:9::12")), "silence"},
		{"request", fromKnown, message6(t, dhcpv6.MessageTypeRequest, ia("fd00:9::12"), mine), "REPLY UseMulticast"},
		{"renew", fromKnown, message6(t, dhcpv6.MessageTypeRenew, ia("fd00:9::12"), mine), "REPLY UseMulticast"},
		{"release", fromKnown, message6(t, dhcpv6.MessageTypeRelease, ia("fd00:9::12"), mine), "REPLY UseMulticast"},
		{"decline", fromKnown, message6(t, dhcpv6.MessageTypeDecline, ia("fd00:9::12"), mine), "REPLY UseMulticast"},
		{"request of another server", fromKnown, message6(t, dhcpv6.MessageTypeRequest, ia("fd00:9::12"), other), "silence"},
		{"request of no server", fromKnown, message6(t, dhcpv6.MessageTypeRequest, ia("fd00:9::12")), "silence"},
		{"stranger", fromOther, message6(t, dhcpv6.MessageTypeRequest, ia("fd00:9::12"), mine), "silence"},
		{"relay agent", own, relay, "relayed ADVERTISE fd00:9::12 24h0m0s"},
	}
	for _, tt := range tests {
		c := newCore(t, config(table()), true)
		if got := words6(t, c.Answer6(noon, 0, tt.from, own, tt.msg.ToBytes())); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
		if n := c.Counters(); n.Declined != 0 {
			t.Errorf("%s: counted %+v", tt.name, n)
		}
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
	answer, err := dhcpv6.EncapsulateRelay(solicit(), dhcpv6.MessageTypeRelayReply, router.AsSlice(), fromKnown.AsSlice())
	must(t, err)
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
		{"other hardware", wrap(solicit(), dhcpv6.OptClientLinkLayerAddress(iana.HWTypeInfiniband, knownMAC)), "silence"},
		{"a relay agent's answer", answer, "silence"},
		{"a relay agent's answer, relayed", wrap(answer, saw), "silence"},
	}
	for _, tt := range tests {
		a := newCore(t, config(table()), true).Answer6(noon, 0, router, group6, tt.msg.ToBytes())
		if got := words6(t, a); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
		if a != nil && a.To != netip.AddrPortFrom(router, 547) {
			t.Errorf("%s: sent to %s", tt.name, a.To)
		}
	}
}

// TestDecline6: only a device's own address can be said to be in use.
func TestDecline6(t *testing.T) {
	var log []string
	cfg := config(table())
	cfg.Logf = func(f string, args ...any) { log = append(log, fmt.Sprintf(f, args...)) }
	c := newCore(t, cfg, true)
	for i, address := range []string{"fd00:9::99", "fd00:9::12"} {
		msg := message6(t, dhcpv6.MessageTypeDecline, ia(address), dhcpv6.WithServerID(serverDUID))
		c.Answer6(noon.Add(time.Duration(i)*time.Minute), 0, fromKnown, group6, msg.ToBytes())
	}
	want := []string{"r07-u12 eth0 says that somebody else uses its address fd00:9::12"}
	if diff := cmp.Diff(want, log); diff != "" || c.Counters().Declined != 1 {
		t.Errorf("counted %d; log (-want +got):\n%s", c.Counters().Declined, diff)
	}
}

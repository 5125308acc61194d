package dhcpserve

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

var (
	knownMAC   = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0x12}
	only6MAC   = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0x66}
	strangeMAC = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0x99}
	serverMAC  = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0x01}
	noon       = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// table is what the tests serve.
func table() *snapshot.DHCP {
	return &snapshot.DHCP{
		Leases: []snapshot.Lease{
			{Device: "r07-u12", Interface: "eth0", MAC: knownMAC.String(), Addresses: []string{"10.9.0.12/24", "fd00:9::12/64"},
				Gateway: "10.9.0.254", MTU: 9000, Hostname: "node12"},
			{Device: "r07-u13", Interface: "eth0", MAC: only6MAC.String(), Addresses: []string{"fd00:9::13/64"}},
		},
		Boot:       &snapshot.NetBoot{Server: "10.9.0.1", File: "landfall.efi", Script: "http://10.9.0.1/boot.ipxe"},
		Quarantine: &snapshot.Quarantine{First: "10.9.0.200", Last: "10.9.0.219"},
	}
}

func config(d *snapshot.DHCP) Config {
	return Config{DHCP: d, Ports: []Port{{Name: "eth0", Link: netconf.Link{MAC: serverMAC, Name: "srv0"},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24")}, Gateway: netip.MustParseAddr("10.9.0.254")}},
		Fleet: []netip.AddrPort{netip.MustParseAddrPort("10.9.0.1:7443"), netip.MustParseAddrPort("10.8.0.1:7443")}}
}

func newCore(t testing.TB, cfg Config, allowed bool) *Core {
	t.Helper()
	c, err := NewCore(cfg)
	must(t, err)
	if allowed {
		c.Allow()
	}
	return c
}

func message(t testing.TB, hw net.HardwareAddr, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) []byte {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(kind)}, mods...)...)
	must(t, err)
	return m.ToBytes()
}

var (
	pxe      = dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003001"))
	uefiHTTP = dhcpv4.WithOption(dhcpv4.OptClassIdentifier("HTTPClient:Arch:00016:UNDI:003001"))
	ipxe     = dhcpv4.WithOption(dhcpv4.OptUserClass("iPXE"))
	rapid    = dhcpv4.WithGeneric(dhcpv4.OptionRapidCommit, nil)
	ask      = dhcpv4.WithRequestedOptions(dhcpv4.OptionHostName, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionBootfileName, dhcpv4.OptionTFTPServerName)
)

func wanted(ip string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(ip)))
}

func server(ip string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(ip)))
}

func ciaddr(ip string) dhcpv4.Modifier {
	return func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = net.ParseIP(ip) }
}

// words shows what matters of an answer.
func words(t testing.TB, a *Answer) string {
	t.Helper()
	if a == nil {
		return "silence"
	}
	m, err := dhcpv4.FromBytes(a.Payload)
	must(t, err)
	if len(a.Payload) < 300 { // RFC 951; relay agents drop what is shorter
		t.Errorf("%s of %d octets", m.MessageType(), len(a.Payload))
	}
	s := m.MessageType().String()
	if ip := valid4(m.YourIPAddr); ip.IsValid() {
		ones, _ := net.IPMask(m.Options.Get(dhcpv4.OptionSubnetMask)).Size()
		s += fmt.Sprintf(" %s/%d %s", ip, ones, m.IPAddressLeaseTime(0))
	}
	if r := m.Router(); len(r) > 0 {
		s += " by " + r[0].String()
	}
	for _, r := range m.ClasslessStaticRoute() {
		ones, _ := r.Dest.Mask.Size()
		s += fmt.Sprintf(" route %s/%d by %s", r.Dest.IP, ones, r.Router)
	}
	if m.BootFileName != "" {
		s += " boot " + m.BootFileName
	}
	if ip := valid4(m.ServerIPAddr); ip.IsValid() {
		s += " from " + ip.String()
	}
	if c := m.ClassIdentifier(); c != "" {
		s += " class " + c
	}
	if m.Options.Has(dhcpv4.OptionRapidCommit) {
		s += " rapid"
	}
	return s
}

func TestAnswer4(t *testing.T) {
	const (
		discover = dhcpv4.MessageTypeDiscover
		request  = dhcpv4.MessageTypeRequest
		lease    = "10.9.0.12/24 24h0m0s by 10.9.0.254"
		routes   = " route 10.9.0.1/32 by 0.0.0.0 route 10.9.0.254/32 by 0.0.0.0 route 10.8.0.1/32 by 10.9.0.254"
	)
	urls := table()
	urls.Boot = &snapshot.NetBoot{File: "http://10.9.0.1/landfall.efi"}
	bare := table()
	bare.Boot, bare.Quarantine = nil, nil
	tests := []struct {
		name string
		dhcp *snapshot.DHCP // nil: table()
		mac  net.HardwareAddr
		kind dhcpv4.MessageType
		mods []dhcpv4.Modifier
		// What is answered before and after Allow. An address of the pool is
		// shown as "POOL".
		before, after string
	}{
		{name: "ordinary client", mac: knownMAC, kind: discover, before: "silence", after: "OFFER " + lease},
		{name: "rapid commit", mac: knownMAC, kind: discover, mods: []dhcpv4.Modifier{rapid}, before: "silence", after: "ACK " + lease + " rapid"},
		{name: "asks for another address", mac: knownMAC, kind: discover, mods: []dhcpv4.Modifier{wanted("10.9.0.77")}, before: "silence", after: "OFFER " + lease},
		{name: "takes the offer", mac: knownMAC, kind: request, mods: []dhcpv4.Modifier{server("10.9.0.1"), wanted("10.9.0.12")},
			before: "silence", after: "ACK " + lease},
		{name: "takes another server's offer", mac: knownMAC, kind: request, mods: []dhcpv4.Modifier{server("10.66.0.1"), wanted("10.66.0.5")},
			before: "silence", after: "silence"},
		{name: "takes what was not offered", mac: knownMAC, kind: request, mods: []dhcpv4.Modifier{server("10.9.0.1"), wanted("10.9.0.13")},
			before: "silence", after: "NAK"},
		{name: "rebooted", mac: knownMAC, kind: request, mods: []dhcpv4.Modifier{wanted("10.9.0.12")}, before: "silence", after: "ACK " + lease},
		{name: "rebooted elsewhere", mac: knownMAC, kind: request, mods: []dhcpv4.Modifier{wanted("192.168.1.5")}, before: "silence", after: "NAK"},
		{name: "renews", mac: knownMAC, kind: request, mods: []dhcpv4.Modifier{ciaddr("10.9.0.12")}, before: "silence", after: "ACK " + lease},
		{name: "renews another's", mac: knownMAC, kind: request, mods: []dhcpv4.Modifier{ciaddr("10.9.0.13")}, before: "silence", after: "NAK"},
		{name: "no address asked for", mac: knownMAC, kind: request, before: "silence", after: "NAK"},
		{name: "inform", mac: knownMAC, kind: dhcpv4.MessageTypeInform, before: "silence", after: "silence"},

		{name: "PXE", mac: knownMAC, kind: discover, mods: []dhcpv4.Modifier{pxe},
			before: "OFFER 10.9.0.12/24 2m0s boot landfall.efi from 10.9.0.1", after: "OFFER " + lease + " boot landfall.efi from 10.9.0.1"},
		{name: "PXE takes", mac: knownMAC, kind: request, mods: []dhcpv4.Modifier{pxe, server("10.9.0.1"), wanted("10.9.0.12")},
			before: "ACK 10.9.0.12/24 2m0s boot landfall.efi from 10.9.0.1", after: "ACK " + lease + " boot landfall.efi from 10.9.0.1"},
		{name: "iPXE", mac: knownMAC, kind: discover, mods: []dhcpv4.Modifier{pxe, ipxe},
			before: "OFFER 10.9.0.12/24 2m0s boot http://10.9.0.1/boot.ipxe", after: "OFFER " + lease + " boot http://10.9.0.1/boot.ipxe"},
		{name: "UEFI HTTP, nothing to load", mac: knownMAC, kind: discover, mods: []dhcpv4.Modifier{uefiHTTP}, before: "silence", after: "OFFER " + lease},
		{name: "UEFI HTTP", dhcp: urls, mac: knownMAC, kind: discover, mods: []dhcpv4.Modifier{uefiHTTP},
			before: "OFFER 10.9.0.12/24 2m0s boot http://10.9.0.1/landfall.efi class HTTPClient",
			after:  "OFFER " + lease + " boot http://10.9.0.1/landfall.efi class HTTPClient"},
		{name: "iPXE without script", dhcp: urls, mac: knownMAC, kind: discover, mods: []dhcpv4.Modifier{ipxe},
			before: "OFFER 10.9.0.12/24 2m0s boot http://10.9.0.1/landfall.efi", after: "OFFER " + lease + " boot http://10.9.0.1/landfall.efi"},
		{name: "PXE, only a URL", dhcp: urls, mac: knownMAC, kind: discover, mods: []dhcpv4.Modifier{pxe}, before: "silence", after: "OFFER " + lease},
		{name: "PXE, no boot", dhcp: bare, mac: knownMAC, kind: discover, mods: []dhcpv4.Modifier{pxe}, before: "silence", after: "OFFER " + lease},

		{name: "stranger", mac: strangeMAC, kind: discover, before: "OFFER POOL/32 1m0s" + routes, after: "OFFER POOL/32 1m0s" + routes},
		{name: "stranger, rapid", mac: strangeMAC, kind: discover, mods: []dhcpv4.Modifier{rapid},
			before: "OFFER POOL/32 1m0s" + routes, after: "OFFER POOL/32 1m0s" + routes},
		{name: "strange firmware", mac: strangeMAC, kind: discover, mods: []dhcpv4.Modifier{pxe},
			before: "OFFER POOL/24 1m0s" + routes + " boot landfall.efi from 10.9.0.1", after: "OFFER POOL/24 1m0s" + routes + " boot landfall.efi from 10.9.0.1"},
		{name: "stranger with a device's address", mac: strangeMAC, kind: request, mods: []dhcpv4.Modifier{wanted("10.9.0.12")}, before: "NAK", after: "NAK"},
		{name: "stranger renews a device's address", mac: strangeMAC, kind: request, mods: []dhcpv4.Modifier{ciaddr("10.9.0.12")}, before: "NAK", after: "NAK"},
		{name: "stranger with an address of another network", mac: strangeMAC, kind: request, mods: []dhcpv4.Modifier{wanted("192.168.1.5")}, before: "silence", after: "silence"},
		{name: "stranger, no quarantine", dhcp: bare, mac: strangeMAC, kind: discover, before: "silence", after: "silence"},
		{name: "stranger by a relay agent", mac: strangeMAC, kind: discover, mods: []dhcpv4.Modifier{dhcpv4.WithRelay(net.IPv4(10, 9, 0, 254))}, before: "silence", after: "silence"},
		{name: "has an IPv6 address only", mac: only6MAC, kind: discover, before: "silence", after: "silence"},
		{name: "group MAC address", mac: net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, kind: discover, before: "silence", after: "silence"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for allowed, want := range map[bool]string{false: tt.before, true: tt.after} {
				d := tt.dhcp
				if d == nil {
					d = table()
				}
				c := newCore(t, config(d), allowed)
				got := words(t, c.Answer4(noon, 0, message(t, tt.mac, tt.kind, append(tt.mods, ask)...)))
				got = poolWord(got)
				if got != want {
					t.Errorf("allowed %v:\n got %s\nwant %s", allowed, got, want)
				}
			}
		})
	}
}

// poolWord hides which of the pool's addresses somebody got.
func poolWord(s string) string {
	for i := 200; i < 220; i++ {
		s = strings.Replace(s, fmt.Sprintf("10.9.0.%d/", i), "POOL/", 1)
	}
	return s
}

func TestNotForUs4(t *testing.T) {
	c := newCore(t, config(table()), true)
	good := message(t, knownMAC, dhcpv4.MessageTypeDiscover)
	tests := map[string]func([]byte) []byte{
		"empty":           func([]byte) []byte { return nil },
		"cut":             func(b []byte) []byte { return b[:230] },
		"a reply":         func(b []byte) []byte { b[0] = 2; return b },
		"Infiniband":      func(b []byte) []byte { b[1] = 32; return b },
		"8 octets of MAC": func(b []byte) []byte { b[2] = 8; return b },
		"no cookie":       func(b []byte) []byte { b[236] = 0; return b },
		"BOOTP":           func(b []byte) []byte { return append(b[:240], 255) },
	}
	for name, edit := range tests {
		if a := c.Answer4(noon, 0, edit(append([]byte(nil), good...))); a != nil {
			t.Errorf("%s: answered %s", name, words(t, a))
		}
	}
	if n := c.Counters(); n.Received != uint64(len(tests)) || n.Malformed+n.Ignored != n.Received || n.Malformed == 0 || n.Ignored == 0 {
		t.Errorf("counted %+v", n)
	}
}

func TestWhereAnswersGo(t *testing.T) {
	const discover, request = dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest
	tests := []struct {
		name string
		msg  []byte
		want string
	}{
		{"no address", message(t, knownMAC, discover), "10.9.0.12:68 at 52:54:00:00:00:12"},
		{"broadcast", message(t, knownMAC, discover, dhcpv4.WithBroadcast(true)), "255.255.255.255:68 at ff:ff:ff:ff:ff:ff"},
		{"renewal", message(t, knownMAC, request, ciaddr("10.9.0.12")), "10.9.0.12:68 at 52:54:00:00:00:12"},
		{"somebody else's address in ciaddr", message(t, knownMAC, request, ciaddr("192.0.2.1"), wanted("10.9.0.12")), "10.9.0.12:68 at 52:54:00:00:00:12"},
		{"NAK", message(t, knownMAC, request, wanted("10.9.0.13")), "255.255.255.255:68 at ff:ff:ff:ff:ff:ff"},
		{"NAK in a renewal", message(t, knownMAC, request, ciaddr("10.9.0.13")), "255.255.255.255:68 at ff:ff:ff:ff:ff:ff"},
		{"relay agent", message(t, knownMAC, discover, dhcpv4.WithRelay(net.IPv4(10, 9, 0, 254))), "10.9.0.254:67 at "},
		{"relay agent elsewhere", message(t, knownMAC, discover, dhcpv4.WithRelay(net.IPv4(192, 0, 2, 1))), "nowhere"},
	}
	for _, tt := range tests {
		c := newCore(t, config(table()), true)
		got := "nowhere"
		if a := c.Answer4(noon, 0, tt.msg); a != nil {
			got = fmt.Sprintf("%s at %s", a.To, a.MAC)
		}
		if got != tt.want {
			t.Errorf("%s: to %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestEchoedOptions: RFC 6842 and RFC 3046.
func TestEchoedOptions(t *testing.T) {
	c := newCore(t, config(table()), true)
	id, info := []byte{1, 2, 3}, []byte{1, 1, 7}
	m, err := dhcpv4.FromBytes(c.Answer4(noon, 0, message(t, knownMAC, dhcpv4.MessageTypeDiscover, ask, dhcpv4.WithRelay(net.IPv4(10, 9, 0, 254)),
		dhcpv4.WithGeneric(dhcpv4.OptionClientIdentifier, id), dhcpv4.WithGeneric(dhcpv4.OptionRelayAgentInformation, info))).Payload)
	must(t, err)
	if got := m.Options.Get(dhcpv4.OptionClientIdentifier); string(got) != string(id) {
		t.Errorf("client identifier %x, want %x", got, id)
	}
	if got := m.Options.Get(dhcpv4.OptionRelayAgentInformation); string(got) != string(info) {
		t.Errorf("relay agent information %x, want %x", got, info)
	}
	if mtu := m.Options.Get(dhcpv4.OptionInterfaceMTU); string(mtu) != "\x23\x28" || m.HostName() != "node12" {
		t.Errorf("MTU %x, host name %q; want 2328 (9000), node12", mtu, m.HostName())
	}
}

func TestTwoServersWithOneTableAnswerTheSame(t *testing.T) {
	second := config(table())
	second.DHCP.Quarantine = nil // pools are not shared
	second.Ports[0].Addresses = []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24")}
	a, b := newCore(t, config(table()), true), newCore(t, second, true)
	for _, msg := range [][]byte{
		message(t, knownMAC, dhcpv4.MessageTypeDiscover),
		message(t, knownMAC, dhcpv4.MessageTypeRequest, wanted("10.9.0.12")),
		message(t, knownMAC, dhcpv4.MessageTypeRequest, wanted("10.9.0.13")),
	} {
		x, y := words(t, a.Answer4(noon, 0, msg)), words(t, b.Answer4(noon, 0, msg))
		if x != y {
			t.Errorf("one says %s, the other %s", x, y)
		}
	}
}

func TestOtherServersAreNamed(t *testing.T) {
	var log []string
	cfg := config(table())
	cfg.Logf = func(f string, args ...any) { log = append(log, fmt.Sprintf(f, args...)) }
	c := newCore(t, cfg, true)
	for i := range 5 {
		c.Answer4(noon.Add(time.Duration(i)*time.Second), 0, message(t, knownMAC, dhcpv4.MessageTypeRequest, server("10.66.0.1"), wanted("10.66.0.5")))
	}
	if len(log) != 1 || log[0] != "r07-u12 eth0 asks the DHCP server 10.66.0.1 for its lease" {
		t.Errorf("log %q", log)
	}
	if n := c.Counters(); n.OtherServer != 5 {
		t.Errorf("counted %d", n.OtherServer)
	}
	cfg.Ports = append(cfg.Ports, Port{Name: "eth1", Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24")}})
	two := newCore(t, cfg, true)
	if a := two.Answer4(noon, 1, message(t, knownMAC, dhcpv4.MessageTypeRequest, server("10.9.0.1"), wanted("10.9.0.12"))); a != nil || two.Counters().OtherServer != 0 {
		t.Errorf("this server's other port is asked: answered %s, counted %+v", words(t, a), two.Counters())
	}
	// Whoever makes up servers fills neither log nor memory.
	log = nil
	for i := range 100 {
		c.Answer4(noon.Add(time.Duration(10+i)*time.Second), 0, message(t, knownMAC, dhcpv4.MessageTypeRequest, server(fmt.Sprintf("10.67.0.%d", i+1)), wanted("10.66.0.5")))
	}
	if len(log) != 63 || len(c.others) != 64 {
		t.Errorf("%d servers were named, %d in all; want 63 and 64", len(log), len(c.others))
	}
	// An address in use is worth a line; a thousand in a second are not.
	log = nil
	for range 1000 {
		c.Answer4(noon.Add(time.Hour), 0, message(t, knownMAC, dhcpv4.MessageTypeDecline, server("10.9.0.1"), wanted("10.9.0.12")))
	}
	if len(log) != 1 || !strings.Contains(log[0], "somebody else uses its address 10.9.0.12") || c.Counters().Declined != 1000 {
		t.Errorf("log %q, counted %d", log, c.Counters().Declined)
	}
}

func TestConfigIsRefused(t *testing.T) {
	edit := func(f func(*Config)) Config {
		c := config(table())
		f(&c)
		return c
	}
	tests := []struct {
		name, want string
		cfg        Config
	}{
		{"nothing to serve", "nothing to serve", Config{}},
		{"no port", "no port", edit(func(c *Config) { c.Ports = nil })},
		{"MAC", "r07-u12 eth0: \"x\" is no MAC", edit(func(c *Config) { c.DHCP.Leases[0].MAC = "x" })},
		{"MAC twice", "belongs to r07-u12 eth0 too", edit(func(c *Config) { c.DHCP.Leases[1].MAC = knownMAC.String() })},
		{"address twice", "belongs to 52:54:00:00:00:12 too", edit(func(c *Config) { c.DHCP.Leases[1].Addresses = []string{"10.9.0.12/24"} })},
		{"address", "address \"x\"", edit(func(c *Config) { c.DHCP.Leases[0].Addresses = []string{"x"} })},
		{"gateway", "gateway \"x\"", edit(func(c *Config) { c.DHCP.Leases[0].Gateway = "x" })},
		{"pool", "no range", edit(func(c *Config) { c.DHCP.Quarantine.Last = "10.9.0.1" })},
		{"big pool", "more than 4096", edit(func(c *Config) { c.DHCP.Quarantine.Last = "10.250.0.0" })},
	}
	for _, tt := range tests {
		if _, err := New(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
}

package lldp

import (
	"strings"
	"testing"
)

func ip(octets ...byte) ID  { return ID{NetworkAddress, octets} }
func mac(octets ...byte) ID { return ID{MACAddress, octets} }
func name(s string) ID      { return ID{InterfaceName, []byte(s)} }
func local(s string) ID     { return ID{Local, []byte(s)} }

func TestEqual(t *testing.T) {
	for _, c := range []struct {
		a, b ID
		want bool
	}{
		{local("7"), local("7"), true},
		{local("7"), name("7"), false},
		{local("7"), local("07"), false},
		{name("Eth1/7"), name("eth1/7"), false},
		{name("Eth1/7"), name("Eth1/7\x00"), false},
		{mac(1, 2, 3, 4, 5, 6), mac(1, 2, 3, 4, 5, 6), true},
		{mac(1, 2, 3, 4, 5, 6), mac(1, 2, 3, 4, 5, 7), false},
		{mac(1, 2, 3, 4, 5, 6), ID{Local, []byte{1, 2, 3, 4, 5, 6}}, false},
		{ip(1, 10, 0, 0, 1), ip(1, 10, 0, 0, 1), true},
		{ip(1, 10, 0, 0, 1), ip(7, 10, 0, 0, 1), false},
	} {
		if got := c.a.Equal(c.b); got != c.want {
			t.Errorf("%s equal to %s: got %t", c.a, c.b, got)
		}
		if got := c.b.Equal(c.a); got != c.want {
			t.Errorf("%s equal to %s: got %t", c.b, c.a, got)
		}
	}
}

func TestExpected(t *testing.T) {
	m := mac(0, 0x11, 0x22, 0xaa, 0xbb, 0xcc)
	v6 := ip(append([]byte{2, 0xfd}, append(make([]byte, 14), 7)...)...)
	for _, c := range []struct {
		text string
		id   ID
		want bool
	}{
		{"12", local("12"), true},
		{"12", name("12"), true},
		{"12", ID{InterfaceAlias, []byte("12")}, true},
		{"12", local("121"), false},
		{"12", local("1"), false},
		{"tor:7", local("tor:7"), true}, // no word: bare text
		{"Eth1/7", name("eth1/7"), false},
		{"local:12", local("12"), true},
		{"local:12", name("12"), false},
		{"ifname:Ethernet7", name("Ethernet7"), true},
		{"ifname:Ethernet7", ID{InterfaceAlias, []byte("Ethernet7")}, false},
		{"ifalias:local:7", ID{InterfaceAlias, []byte("local:7")}, true},
		{"circuit:a", ID{AgentCircuit, []byte("a")}, true},
		{"chassis:a", ID{ChassisComponent, []byte("a")}, true},
		{"port:a", ID{PortComponent, []byte("a")}, true},
		{"port:a", ID{ChassisComponent, []byte("a")}, false},
		{"mac:00:11:22:aa:bb:cc", m, true},
		{"mac:00-11-22-AA-BB-CC", m, true},
		{"mac:0011.22aa.bbcc", m, true},
		{"00:11:22:AA:BB:CC", m, true},
		{"00:11:22:aa:bb:cd", m, false},
		{"00:11:22:aa:bb:cc", local("00:11:22:aa:bb:cc"), true},
		{"mac:00:11:22:aa:bb:cc", local("00:11:22:aa:bb:cc"), false},
		{"ip:10.9.0.7", ip(1, 10, 9, 0, 7), true},
		{"10.9.0.7", ip(1, 10, 9, 0, 7), true},
		{"10.9.0.7", ip(7, 10, 9, 0, 7), false},
		{"ip:FD00:0::7", v6, true},
		{"fd00::8", v6, false},
		{"ip:family-6-0x0102", ip(6, 1, 2), true},
		{"local:0x0007", local("\x00\x07"), true},
		{"local:0x0A", local("\n"), true},
		{"local:0x0007", local("\x07"), false},
		{"local:0x37", local("7"), true},
		{"0x0007", local("\x00\x07"), true},
		{"local:0xten", local("0xten"), true}, // no hex: the characters
		{"local:0x07", local("0x07"), false},
	} {
		want, err := ParseID(c.text)
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		if got := want.Match(c.id); got != c.want {
			t.Errorf("%q expects %q: got %t, want %t", c.text, c.id, got, c.want)
		}
	}
	if (Expected{}).Match(local("")) {
		t.Error("no expectation matches an empty ID")
	}
}

func TestParseIDRefuses(t *testing.T) {
	for _, text := range []string{
		"", "local:", "ifname:", "mac:", "mac:00:11:22:33:44", "mac:00:11:22:33:44:55:66:77", "mac:Eth1/7",
		"ip:", "ip:10.9.0.256", "ip:fe80::1%eth0", "ip:tor-7", "local:0x", "local:" + strings.Repeat("a", 256),
	} {
		if got, err := ParseID(text); err == nil {
			t.Errorf("%q: got %q", text, got)
		}
	}
}

// TestExact shows that what a capture writes into a slice expects that ID, and
// none of the others.
func TestExact(t *testing.T) {
	ids := []ID{
		local("7"), name("7"), ID{InterfaceAlias, []byte("7")}, ID{ChassisComponent, []byte("7")}, ID{PortComponent, []byte("7")},
		ID{AgentCircuit, []byte("7")}, local("\x07"), local("0x07"), local("0X07"), local("7\x00"), local(" 7"), local("mac:7"), local("\xff"),
		mac(0, 0, 0, 0, 0, 7), local("00:00:00:00:00:07"), local("\x00\x00\x00\x00\x00\x07"),
		ip(1, 0, 0, 0, 7), ip(2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 7), ip(6, 0, 0, 0, 7), ip(16, 7),
	}
	for _, from := range ids {
		want, err := ParseID(from.Exact())
		if err != nil {
			t.Errorf("%q: %v", from.Exact(), err)
			continue
		}
		if want.String() != from.String() {
			t.Errorf("%q is shown as %q, the ID as %q", from.Exact(), want, from)
		}
		for _, id := range ids {
			if got := want.Match(id); got != from.Equal(id) {
				t.Errorf("%q and %q: got %t", from.Exact(), id, got)
			}
		}
	}
}

func TestSubtypeString(t *testing.T) {
	for s, want := range map[Subtype]string{MACAddress: "mac", Local: "local", 0: "subtype 0", 99: "subtype 99"} {
		if got := s.String(); got != want {
			t.Errorf("%d: got %q, want %q", uint8(s), got, want)
		}
	}
}

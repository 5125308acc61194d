package dhcpserve

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
)

// endless cuts a message off before its End option.
func endless(msg []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimRight(msg, "\x00"), []byte{endCode})
}

// TestReadAsOthersDo: what dnsmasq and Kea answer.
func TestReadAsOthersDo(t *testing.T) {
	const (
		offer = "OFFER 10.9.0.12/24 24h0m0s by 10.9.0.254"
		ack   = "ACK 10.9.0.12/24 24h0m0s by 10.9.0.254"
	)
	discover := message(t, knownMAC, dhcpv4.MessageTypeDiscover)
	request := message(t, knownMAC, dhcpv4.MessageTypeRequest, wanted("10.9.0.12"), server("10.9.0.1"))
	// overload is that request, with all but the message's type in another field.
	overload := func(bits byte, at int) []byte {
		out := append(bytes.Clone(request[:atOptions]), 53, 1, byte(dhcpv4.MessageTypeRequest), 52, 1, bits, endCode)
		copy(out[at:], []byte{50, 4, 10, 9, 0, 12, 54, 4, 10, 9, 0, 1, endCode})
		return out
	}
	tests := []struct {
		name string
		msg  []byte
		want string
	}{
		{"no End option", endless(discover), offer},
		{"padding and no End option", append(endless(discover), 0, 0, 0), offer},
		{"an option without its length", append(endless(discover), 61), offer},
		{"an option that is cut off", append(endless(discover), 61, 7, 1), offer},
		{"behind the End option", append(bytes.Clone(discover), 50, 9, 1), offer},
		{"longer than a frame", append(append(endless(discover), make([]byte, maxMessage)...), endCode), offer},
		{"message type of two octets", append(endless(discover), 53, 1, 1), offer},
		{"server named twice", append(endless(request), 54, 4, 10, 9, 0, 2), ack},
		{"another server named twice", append(endless(message(t, knownMAC, dhcpv4.MessageTypeRequest, wanted("10.9.0.9"), server("10.9.0.2"))), 54, 4, 10, 9, 0, 2), "silence"},
		{"options in file", overload(overloadFile, atFile), ack},
		{"options in sname", overload(overloadSname, atSname), ack},
		{"options in file, not said", overload(0, atFile), "NAK"},
	}
	for _, tt := range tests {
		if got := words(t, newCore(t, config(table()), true).Answer4(noon, 0, tt.msg)); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestReadAsOthersDo6: an option that this server does not use spoils nothing.
func TestReadAsOthersDo6(t *testing.T) {
	broken := func(code dhcpv6.OptionCode) dhcpv6.Option {
		return &dhcpv6.OptionGeneric{OptionCode: code, OptionData: []byte{9}}
	}
	tests := []struct {
		name string
		code dhcpv6.OptionCode
		want string
	}{
		{"elapsed time", dhcpv6.OptionElapsedTime, "ADVERTISE fd00:9::12 24h0m0s"},
		{"options asked for", dhcpv6.OptionORO, "ADVERTISE fd00:9::12 24h0m0s"},
		{"domain name", dhcpv6.OptionFQDN, "ADVERTISE fd00:9::12 24h0m0s"},
		{"identity association", dhcpv6.OptionIANA, "silence"},
	}
	for _, tt := range tests {
		msg := message6(t, dhcpv6.MessageTypeSolicit, ia(), option(broken(tt.code))).ToBytes()
		if got := words6(t, newCore(t, config(table()), true).Answer6(noon, 0, fromKnown, group6, msg)); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestReadAsOthersDo6Tail: what is left at the end and is no whole option.
func TestReadAsOthersDo6Tail(t *testing.T) {
	msg := message6(t, dhcpv6.MessageTypeSolicit, ia()).ToBytes()
	for _, tail := range [][]byte{{0}, {0, 0, 0}, {0, 8, 0, 2, 1}} {
		if got := words6(t, newCore(t, config(table()), true).Answer6(noon, 0, fromKnown, group6, append(bytes.Clone(msg), tail...))); got != "ADVERTISE fd00:9::12 24h0m0s" {
			t.Errorf("%x at the end: got %s", tail, got)
		}
	}
}

// TestUnreadableIsLogged once a minute, and does not take the log from others.
func TestUnreadableIsLogged(t *testing.T) {
	var log []string
	cfg := config(table())
	cfg.Logf = func(f string, args ...any) { log = append(log, fmt.Sprintf(f, args...)) }
	c := newCore(t, cfg, true)
	for i := range 59 {
		c.Answer4(noon.Add(time.Duration(i)*time.Second), 0, []byte("not DHCP"))
		c.Answer6(noon.Add(time.Duration(i)*time.Second), 0, fromKnown, group6, []byte{1})
	}
	c.Answer4(noon.Add(59*time.Second), 0, message(t, knownMAC, dhcpv4.MessageTypeDecline, server("10.9.0.1"), wanted("10.9.0.12")))
	c.Answer6(noon.Add(time.Minute), 0, fromKnown, group6, []byte{1})
	want := []string{"a DHCP message on eth0 cannot be read (1 so far): ", "r07-u12 eth0 says ", "a DHCP message on eth0 cannot be read (119 so far): shorter than"}
	if len(log) != len(want) {
		t.Fatalf("log %q", log)
	}
	for i, w := range want {
		if !strings.HasPrefix(log[i], w) {
			t.Errorf("line %d: got %q, want %q…", i, log[i], w)
		}
	}
}

// TestStrangeRelayIsNamed once, and not answered.
func TestStrangeRelayIsNamed(t *testing.T) {
	var log []string
	cfg := config(table())
	cfg.Logf = func(f string, args ...any) { log = append(log, fmt.Sprintf(f, args...)) }
	c := newCore(t, cfg, true)
	by := func(relay string) []byte {
		return message(t, knownMAC, dhcpv4.MessageTypeDiscover, dhcpv4.WithRelay(netip.MustParseAddr(relay).AsSlice()))
	}
	for i, relay := range []string{"10.9.0.254", "10.255.0.7", "10.255.0.7", "10.255.0.8"} {
		want := "silence"
		if i == 0 {
			want = "OFFER 10.9.0.12/24 24h0m0s by 10.9.0.254"
		}
		if got := words(t, c.Answer4(noon.Add(time.Duration(i)*time.Second), 0, by(relay))); got != want {
			t.Errorf("by %s: got %s, want %s", relay, got, want)
		}
	}
	want := []string{"the relay agent 10.255.0.7, which 52:54:00", "the relay agent 10.255.0.8, which 52:54:00"}
	if len(log) != len(want) || !strings.HasPrefix(log[0], want[0]) || !strings.HasPrefix(log[1], want[1]) {
		t.Errorf("log %q, want lines with %q", log, want)
	}
}

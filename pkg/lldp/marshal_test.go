package lldp

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMarshal(t *testing.T) {
	long := strings.Repeat("x", 255)
	for _, c := range []struct {
		name string
		a    Announcement
		want vector
	}{
		{"held", Announcement{Device: "r07-u12", Interface: "eth1", State: "HOLD", Code: "LF-LINK-03"},
			vector{Chassis: "local r07-u12", Port: "ifname eth1", TTL: 120, SystemName: "r07-u12", SystemDescription: "landfall HOLD LF-LINK-03"}},
		{"no code", Announcement{Device: "r07-u12", Interface: "eth1", State: "links"},
			vector{Chassis: "local r07-u12", Port: "ifname eth1", TTL: 120, SystemName: "r07-u12", SystemDescription: "landfall links"}},
		{"nothing to say", Announcement{Device: "r07-u12", Interface: "eth1"},
			vector{Chassis: "local r07-u12", Port: "ifname eth1", TTL: 120, SystemName: "r07-u12", SystemDescription: "landfall"}},
		{"leaving", Announcement{Device: "r07-u12", Interface: "eth1", State: "HOLD", Leaving: true},
			vector{Chassis: "local r07-u12", Port: "ifname eth1"}},
		{"all of greatest length", Announcement{Device: long, Interface: long, State: long, Code: long},
			vector{Chassis: "local " + long, Port: "ifname " + long, TTL: 120, SystemName: long, SystemDescription: ("landfall " + long)[:255]}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := Marshal(c.a)
			if err != nil {
				t.Fatal(err)
			}
			d, err := Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, shown(d)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestMarshalOctets pins the octets, by hand from the standard's figures.
func TestMarshalOctets(t *testing.T) {
	b, err := Marshal(Announcement{Device: "d1", Interface: "e0", State: "ok"})
	if err != nil {
		t.Fatal(err)
	}
	want := "0203" + "07" + "6431" + // chassis ID, locally assigned
		"0403" + "05" + "6530" + // port ID, interface name
		"0602" + "0078" + // 120 s
		"0a02" + "6431" + // system name
		"0c0b" + "6c616e6466616c6c206f6b" + // system description
		"0000"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestMarshalRefuses(t *testing.T) {
	for name, a := range map[string]Announcement{
		"no device":     {Interface: "eth1"},
		"no interface":  {Device: "r07-u12"},
		"long device":   {Device: strings.Repeat("x", 256), Interface: "eth1"},
		"long port":     {Device: "r07-u12", Interface: strings.Repeat("x", 256)},
		"control":       {Device: "r07-u12", Interface: "eth1", State: "a\nb"},
		"no ASCII code": {Device: "r07-u12", Interface: "eth1", Code: "ü"},
	} {
		if _, err := Marshal(a); err == nil {
			t.Errorf("%s: announced", name)
		}
	}
}

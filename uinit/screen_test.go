package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/report"
)

// TestHoldsFitAConsole shows the hold of every code, and the longest one of
// links, on a console of 80 columns and 25 lines.
func TestHoldsFitAConsole(t *testing.T) {
	end := func(device, port string) linkcheck.End { return linkcheck.End{Device: device, Interface: port} }
	var swapped, dead []linkcheck.Status
	for i := range 12 {
		s := linkcheck.Status{
			Link:    linkcheck.Link{Interface: fmt.Sprintf("eth%d", i), Peer: end(fmt.Sprintf("r07-u%02d", i+13), "enp65s0f0np0"), Required: true},
			Carrier: true,
		}
		s.Verdict = linkcheck.Silent
		dead = append(dead, s)
		s.Verdict, s.Seen, s.Belongs = linkcheck.WrongPort, end(s.Peer.Device, "enp65s0f1np1"), end("r08-u40", "enp65s0f1np1")
		s.LLDP, s.LLDPSeen, s.LLDPWant = linkcheck.LLDPMismatch, "tor-7 port Ethernet1/14", "port Ethernet1/12"
		swapped = append(swapped, s)
	}
	screens := map[string]*report.Problem{
		"twelve wrong ports": linkcheck.Worst(swapped), "twelve silent neighbors": linkcheck.Worst(dead), "one wrong port": linkcheck.Worst(swapped[:1]),
		"one silent neighbor": linkcheck.Worst(dead[:1]),
		"the DHCP device waits": linkcheck.DHCPWaits([]linkcheck.Status{{Link: linkcheck.Link{Interface: "enp65s0f0np0",
			Peer: end("r07-u01", "enp65s0f0np0")}, Verdict: linkcheck.Proved}}, "r07-u01"),
	}
	for _, info := range report.Codes() {
		screens[string(info.Code)] = &report.Problem{Code: info.Code, What: strings.Repeat("what is wrong here, ", 8)}
	}
	for name, p := range screens {
		for _, id := range []string{"r07-u12", "region-north-rack-07-unit-12"} {
			m, printed := testMachine(t, "/")
			m.name, m.serial = id, "CZ2342K7"
			m.show(p, 83*time.Minute+12*time.Second, 14500*time.Millisecond)
			text := printed()
			t.Logf("%s:\n%s", name, text)
			lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
			if len(lines) > 25 {
				t.Errorf("%s: %d lines", name, len(lines))
			}
			for _, l := range lines {
				if utf8.RuneCountInString(l) > columns {
					t.Errorf("%s: a line of %d characters: %s", name, utf8.RuneCountInString(l), l)
				}
			}
		}
	}
}

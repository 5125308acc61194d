package linkcheck_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// TestProblem holds what a technician reads in a hold, for each verdict.
func TestProblem(t *testing.T) {
	t.Parallel()
	e := fabric.E
	link := linkcheck.Link{Interface: "eth1", Peer: e("r07-u14", "eth2"), Required: true}
	for _, tt := range []struct {
		name     string
		status   linkcheck.Status
		code     report.Code
		what, do string
	}{
		{"proved", linkcheck.Status{Verdict: linkcheck.ProvedOK}, "", "", ""},
		{
			"no carrier", linkcheck.Status{Verdict: linkcheck.Unknown}, report.LinkNoCarrier,
			"eth1 has no carrier; r07-u14 eth2 belongs at its other end",
			"plug in the cable between eth1 and r07-u14 eth2; is r07-u14 on?",
		},
		{
			"asked", linkcheck.Status{Verdict: linkcheck.Unknown, Carrier: true}, report.LinkSilent,
			"r07-u14 eth2 has not answered on eth1 yet",
			"power on r07-u14; follow the cable in eth1: it belongs in r07-u14 eth2",
		},
		{
			"silent", linkcheck.Status{Verdict: linkcheck.Silent, Carrier: true}, report.LinkSilent,
			"nothing answers on eth1; r07-u14 eth2 belongs there",
			"power on r07-u14; follow the cable in eth1: it belongs in r07-u14 eth2",
		},
		{
			"swapped here", linkcheck.Status{Verdict: linkcheck.WrongPort, Carrier: true, Seen: e("r07-u14", "eth3"), Ours: "eth2", Belongs: e("r07-u12", "eth2")},
			report.LinkWrongPort,
			"eth1 leads to r07-u14 eth3, belongs in r07-u14 eth2",
			"move the cable in eth1 to eth2, where r07-u14 eth3 belongs",
		},
		{
			"swapped there", linkcheck.Status{Verdict: linkcheck.WrongPort, Carrier: true, Seen: e("r07-u14", "eth3"), Belongs: e("r07-u15", "eth1")},
			report.LinkWrongPort,
			"eth1 leads to r07-u14 eth3, belongs in r07-u14 eth2; r07-u15 eth1 belongs in r07-u14 eth3",
			"at r07-u14, swap the cables in eth2 and eth3 (r07-u15 is the other half)",
		},
		{
			"swapped there, on a switch", linkcheck.Status{
				Verdict: linkcheck.WrongPort, Carrier: true, Seen: e("r07-u14", "eth3"),
				LLDP: linkcheck.LLDPMismatch, LLDPSeen: "tor-7 port 14", LLDPWant: "port 12",
			},
			report.LinkWrongPort,
			"eth1 leads to r07-u14 eth3, belongs in r07-u14 eth2\neth1 is on tor-7 port 14, belongs on port 12",
			"move the far end of the cable in eth1 from r07-u14 eth3 to r07-u14 eth2",
		},
		{
			"wrong device", linkcheck.Status{Verdict: linkcheck.WrongDevice, Carrier: true, Seen: e("r08-u01", "eth2"), Belongs: e("r08-u02", "eth1")},
			report.LinkWrongDevice,
			"eth1 leads to what says it is r08-u01 eth2; r07-u14 eth2 belongs there; r08-u02 eth1 belongs in r08-u01 eth2",
			"move the far end of the cable in eth1 to r07-u14 eth2",
		},
		{
			"loop", linkcheck.Status{Verdict: linkcheck.WrongDevice, Carrier: true, Seen: e("r07-u12", "eth0")},
			report.LinkWrongDevice,
			"eth1 leads back to eth0 of this machine; r07-u14 eth2 belongs there",
			"move the far end of the cable in eth1 to r07-u14 eth2",
		},
		{
			"foreign", linkcheck.Status{Verdict: linkcheck.Foreign, Carrier: true, Seen: e("r01-u01", "eth0"), Region: "lon2"},
			report.LinkForeign,
			"eth1 leads to region lon2, to what says it is r01-u01 eth0; r07-u14 eth2 of this region belongs there",
			"move the far end of the cable in eth1 to r07-u14 eth2",
		},
		{
			"disagrees", linkcheck.Status{Verdict: linkcheck.Disagrees, Carrier: true, Seen: e("r07-u14", "eth2"), Generation: 4, Own: 5},
			report.LinkDisagrees,
			"eth1 leads to r07-u14 eth2, as it should, but that one's slice (generation 4; ours has 5) expects nobody there",
			"",
		},
		{
			"another TPM", linkcheck.Status{Verdict: linkcheck.BadSignature, Carrier: true, Seen: e("r07-u14", "eth2"), Err: fmt.Errorf("%w: x", linkcheck.ErrAK)},
			report.LinkBadSignature,
			"what says on eth1 that it is r07-u14 eth2 cannot prove it: another TPM than the slice's signs for it",
			"",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.status.Link, tt.status.Device = link, "r07-u12"
			p := tt.status.Problem()
			if p == nil {
				p = &report.Problem{}
			}
			if d := cmp.Diff([]string{string(tt.code), tt.what, tt.do}, []string{string(p.Code), p.What, p.Do}); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// TestWorst puts several links into one hold: swapped cables are one repair.
func TestWorst(t *testing.T) {
	t.Parallel()
	e := fabric.E
	status := func(iface string, v linkcheck.Verdict, change func(s *linkcheck.Status)) linkcheck.Status {
		s := linkcheck.Status{
			Link:    linkcheck.Link{Interface: iface, Peer: e("r07-u1"+iface[3:], "eth0"), Required: true},
			Verdict: v, Carrier: true,
		}
		if change != nil {
			change(&s)
		}
		return s
	}
	all := []linkcheck.Status{
		status("eth0", linkcheck.Silent, nil),
		status("eth1", linkcheck.WrongPort, func(s *linkcheck.Status) { s.Seen, s.Ours = e("r07-u12", "eth0"), "eth2" }),
		status("eth2", linkcheck.WrongPort, func(s *linkcheck.Status) { s.Seen, s.Ours = e("r07-u11", "eth0"), "eth1" }),
		status("eth3", linkcheck.ProvedOK, nil),
		status("eth4", linkcheck.Silent, func(s *linkcheck.Status) { s.Required = false }),
		status("eth5", linkcheck.Foreign, func(s *linkcheck.Status) { s.Waiver = "dead" }),
		status("eth6", linkcheck.ProvedOK, func(s *linkcheck.Status) {
			s.LLDP, s.LLDPSeen, s.LLDPWant = linkcheck.LLDPMismatch, "tor-7 port 14", "port 12"
		}),
	}
	p := linkcheck.Worst(all)
	what := "eth1 leads to r07-u12 eth0, belongs in r07-u11 eth0\n" +
		"eth2 leads to r07-u11 eth0, belongs in r07-u12 eth0\n" +
		"nothing answers on eth0; r07-u10 eth0 belongs there"
	do := "swap the cables in eth1 and eth2 of this machine\n" +
		"power on r07-u10; follow the cable in eth0: it belongs in r07-u10 eth0"
	if p == nil || p.Code != report.LinkWrongPort || p.What != what || p.Do != do {
		t.Errorf("got %+v", p)
	}
	var warned []string
	for _, w := range linkcheck.Warnings(all) {
		warned = append(warned, w.Error())
	}
	if d := cmp.Diff([]string{
		"LF-LINK-01: nothing answers on eth4; r07-u14 eth0 belongs there", "LF-LINK-08: eth6 is on tor-7 port 14, belongs on port 12",
	}, warned); d != "" {
		t.Errorf("warnings:\n%s", d)
	}
	if p := linkcheck.Worst(all[3:]); p != nil {
		t.Errorf("only links that do not count are bad, and a hold says %v", p)
	}
}

// TestWorstFits holds 40 dead links to what a console shows.
func TestWorstFits(t *testing.T) {
	t.Parallel()
	var all []linkcheck.Status
	for i := range 40 {
		all = append(all, linkcheck.Status{
			Link:    linkcheck.Link{Interface: fmt.Sprintf("eth%d", i), Peer: fabric.E(fmt.Sprintf("r07-u%02d", i), "eth0"), Required: true},
			Verdict: linkcheck.Unknown,
		})
	}
	p := linkcheck.Worst(all)
	if n := strings.Count(p.What, "\n") + strings.Count(p.Do, "\n"); n > 11 || !strings.HasSuffix(p.What, "and 32 more links") {
		t.Errorf("%d lines:\n%s\n%s", n, p.What, p.Do)
	}
}

func TestPass(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		links            string
		percent          int
		proved, required int
		want             bool
	}{
		{"required", 0, 3, 4, false},
		{"required", 0, 4, 4, true},
		{"required", 0, 0, 0, true},
		{"advisory", 0, 0, 4, true},
		{"fraction", 75, 3, 4, true},
		{"fraction", 76, 3, 4, false},
		{"fraction", 100, 0, 0, true},
		{"", 0, 3, 4, false},
	} {
		got := linkcheck.Pass(snapshot.Policy{Links: tt.links, LinksPercent: tt.percent}, linkcheck.Summary{Proved: tt.proved, Required: tt.required})
		if got != tt.want {
			t.Errorf("%s %d%%: %d of %d: %t, want %t", tt.links, tt.percent, tt.proved, tt.required, got, tt.want)
		}
	}
}

func TestDHCPWaits(t *testing.T) {
	t.Parallel()
	s := linkcheck.Status{Link: linkcheck.Link{Interface: "eth0", Peer: fabric.E("dhcp-1", "eth3")}, Verdict: linkcheck.Proved}
	if p := linkcheck.DHCPWaits([]linkcheck.Status{s}, "dhcp-1"); p == nil || p.Code != report.LinkDHCPWaits || !strings.Contains(p.What, "dhcp-1 eth3") {
		t.Errorf("pending: %+v", p)
	}
	s.Verdict = linkcheck.ProvedOK
	if p := linkcheck.DHCPWaits([]linkcheck.Status{s}, "dhcp-1"); p != nil {
		t.Errorf("ok, and it waits: %v", p)
	}
}

// TestReport shows that the fleet can read what a device reports, whatever its
// neighbors and its slice said.
func TestReport(t *testing.T) {
	t.Parallel()
	all := []linkcheck.Status{
		{
			Link:    linkcheck.Link{Interface: "eth0", Peer: fabric.E("r07-u13", "eth0"), Required: true},
			Verdict: linkcheck.WrongPort, Carrier: true, Seen: fabric.E("r07-u13", "eth1"),
			LLDP: linkcheck.LLDPMismatch, LLDPSeen: "tor-7 port 14", LLDPWant: "port 12",
		},
		{
			Link:    linkcheck.Link{Interface: "eth1", Peer: fabric.E("r07-u14", "eth0"), Required: true, Waiver: "Rückläufer"},
			Verdict: linkcheck.Silent, Carrier: true,
		},
		{Link: linkcheck.Link{Interface: "eth2", Peer: fabric.E("r07-u15", "eth0"), Required: true}, Verdict: linkcheck.Proved, LLDP: linkcheck.LLDPMatch},
	}
	r := linkcheck.Report("r07-u12", 3, all, linkcheck.Summary{Required: 2, Proved: 1})
	b, err := r.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := report.ParseLinkReport(b)
	if err != nil {
		t.Fatal(err)
	}
	want := &report.LinkReport{Type: report.LinkReportType, Device: "r07-u12", Slice: 3, Required: 2, Proved: 1, Links: []report.LinkVerdict{
		{
			Interface: "eth0", Peer: "r07-u13", PeerInterface: "eth0", Required: true, Verdict: "wrong-port", Code: report.LinkWrongPort,
			What: "eth0 leads to r07-u13 eth1, belongs in r07-u13 eth0; eth0 is on tor-7 port 14, belongs on port 12",
			Seen: "r07-u13 eth1", LLDP: "mismatch", LLDPSeen: "tor-7 port 14",
		},
		{
			Interface: "eth1", Peer: "r07-u14", PeerInterface: "eth0", Waived: "R?ckl?ufer", Verdict: "silent", Code: report.LinkSilent,
			What: "nothing answers on eth1; r07-u14 eth0 belongs there",
		},
		{Interface: "eth2", Peer: "r07-u15", PeerInterface: "eth0", Required: true, Verdict: "proved", LLDP: "match"},
	}}
	if d := cmp.Diff(want, got); d != "" || got.Clean() {
		t.Errorf("clean: %t\n%s", got.Clean(), d)
	}
}

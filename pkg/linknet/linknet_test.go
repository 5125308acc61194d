package linknet_test

import (
	"crypto/rand"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/linknet"
	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/report"
)

// TestBothEnds proves a link between two ports that were down, at once: there
// is no duplicate address detection to wait for. Then each hears that the other
// is ok, and may leave.
func TestBothEnds(t *testing.T) {
	a, b := newBoard(t), newBoard(t)
	macA, macB := mac(t), mac(t)
	plug(t, "near", "far", macA, macB)
	na := start(t, config(t, a, "a", macA, to(b, "b")))
	nb := start(t, config(t, b, "b", macB, to(a, "a")))
	await(t, na, 10*time.Second, linkcheck.Proved)
	for _, port := range []string{"near", "far"} {
		if probes, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + port + "/dad_transmits"); err != nil || string(probes) != "0\n" {
			t.Errorf("%s sends %q probes for duplicates before it may be used, %v", port, probes, err)
		}
	}
	await(t, nb, 10*time.Second, linkcheck.Proved)
	na.SetState(linkcheck.OK)
	await(t, nb, 10*time.Second, linkcheck.ProvedOK)
	if s := nb.Summary(); !s.Complete() || !s.AllReady() {
		t.Errorf("summary of b: %+v", s)
	}
	if na.Done() || nb.Done() {
		t.Error("one would leave before the other knows that it is ok")
	}
	nb.SetState(linkcheck.OK)
	await(t, na, 10*time.Second, linkcheck.ProvedOK)
	eventually(t, 10*time.Second, "both are ok, have lingered and may leave", func() bool { return na.Done() && nb.Done() })
	must(t, na.Close())
	if s := na.Links()[0]; s.Verdict != linkcheck.ProvedOK || !s.Carrier {
		t.Errorf("after Close: %+v", s)
	}
	// A socket that is closed answers no more.
	if u, err := netconf.ListenUDP(linkOf(t, "near"), linkcheck.Port); err != nil {
		t.Error(err)
	} else {
		_ = u.Close()
	}
}

func linkOf(t testing.TB, name string) netconf.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return netconf.Link{Index: l.Attrs().Index, Name: name, MAC: l.Attrs().HardwareAddr}
}

// TestLatePort starts before there is a port, and follows it by its MAC address
// through a new name, its end and its return.
func TestLatePort(t *testing.T) {
	a, b := lightBoard(t), lightBoard(t)
	macA, macB := mac(t), mac(t)
	na := start(t, config(t, a, "a", macA, to(b, "b")))
	start(t, config(t, b, "b", macB, to(a, "a")))
	if p := na.Ports(); len(p) != 1 || p[0].Kernel != "" {
		t.Fatalf("ports before there are any: %+v", p)
	}
	plug(t, "near", "far", macA, macB)
	await(t, na, 10*time.Second, linkcheck.Proved)

	l, err := netlink.LinkByName("near")
	must(t, err)
	must(t, netlink.LinkSetDown(l))
	await(t, na, 5*time.Second, linkcheck.Unknown)
	if s := na.Links()[0]; s.Carrier || s.Problem().Code != report.LinkNoCarrier {
		t.Errorf("without a carrier: %+v", s)
	}
	must(t, netlink.LinkSetName(l, "other"))
	must(t, netlink.LinkSetUp(l))
	await(t, na, 10*time.Second, linkcheck.Proved)
	if p := na.Ports()[0]; p.Kernel != "other" || !p.Carrier || !p.Usable {
		t.Errorf("under another name: %+v", p)
	}

	must(t, netlink.LinkDel(l))
	await(t, na, 5*time.Second, linkcheck.Unknown)
	if p := na.Ports()[0]; p.Kernel != "" || p.Carrier {
		t.Errorf("pulled out: %+v", p)
	}
	plug(t, "third", "far3", macA, macB)
	await(t, na, 10*time.Second, linkcheck.Proved)
}

// TestAnotherTPM has a neighbor whose board was replaced: the slice names
// another AK.
func TestAnotherTPM(t *testing.T) {
	a, b, other := newBoard(t), newBoard(t), newBoard(t)
	macA, macB := mac(t), mac(t)
	plug(t, "near", "far", macA, macB)
	na := start(t, config(t, a, "a", macA, to(other, "b")))
	nb := start(t, config(t, b, "b", macB, to(a, "a")))
	await(t, na, 10*time.Second, linkcheck.BadSignature)
	await(t, nb, 10*time.Second, linkcheck.Proved)
	s := na.Links()[0]
	if !errors.Is(s.Err, linkcheck.ErrAK) || s.Problem().Code != report.LinkBadSignature || na.Summary().Proved != 0 {
		t.Errorf("got %+v, %v", s, s.Problem())
	}
}

// TestProduction answers by a capped TPM, and asks nothing.
func TestProduction(t *testing.T) {
	a, b := newBoard(t), newBoard(t)
	b.cap()
	macA, macB := mac(t), mac(t)
	plug(t, "near", "far", macA, macB)
	na := start(t, config(t, a, "a", macA, to(b, "b")))
	c := config(t, b, "b", macB, to(a, "a"))
	c.State = linkcheck.Production
	nb := start(t, c)
	await(t, na, 10*time.Second, linkcheck.InProduction)
	if n := nb.Counters(); n.Asked != 0 || n.Answered == 0 {
		t.Errorf("production asked %d times and answered %d times", n.Asked, n.Answered)
	}
}

// TestBootingFromCappedTPM: production's root must not pass as a booting image.
func TestBootingFromCappedTPM(t *testing.T) {
	a, b := lightBoard(t), lightBoard(t)
	b.cap()
	macA, macB := mac(t), mac(t)
	plug(t, "near", "far", macA, macB)
	na := start(t, config(t, a, "a", macA, to(b, "b")))
	start(t, config(t, b, "b", macB, to(a, "a")))
	await(t, na, 10*time.Second, linkcheck.BadSignature)
	if s := na.Links()[0]; !errors.Is(s.Err, linkcheck.ErrState) {
		t.Errorf("got %+v", s)
	}
}

// TestHopLimit holds that nothing is taken that a router may have passed on.
func TestHopLimit(t *testing.T) {
	a, b := lightBoard(t), lightBoard(t)
	macA, macB := mac(t), mac(t)
	plug(t, "near", "far", macA, macB)
	must(t, netconf.Up(linkOf(t, "far"), 0))
	na := start(t, config(t, a, "a", macA, to(b, "b")))
	eventually(t, 5*time.Second, "the near end has a link-local address", func() bool { return na.Ports()[0].Usable })
	eventually(t, 5*time.Second, "the far end has a link-local address", func() bool {
		all, err := netconf.Addresses(linkOf(t, "far"))
		return len(all) == 1 && err == nil
	})
	ask := linkcheck.Request{
		Region: "sea1", From: linkcheck.End{Device: "b", Interface: "eth0"}, To: linkcheck.End{Device: "a", Interface: "eth0"},
	}
	_, _ = rand.Read(ask.Nonce[:])
	request, err := ask.Marshal()
	must(t, err)
	far, err := netlink.LinkByName("far")
	must(t, err)
	must(t, netlink.AddrAdd(far, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("fd00::2"), Mask: net.CIDRMask(64, 128)}, Flags: 0x02})) // IFA_F_NODAD
	all := &net.UDPAddr{IP: netconf.AllNodes().AsSlice(), Port: linkcheck.Port, Zone: strconv.Itoa(far.Attrs().Index)}
	for _, tt := range []struct {
		name, source              string
		hops                      int
		answered, distant, others uint64
	}{
		{"through a router", "", 64, 0, 1, 0},
		{"one router", "", 254, 0, 2, 0},
		{"from a stranger's address", "fd00::2", 255, 0, 3, 0},
		{"on the link", "", 255, 1, 3, 0},
	} {
		conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.ParseIP(tt.source)})
		must(t, err)
		setHops(t, conn, far.Attrs().Index, tt.hops)
		before := na.Counters()
		_, err = conn.WriteToUDP(request, all)
		must(t, err)
		var got linknet.Counters
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if got = na.Counters(); got.Answered+got.Distant != before.Answered+before.Distant {
				break
			}
		}
		must(t, conn.Close())
		if got.Answered != tt.answered || got.Distant != tt.distant {
			t.Errorf("%s: answered %d, dropped %d as distant, want %d and %d", tt.name, got.Answered, got.Distant, tt.answered, tt.distant)
		}
	}
}

// TestSwap swaps two cables of a machine, has the hold say so, and mends it.
func TestSwap(t *testing.T) {
	hub, left, right := lightBoard(t), lightBoard(t), lightBoard(t)
	macs := map[string]net.HardwareAddr{"hub1": mac(t), "hub2": mac(t), "left": mac(t), "right": mac(t)}
	bridges := map[string]*netlink.Bridge{}
	for _, name := range []string{"br1", "br2"} {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
		must(t, netlink.LinkAdd(br))
		t.Cleanup(func() { _ = netlink.LinkDel(br) })
		must(t, netlink.LinkSetUp(br))
		bridges[name] = br
	}
	// cable pulls a cable out and plugs it in again.
	cable := func(port, bridge string) {
		t.Helper()
		p, err := netlink.LinkByName("p" + port)
		must(t, err)
		must(t, netlink.LinkSetDown(p))
		must(t, netlink.LinkSetMaster(p, bridges[bridge]))
		must(t, netlink.LinkSetUp(p))
	}
	for port, m := range macs {
		plug(t, port, "p"+port, m, nil)
	}
	cable("left", "br1")
	cable("right", "br2")
	cable("hub1", "br2")
	cable("hub2", "br1")

	c := config(t, hub, "hub", nil)
	c.MACs = map[string]net.HardwareAddr{"eth1": macs["hub1"], "eth2": macs["hub2"]}
	c.Ports = []linkcheck.PortConfig{{Name: "eth1"}, {Name: "eth2"}}
	for i, b := range []*board{left, right} {
		l := to(b, []string{"left", "right"}[i])
		l.Interface = []string{"eth1", "eth2"}[i]
		c.Links = append(c.Links, l)
	}
	n := start(t, c)
	spokes := map[string]*linknet.Net{}
	for i, name := range []string{"left", "right"} {
		l := to(hub, "hub")
		l.Peer.Interface = []string{"eth1", "eth2"}[i]
		spokes[name] = start(t, config(t, []*board{left, right}[i], name, macs[name], l))
	}
	worst := func(n *linknet.Net, want string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			p := linkcheck.Worst(n.Links())
			if p != nil && p.Code == report.LinkWrongPort && p.Do == want {
				t.Logf("%s\n%s\nDO %s", p.Code, p.What, p.Do)
				return
			}
			if time.Now().After(end) {
				t.Fatalf("got %+v, want to be told: %s", p, want)
			}
		}
	}
	worst(n, "swap the cables in eth1 and eth2 of this machine")
	worst(spokes["left"], "at hub, swap the cables in eth1 and eth2 (right is the other half)")
	worst(spokes["right"], "at hub, swap the cables in eth1 and eth2 (left is the other half)")
	cable("hub1", "br1")
	cable("hub2", "br2")
	for _, n := range []*linknet.Net{spokes["left"], spokes["right"], n} {
		await(t, n, 20*time.Second, linkcheck.Proved)
	}
	eventually(t, 20*time.Second, "both cables are mended", func() bool { return n.Summary().Complete() })
}

// TestCloseLeavesNothing looks for goroutines that outlive Close.
func TestCloseLeavesNothing(t *testing.T) {
	a, b := lightBoard(t), lightBoard(t)
	macA, macB := mac(t), mac(t)
	plug(t, "near", "far", macA, macB)
	must(t, netconf.Up(linkOf(t, "far"), 0))
	session, ignore := config(t, a, "a", macA, to(b, "b")), goleak.IgnoreCurrent()
	session.LLDP = true
	n := start(t, session)
	eventually(t, 5*time.Second, "an LLDPDU was sent", func() bool { return n.Counters().LLDPSent > 0 })
	must(t, n.Close())
	must(t, n.Close())
	for range n.Changed() { // closed: whoever waits for news does not wait for ever
	}
	goleak.VerifyNone(t, ignore)
}

// TestConfig refuses what the machine refuses.
func TestConfig(t *testing.T) {
	a := lightBoard(t)
	c := config(t, a, "a", mac(t), to(a, "a"))
	if _, err := linknet.Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), "not between two devices") {
		t.Errorf("a link to itself: %v", err)
	}
}

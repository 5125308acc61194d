package netconf

import (
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/landfall-project/landfall/pkg/lldp"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// TestCapture: two machines (here: two ports of one) hear each other, a real
// lldpd is heard as a switch, under its last name only, as long as it runs, and
// a port without a partner says so.
func TestCapture(t *testing.T) {
	near, far := direct(t, "cap0", "cap1")
	must(t, netlink.LinkSetUp(far))
	tor, other := direct(t, "cap2", "far2")
	must(t, netlink.LinkSetHardwareAddr(handleOf(tor), net.HardwareAddr{0x52, 0x54, 0, 0, 0, 2}))
	startLLDPD(t, other, "configure system hostname tor-7", "configure lldp tx-interval 1")
	near3, far3 := direct(t, "capren", "far3")
	must(t, netlink.LinkSetHardwareAddr(handleOf(near3), net.HardwareAddr{0x52, 0x54, 0, 0, 0, 3}))
	renamed := startLLDPD(t, far3, "configure lldp tx-interval 1")
	near4, far4 := direct(t, "capstop", "far4")
	must(t, netlink.LinkSetHardwareAddr(handleOf(near4), net.HardwareAddr{0x52, 0x54, 0, 0, 0, 4}))
	stopped := startLLDPD(t, far4, "configure lldp tx-interval 1")
	_, gone := direct(t, "cap3", "cap4")
	must(t, netlink.LinkDel(gone))
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "brcap"}}
	must(t, netlink.LinkAdd(br))
	t.Cleanup(func() { _ = netlink.LinkDel(br) })

	// The other machine's capture, at the same time.
	var theirs *snapshot.Capture
	var theirErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		theirs, theirErr = Capture(within(t, time.Minute), "r07-u13", Listen{Wait: 8 * time.Second})
	})
	wg.Go(func() { // lldpd hears a capture, and so the capture hears lldpd
		renamed.shows("r07-u12")
		renamed.tell("configure", "system", "chassisid", "other")
		stopped.shows("r07-u12")
		stopped.stop()
	})
	ours, err := Capture(within(t, time.Minute), "r07-u12", Listen{Wait: 8 * time.Second})
	wg.Wait()
	if err != nil || theirErr != nil {
		t.Fatal(err, theirErr)
	}
	find := func(c *snapshot.Capture, name string) snapshot.CapturePort {
		for _, p := range c.Ports {
			if p.Name == name {
				return p
			}
		}
		t.Fatalf("no port %s in %+v", name, c.Ports)
		return snapshot.CapturePort{}
	}
	p := find(ours, "cap0")
	if p.MAC != near.MAC.String() || !p.Carrier || p.MTU != 1500 {
		t.Errorf("port %+v, want carrier, MTU 1500 and %s", p, near.MAC)
	}
	want := snapshot.Heard{ChassisID: "local:r07-u13", PortID: "ifname:cap1", System: "r07-u13", Device: true}
	if !contains(p.Heard, want) {
		t.Errorf("cap0 heard %+v, want %+v", p.Heard, want)
	}
	if want.ChassisID, want.System = "local:r07-u12", "r07-u12"; !contains(find(theirs, "cap0").Heard, want) {
		t.Errorf("the other machine heard %+v, want %+v", find(theirs, "cap0").Heard, want)
	}
	sw := find(ours, "cap2").Heard
	i := 0
	for i < len(sw) && sw[i].Device {
		i++
	}
	if i == len(sw) || sw[i].System != "tor-7" || !strings.HasPrefix(sw[i].ChassisID, "mac:") || sw[i].PortText != "far2" {
		t.Errorf("cap2 heard %+v, want the switch tor-7 at its port far2", sw)
	}
	want = snapshot.Heard{ChassisID: "local:other", PortID: find(ours, "capren").Heard[0].PortID, System: "tor-7", PortText: "far3", Station: true}
	if diff := cmp.Diff([]snapshot.Heard{want}, others(find(ours, "capren").Heard)); diff != "" {
		t.Errorf("a switch with another chassis ID (-want +got):\n%s", diff)
	}
	if got := others(find(ours, "capstop").Heard); got != nil {
		t.Errorf("heard a switch that took back what it said: %+v", got)
	}
	for _, c := range ours.Ports {
		if c.Name == "brcap" || c.Name == "lo" || c.Name == "cap3" {
			t.Errorf("%s is no port, or gone", c.Name)
		}
	}
	b, err := ours.Bytes()
	must(t, err)
	again, err := snapshot.ParseCapture(b)
	must(t, err)
	if diff := cmp.Diff(ours, again); diff != "" {
		t.Errorf("capture written and read (-was +is):\n%s", diff)
	}
}

// others are those that were not capturing.
func others(all []snapshot.Heard) []snapshot.Heard {
	var out []snapshot.Heard
	for _, h := range all {
		if !h.Device {
			out = append(out, h)
		}
	}
	return out
}

func contains(all []snapshot.Heard, h snapshot.Heard) bool {
	for _, x := range all {
		if x == h {
			return true
		}
	}
	return false
}

// TestCaptureEnds early where nobody speaks, and soon after all ports heard
// somebody.
func TestCaptureEnds(t *testing.T) {
	direct(t, "cap5", "cap6")
	must(t, exec.Command("ip", "link", "set", "cap6", "up").Run())
	start := time.Now()
	c, err := Capture(within(t, time.Minute), "r07-u12", Listen{Wait: 30 * time.Second, Quiet: 3 * time.Second})
	must(t, err)
	// cap5 and cap6 are one machine here and hear what the other says.
	if took := time.Since(start); took < settled || took > 25*time.Second {
		t.Errorf("took %v with %+v", took, c.Ports)
	}
	must(t, exec.Command("ip", "link", "del", "cap5").Run())
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "cap7"}, PeerName: "cap8"}
	must(t, netlink.LinkAdd(v))
	t.Cleanup(func() { _ = netlink.LinkDel(v) })
	must(t, exec.Command("ip", "netns", "add", "capfar").Run())
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", "capfar").Run() })
	must(t, exec.Command("ip", "link", "set", "cap8", "netns", "capfar").Run())
	must(t, exec.Command("ip", "-n", "capfar", "link", "set", "cap8", "up").Run())
	start = time.Now()
	c, err = Capture(within(t, time.Minute), "r07-u12", Listen{Wait: 30 * time.Second, Quiet: 3 * time.Second})
	must(t, err)
	if took := time.Since(start); took > 25*time.Second || len(c.Ports) != 1 || !c.Ports[0].Carrier || c.Ports[0].Heard != nil {
		t.Errorf("took %v with %+v", took, c.Ports)
	}
	if _, err := Capture(within(t, time.Second), "No Name", Listen{}); err == nil {
		t.Error("a capture of nobody was made")
	}
}

// TestHeardHolds as long as the sender said, until it takes it back.
func TestHeardHolds(t *testing.T) {
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	du := func(chassis, port string, ttl uint16) *lldp.DU {
		c, p := lldp.ID{Subtype: lldp.Local, Value: []byte(chassis)}, lldp.ID{Subtype: lldp.InterfaceName, Value: []byte(port)}
		return &lldp.DU{Chassis: c, Port: p, TTL: ttl}
	}
	type frame struct {
		after time.Duration
		du    *lldp.DU
	}
	crowd := []frame{{9, du("last", "1", 120)}}
	for i := range maxHeard {
		crowd = slices.Insert(crowd, 0, frame{0, du("a", fmt.Sprint(i), 2)})
	}
	tests := []struct {
		name   string
		frames []frame
		want   []string
	}{
		{"two senders", []frame{{0, du("a", "1", 120)}, {1, du("b", "1", 120)}, {2, du("a", "2", 120)}}, []string{"a 1", "b 1", "a 2"}},
		{"again", []frame{{0, du("a", "1", 120)}, {1, du("b", "1", 120)}, {2, du("a", "1", 120)}}, []string{"a 1", "b 1"}},
		{"taken back", []frame{{0, du("a", "1", 120)}, {1, du("b", "1", 120)}, {2, du("a", "1", 0)}}, []string{"b 1"}},
		{"taken back by another port", []frame{{0, du("a", "1", 120)}, {1, du("a", "2", 0)}}, []string{"a 1"}},
		{"taken back, and said again", []frame{{0, du("a", "1", 120)}, {1, du("a", "1", 0)}, {2, du("a", "1", 120)}}, []string{"a 1"}},
		{"only taken back", []frame{{0, du("a", "1", 0)}}, nil},
		{"not repeated in time", []frame{{0, du("a", "1", 2)}, {1, du("b", "1", 120)}}, []string{"b 1"}},
		{"repeated in time", []frame{{0, du("a", "1", 7)}, {6, du("a", "1", 7)}}, []string{"a 1"}},
		{"a crowd that has gone", crowd, []string{"last 1"}},
		{"nobody speaks after it", []frame{{0, du("a", "1", 2)}}, nil},
	}
	for _, tt := range tests {
		h := &hearing{heard: make([][]heard, 1)}
		for _, f := range tt.frames {
			h.take(0, f.du, noon.Add(f.after*time.Second))
		}
		var got []string
		for _, one := range h.at(0, noon.Add(10*time.Second)) {
			got = append(got, strings.TrimPrefix(one.ChassisID, "local:")+" "+strings.TrimPrefix(one.PortID, "ifname:"))
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

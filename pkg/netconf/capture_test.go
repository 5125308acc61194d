package netconf

import (
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// TestCapture: two machines (here: two ports of one) hear each other, a real
// lldpd is heard as a switch, and a port without a partner says so.
func TestCapture(t *testing.T) {
	near, far := direct(t, "cap0", "cap1")
	must(t, netlink.LinkSetUp(far))
	tor, other := direct(t, "cap2", "far2")
	must(t, netlink.LinkSetHardwareAddr(handleOf(tor), net.HardwareAddr{0x52, 0x54, 0, 0, 0, 2}))
	startLLDPD(t, other, "configure system hostname tor-7", "configure lldp tx-interval 1")
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

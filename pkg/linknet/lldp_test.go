package linknet_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/lldp"
	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// startLLDPD runs a real lldpd at the far end of a cable, in namespaces of its
// own, and returns what shows its neighbors and what ends it.
func startLLDPD(t *testing.T, far string, conf ...string) (neighbors func() string, stop func()) {
	t.Helper()
	for _, tool := range []string{"lldpd", "lldpcli"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("needs %s (apt-get install lldpd)", tool)
		}
	}
	dir, err := os.MkdirTemp("", "lldp") // short: it holds a socket
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755)) // lldpd's unprivileged half connects to it
	sock, file := filepath.Join(dir, "s"), filepath.Join(dir, "conf")
	must(t, os.WriteFile(file, []byte(strings.Join(conf, "\n")+"\n"), 0o644))
	script := `read go; hostname tor-7; mount -t tmpfs none /run && mkdir /run/lldpd && ip link set "$1" up; exec lldpd -d -k -I "$1" -u "$2" -O "$3"`
	cmd := exec.Command("sh", "-c", script, "sh", far, sock, file)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID, // its halves end together
		Unshareflags: syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	goes, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	ended := false
	stop = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Signal(syscall.SIGTERM) // it says goodbye
			_ = cmd.Wait()
		}
	}
	t.Cleanup(stop)
	l, err := netlink.LinkByName(far)
	must(t, err)
	must(t, netlink.LinkSetNsPid(l, cmd.Process.Pid))
	_, err = goes.Write([]byte("go\n"))
	must(t, err)
	return func() string {
		out, _ := exec.Command("lldpcli", "-u", sock, "-f", "keyvalue", "show", "neighbors", "details").Output() // it may be starting
		return string(out)
	}, stop
}

func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// TestSwitch has a real lldpd for a switch: what it says is compared with the
// slice, and its list of neighbors shows our state, until each says goodbye.
func TestSwitch(t *testing.T) {
	a, b := lightBoard(t), lightBoard(t)
	macA := mac(t)
	plug(t, "near", "far", macA, nil)
	neighbors, stop := startLLDPD(t, "far", "configure system chassisid tor-7", "configure lldp portidsubtype local 14", "configure lldp tx-interval 1")
	c := config(t, a, "a", macA, to(b, "b"))
	c.LLDP = true
	c.Ports[0].LLDP = &snapshot.LLDP{ChassisID: "tor-7", PortID: "12"}
	var state atomic.Value
	state.Store("pending LF-LINK-01")
	c.Text = func() string { return state.Load().(string) }
	n := start(t, c)
	eventually(t, 15*time.Second, "the switch says that this is another port", func() bool {
		s := n.Links()[0]
		return s.LLDP == linkcheck.LLDPMismatch && s.LLDPSeen == "tor-7 port 14" && s.LLDPWant == "port 12"
	})
	eventually(t, 15*time.Second, "the switch shows our state", func() bool {
		return strings.Contains(neighbors(), "chassis.descr=landfall pending LF-LINK-01\n")
	})
	state.Store("ok")
	eventually(t, 5*time.Second, "the switch shows the new state", func() bool { return strings.Contains(neighbors(), "chassis.descr=landfall ok\n") })
	eventually(t, 10*time.Second, "the quick start is over", func() bool { return n.Counters().LLDPSent >= 4 })
	sent := n.Counters().LLDPSent
	time.Sleep(2500 * time.Millisecond)
	if more := n.Counters().LLDPSent - sent; more > 1 {
		t.Errorf("%d LLDPDUs in 2.5 s, with nothing new to say", more)
	}
	stop()
	eventually(t, 5*time.Second, "the switch's word is forgotten when it takes it back", func() bool { return n.Links()[0].LLDP == "" })
}

// TestSwitchForgetsUs: production speaks for itself after Close.
func TestSwitchForgetsUs(t *testing.T) {
	a, b := lightBoard(t), lightBoard(t)
	macA := mac(t)
	plug(t, "near", "far", macA, nil)
	neighbors, _ := startLLDPD(t, "far")
	c := config(t, a, "a", macA, to(b, "b"))
	c.LLDP = true
	n := start(t, c)
	eventually(t, 15*time.Second, "the switch shows our state", func() bool { return strings.Contains(neighbors(), "landfall pending") })
	must(t, n.Close())
	eventually(t, 5*time.Second, "the switch forgets us", func() bool { return !strings.Contains(neighbors(), "landfall") })
}

// TestSwitchIsTakenBackByItself: another sender's farewell on the same cable is
// not the switch's.
func TestSwitchIsTakenBackByItself(t *testing.T) {
	a, b := lightBoard(t), lightBoard(t)
	macA := mac(t)
	plug(t, "near", "far", macA, nil)
	c := config(t, a, "a", macA, to(b, "b"))
	c.LLDP = true
	n := start(t, c)
	links, err := netconf.Links()
	must(t, err)
	at := slices.IndexFunc(links, func(l netconf.Link) bool { return l.Name == "far" })
	must(t, netconf.Up(links[at], 0))
	must(t, netconf.WaitCarrier(t.Context(), links[at]))
	sock, err := netconf.ListenLLDP(links[at])
	must(t, err)
	defer sock.Close()
	say := func(device string, leaving bool) {
		t.Helper()
		before := n.Counters().LLDPHeard
		du, err := lldp.Marshal(lldp.Announcement{Device: device, Interface: "swp7", Leaving: leaving})
		must(t, err)
		eventually(t, 10*time.Second, device+" is heard", func() bool {
			must(t, sock.Send(du)) // until the port listens
			return n.Counters().LLDPHeard > before
		})
	}
	say("tor-7", false)
	say("r07-u13", true)
	if got := n.Links()[0].LLDPSeen; got != "tor-7 port swp7" {
		t.Errorf("another's farewell leaves %q", got)
	}
	say("tor-7", true)
	if got := n.Links()[0].LLDPSeen; got != "" {
		t.Errorf("its own farewell leaves %q", got)
	}
}

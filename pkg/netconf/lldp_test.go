package netconf

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/lldp"
)

// direct makes a cable without a bridge, since a bridge swallows LLDP, and
// returns the near end, which is up, and the far one.
func direct(t *testing.T, near, far string) (Link, netlink.Link) {
	t.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: near, HardwareAddr: testMAC}, PeerName: far}
	must(t, netlink.LinkAdd(v))
	t.Cleanup(func() { _ = netlink.LinkDel(v) })
	must(t, netlink.LinkSetUp(v))
	l, err := netlink.LinkByName(near)
	must(t, err)
	p, err := netlink.LinkByName(far)
	must(t, err)
	return fromAttrs(l.Attrs()), p
}

func listenLLDP(t *testing.T, link Link) *LLDP {
	t.Helper()
	l, err := ListenLLDP(link)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func receive(t *testing.T, l *LLDP) *lldp.DU {
	t.Helper()
	du, err := l.Receive(within(t, 15*time.Second))
	must(t, err)
	return du
}

func silent(t *testing.T, l *LLDP) {
	t.Helper()
	du, err := l.Receive(within(t, 100*time.Millisecond))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %+v, %v, want silence", du, err)
	}
}

// realSwitch is a real lldpd in network, mount, process and UTS namespaces of its own,
// at the far end of a cable.
type realSwitch struct {
	t    *testing.T
	cmd  *exec.Cmd
	sock string
}

func startLLDPD(t *testing.T, far netlink.Link, conf ...string) *realSwitch {
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
	name := far.Attrs().Name
	s := &realSwitch{t: t, sock: filepath.Join(dir, "s")}
	file := filepath.Join(dir, "conf")
	must(t, os.WriteFile(file, []byte(strings.Join(conf, "\n")+"\n"), 0o644))
	// lldpd's unprivileged half lives in /run/lldpd.
	script := `read go; hostname tor-7; mount -t tmpfs none /run && mkdir /run/lldpd && ip link set "$1" up; exec lldpd -d -k -I "$1" -u "$2" -O "$3" -S "Example OS 4.2"`
	s.cmd = exec.Command("sh", "-c", script, "sh", name, s.sock, file)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID, // its halves end together
		Unshareflags: syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	var log strings.Builder
	s.cmd.Stdout, s.cmd.Stderr = &log, &log
	goes, err := s.cmd.StdinPipe()
	must(t, err)
	must(t, s.cmd.Start())
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("lldpd:\n%s", log.String())
		}
	})
	must(t, netlink.LinkSetNsPid(far, s.cmd.Process.Pid))
	_, err = goes.Write([]byte("go\n"))
	must(t, err)
	return s
}

// stop lets lldpd say goodbye.
func (s *realSwitch) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
}

// tell configures the running lldpd.
func (s *realSwitch) tell(words ...string) {
	s.t.Helper()
	if out, err := exec.Command("lldpcli", append([]string{"-u", s.sock}, words...)...).CombinedOutput(); err != nil {
		s.t.Errorf("lldpcli %v: %v: %s", words, err, out)
	}
}

// shows waits until "show lldp neighbors" on the switch holds all the texts,
// or, without any, until it has no neighbor.
func (s *realSwitch) shows(texts ...string) {
	s.t.Helper()
	var out []byte
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var err error
		out, err = exec.Command("lldpcli", "-u", s.sock, "-f", "json0", "show", "neighbors", "details").Output()
		if err != nil {
			continue // lldpd is starting
		}
		var all struct {
			LLDP []struct{ Interface []any }
		}
		must(s.t, json.Unmarshal(out, &all))
		if len(texts) == 0 && (len(all.LLDP) == 0 || len(all.LLDP[0].Interface) == 0) {
			return
		}
		missing := len(texts) == 0
		for _, text := range texts {
			missing = missing || !strings.Contains(string(out), `"`+text+`"`)
		}
		if !missing {
			return
		}
	}
	s.t.Fatalf("the switch does not show %q but\n%s", texts, out)
}

// TestLLDPWithSwitch talks with a real lldpd: each sees what the other says,
// over a port that goes down in between, until each says goodbye.
func TestLLDPWithSwitch(t *testing.T) {
	near, far := direct(t, "lldp0", "lldp1")
	l := listenLLDP(t, near)
	tor := startLLDPD(t, far, "configure system chassisid tor-7", "configure lldp portidsubtype local 12", "configure lldp tx-interval 1")
	du := receive(t, l)
	for text, id := range map[string]lldp.ID{"local:tor-7": du.Chassis, "12": du.Port} {
		want, err := lldp.ParseID(text)
		must(t, err)
		if !want.Match(id) {
			t.Errorf("the switch says %s, want %s", id, want)
		}
	}
	if du.SystemDescription != "Example OS 4.2" || du.Shutdown() {
		t.Errorf("got %+v", du)
	}

	us := lldp.Announcement{Device: "r07-u12", Interface: "eth1", State: "HOLD", Code: "LF-LINK-03"}
	send := func() {
		t.Helper()
		b, err := lldp.Marshal(us)
		must(t, err)
		must(t, l.Send(b))
	}
	send()
	tor.shows("r07-u12", "eth1", "landfall HOLD LF-LINK-03", "120")
	us.State, us.Code = "links", ""
	send()
	tor.shows("r07-u12", "landfall links")

	must(t, netlink.LinkSetDown(handleOf(near)))
	for { // what arrived before
		_, err := l.Receive(within(t, 100*time.Millisecond))
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		must(t, err)
	}
	send() // lost, and no error
	must(t, netlink.LinkSetUp(handleOf(near)))
	must(t, WaitCarrier(within(t, 5*time.Second), near))
	receive(t, l)
	send()
	tor.shows("r07-u12", "landfall links")

	us.Leaving = true
	send()
	tor.shows()

	tor.stop()
	for !receive(t, l).Shutdown() {
	}
	if n := l.Refused(); n != 0 {
		t.Errorf("%d frames of a real lldpd were refused", n)
	}
}

// TestLLDPHostileFrames sends what is no LLDPDU; the next sane one arrives.
func TestLLDPHostileFrames(t *testing.T) {
	near, far := direct(t, "lldp2", "lldp3")
	must(t, netlink.LinkSetUp(far))
	must(t, netlink.LinkSetMTU(far, 9000))
	must(t, netlink.LinkSetMTU(handleOf(near), 9000))
	must(t, WaitCarrier(within(t, 5*time.Second), near))
	l := listenLLDP(t, near)

	sane, err := lldp.Marshal(lldp.Announcement{Device: "r07-u13", Interface: "eth0"})
	must(t, err)
	inject := func(etherType int, b []byte) {
		t.Helper()
		ifi, err := net.InterfaceByName("lldp3")
		must(t, err)
		conn, err := packet.Listen(ifi, packet.Datagram, etherType, nil)
		must(t, err)
		defer conn.Close()
		group := lldp.Group()
		_, err = conn.WriteTo(b, &packet.Addr{HardwareAddr: group[:]})
		must(t, err)
	}
	inject(lldp.EtherType, []byte{0xff})
	inject(lldp.EtherType, sane[:5])
	inject(lldp.EtherType, append(sane, make([]byte, 8000-len(sane))...)) // would be sane if cut off
	inject(0x88b5, sane)                                                  // not LLDP
	ifi, err := net.InterfaceByName("lldp3")
	must(t, err)
	whole, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
	must(t, err)
	defer whole.Close()
	group := lldp.Group()
	frame := func(to net.HardwareAddr, between ...byte) {
		t.Helper()
		_, err := whole.WriteTo(slices.Concat(to, ifi.HardwareAddr, between, sane), &packet.Addr{HardwareAddr: to})
		must(t, err)
	}
	frame(group[:], 0x81, 0, 0, 7, 0x88, 0xcc)               // for VLAN 7
	frame(net.HardwareAddr{0x02, 0, 0, 0, 0, 9}, 0x88, 0xcc) // for another station
	must(t, l.Send(sane))                                    // our own
	silent(t, l)
	if n := l.Refused(); n != 3 {
		t.Errorf("refused %d frames, want 3", n)
	}
	for _, between := range [][]byte{{0x88, 0xcc}, {0x81, 0, 0xe0, 0, 0x88, 0xcc}} { // the second has a priority
		frame(group[:], between...)
		if du := receive(t, l); du.Chassis.String() != "local r07-u13" {
			t.Errorf("got %+v", du)
		}
	}
}

// TestLLDPGroup shows that the kernel was told to receive the group address
// while a socket is open: a veth delivers every frame, a real port does not.
func TestLLDPGroup(t *testing.T) {
	near, _ := direct(t, "lldp4", "lldp5")
	member := func() bool {
		b, err := os.ReadFile("/proc/self/net/dev_mcast")
		must(t, err)
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) == 5 && f[1] == near.Name && f[4] == "0180c200000e" {
				return true
			}
		}
		return false
	}
	if member() {
		t.Fatal("joined before a socket is open")
	}
	l := listenLLDP(t, near)
	if !member() {
		t.Error("the port does not receive LLDP's group address")
	}
	must(t, control(l.conn.raw, func(fd int) error {
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY)
		if got != 7 {
			t.Errorf("sent with priority %d, want that of control traffic, 7", got)
		}
		return err
	}))
	must(t, l.Close())
	if member() {
		t.Error("still joined when the socket is closed")
	}
	if _, err := l.Receive(within(t, time.Second)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a closed socket receives: %v", err)
	}
}

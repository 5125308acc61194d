package netconf

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/landfall-project/landfall/pkg/netconf/netnstest"
)

// TestMain gives the tests a network namespace of their own.
func TestMain(m *testing.M) { netnstest.Main(m) }

var testMAC = net.HardwareAddr{0x52, 0x54, 0x00, 0x12, 0x34, 0x56}

// server is a real dnsmasq in a second network namespace, at the other end of
// a cable (a veth pair).
type server struct {
	t    *testing.T
	cmd  *exec.Cmd
	goes io.WriteCloser
	log  bytes.Buffer
	far  string
}

// cable makes a veth pair: the near end is the port under test, the far ends
// lead to servers. Several servers hang on a bridge.
func cable(t *testing.T, name string, mac net.HardwareAddr, far ...string) Link {
	t.Helper()
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br" + name}}
	must(t, netlink.LinkAdd(br))
	t.Cleanup(func() { _ = netlink.LinkDel(br) })
	must(t, netlink.LinkSetUp(br))
	plug := func(port, peer string, mac net.HardwareAddr) {
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port, HardwareAddr: mac}, PeerName: peer}
		must(t, netlink.LinkAdd(v))
		p, err := netlink.LinkByName(peer)
		must(t, err)
		// The end that stays: the other one may be in a namespace that ends later.
		t.Cleanup(func() { _ = netlink.LinkDel(p) })
		must(t, netlink.LinkSetMaster(p, br))
		must(t, netlink.LinkSetUp(p))
	}
	plug(name, "p"+name, mac)
	for _, f := range far {
		plug(f, "p"+f, nil)
	}
	l, err := netlink.LinkByName(name)
	must(t, err)
	return fromAttrs(l.Attrs())
}

// serve starts dnsmasq on the far end of a cable with an address of its own.
func serve(t *testing.T, far, address string, args ...string) *server {
	t.Helper()
	if _, err := exec.LookPath("dnsmasq"); err != nil {
		t.Fatal("needs dnsmasq (apt-get install dnsmasq-base)")
	}
	s := &server{t: t, far: far}
	script := fmt.Sprintf(`read go; ip link set lo up; ip addr add %s dev %s; ip link set %s up; exec dnsmasq "$@"`, address, far, far)
	lease := filepath.Join(t.TempDir(), "leases")
	s.cmd = exec.Command("sh", append([]string{"-c", script, "sh", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--no-ping",
		"--log-facility=-", "--log-dhcp", "--user=root", "--pid-file=", "--dhcp-leasefile=" + lease, "--interface=" + far, "--bind-interfaces"}, args...)...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	var err error
	s.goes, err = s.cmd.StdinPipe()
	must(t, err)
	must(t, s.cmd.Start())
	t.Cleanup(s.stop)
	l, err := netlink.LinkByName(far)
	must(t, err)
	must(t, netlink.LinkSetNsPid(l, s.cmd.Process.Pid))
	return s
}

// begin lets a prepared server answer.
func (s *server) begin() {
	_, _ = io.WriteString(s.goes, "go\n")
}

func (s *server) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	if s.t.Failed() {
		s.t.Logf("dnsmasq on %s:\n%s", s.far, s.log.String())
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func reservation(mac net.HardwareAddr, ip string) string {
	return fmt.Sprintf("--dhcp-host=%s,%s", mac, ip)
}

var want = Want{Address: netip.MustParsePrefix("10.9.0.12/24"), Router: netip.MustParseAddr("10.9.0.1")}

package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// inNetns runs the calling test once more in a process with a network namespace
// of its own; the machine's network is never touched. It says whether the
// caller is that process.
func inNetns(t *testing.T) bool {
	t.Helper()
	const inside = "LANDFALL_UINIT_NETNS"
	if os.Getenv(inside) != "" {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("in a network namespace (needs root): %v\n%s", err, out)
	}
	return false
}

// port makes a network port whose other end is returned.
func port(t *testing.T, name, mac string) netlink.Link {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: hw}, PeerName: name + "-far"}
	if err := netlink.LinkAdd(v); err != nil {
		t.Fatal(err)
	}
	far, err := netlink.LinkByName(name + "-far")
	if err != nil {
		t.Fatal(err)
	}
	return far
}

// serve runs a real dnsmasq at the far end, in a namespace of its own.
func serve(t *testing.T, far netlink.Link, args ...string) {
	t.Helper()
	name := far.Attrs().Name
	script := fmt.Sprintf(`read go; ip addr add 10.9.0.1/24 dev %s; ip link set %s up; exec dnsmasq "$@"`, name, name)
	cmd := exec.Command("sh", append([]string{"-c", script, "sh", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--no-ping",
		"--user=root", "--pid-file=", "--dhcp-leasefile=" + filepath.Join(t.TempDir(), "leases"), "--interface=" + name, "--bind-interfaces"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if err := netlink.LinkSetNsPid(far, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stdin, "go\n"); err != nil {
		t.Fatal(err)
	}
}

func ports(addresses ...[]string) []snapshot.Interface {
	var all []snapshot.Interface
	for i, a := range addresses {
		p := snapshot.Interface{Name: fmt.Sprintf("eth%d", i), MAC: fmt.Sprintf("52:54:00:00:00:0%d", i+1), Addresses: a}
		if len(a) > 0 {
			p.Gateway = "10.9.0.1"
		}
		all = append(all, p)
	}
	return all
}

// TestOneGoodPortIsEnough: of four ports one does not exist, one has no cable,
// one leads to a neighbor and has no address; the fourth gets the lease.
func TestOneGoodPortIsEnough(t *testing.T) {
	if !inNetns(t) {
		return
	}
	port(t, "dead0", "52:54:00:00:00:02")
	good := port(t, "good0", "52:54:00:00:00:03")
	peer := port(t, "peer0", "52:54:00:00:00:04")
	serve(t, good, "--dhcp-range=10.9.0.0,static", "--dhcp-host=52:54:00:00:00:03,10.9.0.12")
	// Behind the port without an address somebody offers one all the same.
	serve(t, peer, "--dhcp-range=10.9.0.50,10.9.0.60")
	m, printed := testMachine(t, "/")
	n := startNetwork(m, ports([]string{"10.9.0.10/24"}, []string{"10.9.0.11/24"}, []string{"10.9.0.12/24"}, nil), leaseStrict)
	defer n.stop()
	var leases []*netconf.Lease
	for range 5 { // a slow machine may need more than one look
		var err error
		if leases, err = n.ready(); err == nil {
			break
		}
	}
	if len(leases) != 1 || leases[0].Address.String() != "10.9.0.12/24" || leases[0].Link.Name != "good0" {
		t.Fatalf("got %+v, problem %v", leases, n.worst())
	}
	time.Sleep(time.Second) // time for a lease on the port that must not ask
	links, err := netconf.Links()
	if err != nil {
		t.Fatal(err)
	}
	mac, _ := net.ParseMAC("52:54:00:00:00:04")
	l := netconf.ByMAC(links, mac)
	if l == nil || !l.Carrier {
		t.Errorf("the port to the neighbor is not up: %+v", l)
	}
	if len(n.current()) != 1 {
		t.Errorf("leases: %+v, want one", n.current())
	}
	n.settled()
	text := printed()
	for _, want := range []string{"lease 10.9.0.12/24 on good0 (eth2) from 10.9.0.1", "LF-NET-01", "LF-NET-02 no link on any port: dead0 (eth1)"} {
		if !strings.Contains(text, want) {
			t.Errorf("consoles lack %q:\n%s", want, text)
		}
	}
}

// TestLeasePolicies: a server gives another address than the slice's.
func TestLeasePolicies(t *testing.T) {
	if !inNetns(t) {
		return
	}
	far := port(t, "lf0", "52:54:00:00:00:01")
	serve(t, far, "--dhcp-range=10.9.0.0,static", "--dhcp-host=52:54:00:00:00:01,10.9.0.99")
	m, printed := testMachine(t, "/")
	strict := startNetwork(m, ports([]string{"10.9.0.12/24"}), leaseStrict)
	for end := time.Now().Add(20 * time.Second); code(strict.worst()) != report.NetWrongLease; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("strict: %v, want %s", strict.worst(), report.NetWrongLease)
		}
	}
	if _, err := strict.ready(); code(err) != report.NetWrongLease || !strings.Contains(err.Error(), "10.9.0.1 offers 10.9.0.99/24 instead of 10.9.0.12/24") {
		t.Errorf("strict: %v", err)
	}
	strict.stop()
	warn := startNetwork(m, ports([]string{"10.9.0.12/24"}), leaseWarn)
	defer warn.stop()
	var err error
	for range 5 {
		if _, err = warn.ready(); err == nil {
			break
		}
	}
	if err != nil {
		t.Errorf("warn: %v", err)
	}
	if text := printed(); !strings.Contains(text, "warning LF-NET-04") {
		t.Errorf("consoles:\n%s", text)
	}
}

// TestWrongServerIsNamed: a right lease came, but somebody else's server had
// offered another one.
func TestWrongServerIsNamed(t *testing.T) {
	m, printed := testMachine(t, t.TempDir())
	n := startNetwork(m, nil, leaseStrict)
	defer n.stop()
	n.trouble("eth0", report.Errorf(report.NetWrongLease, "DHCP server 10.9.0.2 offers 10.9.0.99/24"))
	lease := &netconf.Lease{Address: netip.MustParsePrefix("10.9.0.12/24")}
	n.success("eth0", lease, "")
	n.success("eth0", lease, "") // renewed
	n.trouble("eth1", report.Errorf(report.NetNoLease, "no answer"))
	n.success("eth1", lease, "")
	n.settled()
	if text := printed(); strings.Count(text, "warning") != 1 || !strings.Contains(text, "warning LF-NET-04") || !strings.Contains(text, "server 10.9.0.2 offers 10.9.0.99/24") {
		t.Errorf("consoles:\n%s", text)
	}
}

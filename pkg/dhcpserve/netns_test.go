package dhcpserve

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/landfall-project/landfall/pkg/dhcpserve/flood"
	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/netconf/netnstest"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

const floodEnv = "LANDFALL_DHCPSERVE_FLOOD" // the port: be the flood

// TestMain gives the tests a network namespace of their own.
func TestMain(m *testing.M) {
	if port := os.Getenv(floodEnv); port != "" {
		if err := beFlood(port); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	netnstest.Main(m)
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func linkOf(t testing.TB, name string) netconf.Link {
	t.Helper()
	links, err := netconf.Links()
	must(t, err)
	for _, l := range links {
		if l.Name == name {
			return l
		}
	}
	t.Fatalf("no port %s", name)
	return netconf.Link{}
}

// plug puts a new port on the tests' switch, a bridge.
func plug(t testing.TB, name string, hw net.HardwareAddr) netconf.Link {
	t.Helper()
	br, err := netlink.LinkByName("switch")
	if err != nil {
		must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}))
		br, err = netlink.LinkByName("switch")
		must(t, err)
		must(t, netlink.LinkSetUp(br))
	}
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: hw}, PeerName: "p" + name}))
	far, err := netlink.LinkByName("p" + name)
	must(t, err)
	t.Cleanup(func() { _ = netlink.LinkDel(far) })
	must(t, netlink.LinkSetMaster(far, br))
	must(t, netlink.LinkSetUp(far))
	return linkOf(t, name)
}

// start runs a server on a port of its own.
func start(t testing.TB, d *snapshot.DHCP) *Server {
	t.Helper()
	link := plug(t, "srv0", serverMAC)
	must(t, netconf.Up(link, 0))
	must(t, netconf.Static(link, []netip.Prefix{netip.MustParsePrefix("10.9.0.1/16"), netip.MustParsePrefix("fd00:9::1/64")}, netip.Addr{}))
	cfg := config(d)
	cfg.Ports[0].Link, cfg.Logf = link, t.Logf
	s, err := New(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

// elsewhere starts a program in a network namespace of its own, which gets the
// port.
func elsewhere(t testing.TB, link netconf.Link, env string, script string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", "read go; " + script, "sh"}, args...)...)
	cmd.Env = append(os.Environ(), env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	must(t, err)
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	runtime.LockOSThread() // Pdeathsig is the thread's
	t.Cleanup(runtime.UnlockOSThread)
	must(t, cmd.Start())
	l, err := netlink.LinkByIndex(link.Index)
	must(t, err)
	must(t, netlink.LinkSetNsPid(l, cmd.Process.Pid))
	_, err = io.WriteString(in, "go\n")
	must(t, err)
	return cmd
}

// run is elsewhere, waited for; what it printed.
func run(t testing.TB, link netconf.Link, script string, args ...string) string {
	t.Helper()
	cmd := elsewhere(t, link, "", "exec 2>&1; "+script, args...)
	stop := time.AfterFunc(40*time.Second, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	err := cmd.Wait()
	out, _ := cmd.Stdout.(*strings.Builder)
	if err != nil {
		t.Logf("%v", err)
	}
	return out.String()
}

const floodSize = 4000

func floodMAC(i int) net.HardwareAddr { return net.HardwareAddr{2, 0xf1, 0, 0, byte(i >> 8), byte(i)} }

func floodAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 9, byte(16 + i/250), byte(1 + i%250)})
}

func floodTable() *snapshot.DHCP {
	d := table()
	for i := range floodSize {
		d.Leases = append(d.Leases, snapshot.Lease{Device: fmt.Sprintf("d%d", i), Interface: "eth0", MAC: floodMAC(i).String(),
			Addresses: []string{netip.PrefixFrom(floodAddress(i), 16).String()}, Gateway: "10.9.0.254"})
	}
	return d
}

// beFlood is the other process.
func beFlood(name string) error {
	links, err := netconf.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Name != name {
			continue
		}
		if err := netconf.Up(l, 0); err != nil {
			return err
		}
		if err := netconf.WaitCarrier(context.Background(), l); err != nil {
			return err
		}
		cfg := flood.Config{Link: l, Over: time.Second, Want: floodAddress, Patience: 5 * time.Second}
		for i := range floodSize {
			cfg.MACs = append(cfg.MACs, floodMAC(i))
		}
		r, err := flood.Run(context.Background(), cfg)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	return fmt.Errorf("no port %s", name)
}

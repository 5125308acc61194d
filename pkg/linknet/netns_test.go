package linknet_test

import (
	"crypto/rand"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/linknet"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/netconf/netnstest"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// TestMain gives the tests a network namespace of their own.
func TestMain(m *testing.M) { netnstest.Main(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// board is a device's mainboard.
type board struct {
	ak     []byte
	akName string
	quote  func(qualifying []byte) (kekproto.Quote, error)
	cap    func()
}

// newBoard has a software TPM with the factory's keys.
func newBoard(t *testing.T) *board {
	t.Helper()
	sim := tpmtest.Start(t)
	keys, err := sim.TPM().CreateKeys()
	must(t, err)
	name, err := attest.Name(keys.AK)
	must(t, err)
	quote := func(qualifying []byte) (kekproto.Quote, error) {
		pcrs, err := sim.TPM().ReadPCRs()
		if err != nil {
			return kekproto.Quote{}, err
		}
		return sim.TPM().Quote(qualifying, pcrs)
	}
	return &board{keys.AK, name, quote, func() { must(t, sim.TPM().Extend(measure.CapPCR, measure.CapDigest())) }}
}

// lightBoard has a simulated TPM, for tests of ports and cables.
func lightBoard(t *testing.T) *board {
	t.Helper()
	sim, err := fabric.NewTPM()
	must(t, err)
	return &board{sim.AKPublic(), sim.AKName(), sim.Quote, sim.Cap}
}

func (b *board) session(t *testing.T, device string) *linkcheck.Session {
	t.Helper()
	s, err := linkcheck.Certify("sea1", device, b.ak, b.quote)
	must(t, err)
	t.Cleanup(s.Wipe)
	return s
}

// mac makes an address that no other port of a test has.
func mac(t testing.TB) net.HardwareAddr {
	t.Helper()
	m := make(net.HardwareAddr, 6)
	_, _ = rand.Read(m)
	m[0] = 0x02
	return m
}

// plug makes a cable between two ports that are down.
func plug(t testing.TB, a, b string, macA, macB net.HardwareAddr) {
	t.Helper()
	v := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: a, HardwareAddr: macA}, PeerName: b, PeerHardwareAddr: macB,
	}
	must(t, netlink.LinkAdd(v))
	t.Cleanup(func() { _ = netlink.LinkDel(v) })
}

// config is that of a device with one port, eth0.
func config(t *testing.T, b *board, id string, mac net.HardwareAddr, links ...linkcheck.Link) linknet.Config {
	t.Helper()
	c := linknet.Config{MACs: map[string]net.HardwareAddr{"eth0": mac}, Raise: true, Logf: func(format string, args ...any) {
		t.Logf(id+": "+format, args...)
	}}
	c.Region, c.Device, c.Generation, c.Session = "sea1", id, 1, b.session(t, id)
	c.Ports = []linkcheck.PortConfig{{Name: "eth0"}}
	c.Links = links
	return c
}

func to(b *board, device string) linkcheck.Link {
	return linkcheck.Link{Interface: "eth0", Peer: linkcheck.End{Device: device, Interface: "eth0"}, AKName: b.akName, Required: true}
}

func start(t *testing.T, c linknet.Config) *linknet.Net {
	t.Helper()
	n, err := linknet.Start(t.Context(), c)
	must(t, err)
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// await waits until a device's first link has a verdict, and returns how long.
func await(t *testing.T, n *linknet.Net, limit time.Duration, want ...linkcheck.Verdict) time.Duration {
	t.Helper()
	began := time.Now()
	end := time.After(limit)
	for {
		got := n.Links()[0]
		for _, w := range want {
			if got.Verdict == w {
				return time.Since(began)
			}
		}
		select {
		case <-n.Changed():
		case <-end:
			t.Fatalf("%s, want %v after %s; %+v, ports %+v", got, want, limit, n.Counters(), n.Ports())
		}
	}
}

func setHops(t *testing.T, c *net.UDPConn, index, hops int) {
	t.Helper()
	raw, err := c.SyscallConn()
	must(t, err)
	var set error
	must(t, raw.Control(func(fd uintptr) {
		set = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS, hops),
			unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_MULTICAST_IF, index),
		)
	}))
	must(t, set)
}

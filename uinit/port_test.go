package main

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/report"
)

const portMAC = "52:54:00:00:00:01"

// TestPortsByTheirOwnAddress: what a slice has of a port is the address that it
// was made with, whatever it uses now.
func TestPortsByTheirOwnAddress(t *testing.T) {
	links := []netconf.Link{{Name: "eth1", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0xa}, Permanent: net.HardwareAddr{2, 0, 0, 0, 0, 0xb}}}
	if all := allPorts(links); len(all) != 1 || all[0].Name != "eth1" || all[0].MAC != "02:00:00:00:00:0b" {
		t.Errorf("in the factory: %+v", all)
	}
	if got, want := describe(links), "eth1 02:00:00:00:00:0b"; got != want {
		t.Errorf("a hold says %q, want %q", got, want)
	}
}

// until waits for something to become true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never %s", what)
		}
	}
}

// addresses are the port's, but link-local ones.
func addresses(t *testing.T, name string) []string {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil
	}
	all, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, a := range all {
		if !a.IP.IsLinkLocalUnicast() {
			list = append(list, a.IPNet.String())
		}
	}
	return list
}

// defaults are the gateways of the port's default routes.
func defaults(t *testing.T, name string) []string {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	routes, err := netlink.RouteList(l, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, r := range routes {
		if r.Gw != nil {
			list = append(list, r.Gw.String())
		}
	}
	return list
}

func remove(t *testing.T, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// one is the network's only lease, or nil.
func one(n *network) *netconf.Lease {
	if all := n.current(); len(all) == 1 {
		return all[0]
	}
	return nil
}

// leaseOn is a lease that the port has, without a server.
func leaseOn(t *testing.T, name, address, router string) *netconf.Lease {
	t.Helper()
	links, err := netconf.Links()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(links, func(l netconf.Link) bool { return l.Name == name })
	l := &netconf.Lease{Link: links[i], Address: netip.MustParsePrefix(address), Got: time.Now(), Duration: time.Hour}
	if router != "" {
		l.Router = netip.MustParseAddr(router)
	}
	return l
}

// TestAPortThatComesBack has another index: while it waits for its cable, and
// when it has its lease.
func TestAPortThatComesBack(t *testing.T) {
	if !inNetns(t) {
		return
	}
	port(t, "lf0", portMAC)
	m, _ := testMachine(t, "/")
	n := startNetwork(m, ports([]string{"10.9.0.12/24"}), leaseStrict)
	defer n.close()
	until(t, "without carrier", func() bool { return code(n.worst()) == report.NetNoCarrier })
	for _, name := range []string{"lf1", "lf2"} {
		before := one(n)
		links, err := netconf.Links()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if l.MAC.String() == portMAC {
				remove(t, l.Name)
			}
		}
		far := port(t, name, portMAC)
		serve(t, far, "--dhcp-range=10.9.0.0,static", "--dhcp-host="+portMAC+",10.9.0.12")
		until(t, "with a lease on "+name, func() bool {
			l := one(n)
			return l != nil && l != before && l.Link.Name == name
		})
		if got := addresses(t, name); !slices.Equal(got, []string{"10.9.0.12/24"}) {
			t.Errorf("%s has %v", name, got)
		}
	}
}

// TestALostAddressComesBack: somebody has taken a leased address from its port.
func TestALostAddressComesBack(t *testing.T) {
	if !inNetns(t) {
		return
	}
	port(t, "lf0", portMAC)
	m, _ := testMachine(t, "/")
	lease := leaseOn(t, "lf0", "10.9.0.12/24", "")
	n := startNetwork(m, nil, leaseStrict)
	defer n.close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := ports([]string{"10.9.0.12/24"})[0]
	go n.keep(ctx, p, lease.Link.MAC, lease)
	until(t, "given its address", func() bool { return slices.Equal(addresses(t, "lf0"), []string{"10.9.0.12/24"}) })
}

// TestLeasesAreOwned: of what a port was given nothing is left when it has been
// given something else, when its time is over, and when the network is closed.
func TestLeasesAreOwned(t *testing.T) {
	if !inNetns(t) {
		return
	}
	far := port(t, "lf0", portMAC)
	m, _ := testMachine(t, "/")
	first := leaseOn(t, "lf0", "10.9.0.11/24", "10.9.0.2")
	if err := netconf.Up(first.Link, 0); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(far); err != nil {
		t.Fatal(err)
	}
	n := startNetwork(m, nil, leaseAny)
	if err := n.take("eth0", first); err != nil {
		t.Fatal(err)
	}
	n.success("eth0", first, "")
	t.Run("renewed", func(t *testing.T) {
		second := leaseOn(t, "lf0", "10.9.0.12/24", "")
		if err := n.take("eth0", second); err != nil {
			t.Fatal(err)
		}
		n.success("eth0", second, "")
		if got, by := addresses(t, "lf0"), defaults(t, "lf0"); !slices.Equal(got, []string{"10.9.0.12/24"}) || by != nil {
			t.Errorf("the port has %v, default routes by %v; want the second lease only", got, by)
		}
	})
	t.Run("expired", func(t *testing.T) {
		old := *first
		old.Duration = 2 * time.Second
		if err := n.take("eth0", &old); err != nil {
			t.Fatal(err)
		}
		n.success("eth0", &old, "")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			n.port(ctx, ports([]string{"10.9.0.12/24"})[0]) // nobody answers
		}()
		until(t, "without the expired address", func() bool { return addresses(t, "lf0") == nil })
		cancel()
		<-done
		if n.leaseOf("eth0") != nil {
			t.Error("an expired lease is still there")
		}
	})
	t.Run("closed", func(t *testing.T) {
		if err := n.take("eth0", first); err != nil {
			t.Fatal(err)
		}
		n.success("eth0", first, "")
		n.close()
		if got, by := addresses(t, "lf0"), defaults(t, "lf0"); got != nil || by != nil {
			t.Errorf("left: %v, default routes by %v", got, by)
		}
	})
}

// TestStaticPorts: what a port has of nobody goes with it, comes back with it,
// and is taken from it, all of it, when the network is closed.
func TestStaticPorts(t *testing.T) {
	if !inNetns(t) {
		return
	}
	port(t, "lf0", portMAC)
	m, _ := testMachine(t, "/")
	want := []string{"10.9.0.12/24", "10.9.1.12/24", "fd00:9::12/64"}
	n := startNetwork(m, ports(want), leaseStatic)
	until(t, "set", func() bool { return one(n) != nil })
	remove(t, "lf0")
	until(t, "gone", func() bool { return one(n) == nil })
	port(t, "lf1", portMAC)
	until(t, "set again", func() bool { return one(n) != nil })
	if got := addresses(t, "lf1"); !slices.Equal(got, want) {
		t.Errorf("lf1 has %v, want %v", got, want)
	}
	n.close()
	if got := addresses(t, "lf1"); got != nil {
		t.Errorf("left: %v", got)
	}
}

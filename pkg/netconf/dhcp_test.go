package netconf

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

func TestDHCP(t *testing.T) {
	tests := []struct {
		name string
		args []string // dnsmasq
		late time.Duration
		cfg  Config
		want string // address; "" with
		err  string // part of the error
	}{
		{name: "expected", args: []string{"--dhcp-range=10.9.0.0,static", reservation(testMAC, "10.9.0.12")},
			cfg: Config{Want: want}, want: "10.9.0.12/24"},
		{name: "rapid commit", args: []string{"--dhcp-range=10.9.0.0,static", "--dhcp-rapid-commit", reservation(testMAC, "10.9.0.12")},
			cfg: Config{Want: want}, want: "10.9.0.12/24"},
		{name: "anything", args: []string{"--dhcp-range=10.9.0.50,10.9.0.50"}, want: "10.9.0.50/24"},
		{name: "server said twice", args: []string{"--dhcp-range=10.9.0.0,static", "--dhcp-option-force=54,10.9.0.1", reservation(testMAC, "10.9.0.12")},
			cfg: Config{Want: want}, want: "10.9.0.12/24"},
		{name: "answers late", args: []string{"--dhcp-range=10.9.0.0,static", reservation(testMAC, "10.9.0.12")},
			late: 3 * time.Second, cfg: Config{Want: want}, want: "10.9.0.12/24"},
		{name: "wrong address", args: []string{"--dhcp-range=10.9.0.0,static", reservation(testMAC, "10.9.0.13")},
			cfg: Config{Want: want}, err: "DHCP server 10.9.0.1 offers 10.9.0.13/24 instead of 10.9.0.12/24 on "},
		{name: "wrong mask", args: []string{"--dhcp-range=10.9.0.0,static,255.255.0.0", reservation(testMAC, "10.9.0.12")},
			cfg: Config{Want: want}, err: "10.9.0.12/16 instead of 10.9.0.12/24"},
		{name: "wrong router", args: []string{"--dhcp-range=10.9.0.0,static", "--dhcp-option=3,10.9.0.99", reservation(testMAC, "10.9.0.12")},
			cfg: Config{Want: want}, err: "router 10.9.0.99 instead of 10.9.0.1"},
		{name: "wrong address, warn", args: []string{"--dhcp-range=10.9.0.0,static", reservation(testMAC, "10.9.0.13")},
			cfg: Config{Want: want, Warn: true}, want: "10.9.0.13/24"},
		{name: "nobody", args: []string{"--dhcp-range=10.9.0.0,static"}, cfg: Config{Want: want}, err: errNoLease.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			link := cable(t, "lf0", testMAC, "far0")
			must(t, Up(link, 0))
			s := serve(t, "far0", "10.9.0.1/24", tt.args...)
			if tt.late == 0 {
				s.begin()
			} else {
				time.AfterFunc(tt.late, s.begin)
			}
			patience := 12 * time.Second
			if tt.err == errNoLease.Error() {
				patience = 2 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if tt.err != "" {
				tt.cfg.Wrong = func(*WrongLeaseError) { cancel() }
			}
			lease, err := DHCP(ctx, link, tt.cfg)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got lease %+v, error %v; want error with %q", lease, err, tt.err)
				}
				return
			}
			must(t, err)
			if lease.Address.String() != tt.want || lease.Router.String() != "10.9.0.1" || lease.Server.String() != "10.9.0.1" {
				t.Errorf("got %s by %s from %s, want %s by 10.9.0.1", lease.Address, lease.Router, lease.Server, tt.want)
			}
			must(t, Apply(lease))
			must(t, Apply(lease)) // may be repeated
			checkApplied(t, lease)
		})
	}
}

// checkApplied reaches the server from the leased address, by real ARP.
func checkApplied(t *testing.T, lease *Lease) {
	t.Helper()
	l, err := netlink.LinkByIndex(lease.Link.Index)
	must(t, err)
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
	must(t, err)
	if len(addrs) != 1 || addrs[0].IPNet.String() != lease.Address.String() {
		t.Errorf("addresses %v, want %s", addrs, lease.Address)
	}
	conn, err := net.DialTimeout("tcp4", "10.9.0.1:9", 3*time.Second)
	if err == nil {
		conn.Close()
		t.Error("something listens on the discard port of the test's server")
	} else if !strings.Contains(err.Error(), "refused") {
		t.Errorf("server not reached from the leased address: %v", err)
	}
	routes, err := netlink.RouteGet(net.IPv4(192, 0, 2, 1))
	must(t, err)
	if len(routes) != 1 || routes[0].Gw.String() != "10.9.0.1" {
		t.Errorf("default route %v, want one by 10.9.0.1", routes)
	}
}

func TestDHCPOfSeveralServersTheExpectedOneWins(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0", "far1")
	must(t, Up(link, 0))
	rogue := serve(t, "far0", "10.66.0.1/24", "--dhcp-range=10.66.0.5,10.66.0.9")
	rogue.begin()
	time.Sleep(300 * time.Millisecond) // the rogue answers first
	good := serve(t, "far1", "10.9.0.1/24", "--dhcp-range=10.9.0.0,static", reservation(testMAC, "10.9.0.12"))
	time.AfterFunc(2*time.Second, good.begin)
	var named []string
	lease, err := DHCP(within(t, 15*time.Second), link, Config{Want: want,
		Wrong: func(w *WrongLeaseError) { named = append(named, w.Server.String()) }})
	must(t, err)
	if lease.Address != want.Address || lease.Server.String() != "10.9.0.1" {
		t.Errorf("got %s from %s, want %s", lease.Address, lease.Server, want.Address)
	}
	if len(named) == 0 || named[0] != "10.66.0.1" {
		t.Errorf("named %v, want the rogue 10.66.0.1", named)
	}
}

func TestWaitCarrier(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0")
	must(t, Up(link, 1400))
	port, err := netlink.LinkByName("plf0") // the switch's side
	must(t, err)
	must(t, netlink.LinkSetDown(port))
	if err := WaitCarrier(within(t, 300*time.Millisecond), link); !errors.Is(err, ErrNoCarrier) {
		t.Fatalf("with the cable out: got %v, want ErrNoCarrier", err)
	}
	time.AfterFunc(500*time.Millisecond, func() { _ = netlink.LinkSetUp(port) })
	must(t, WaitCarrier(within(t, 10*time.Second), link))
	l, err := netlink.LinkByIndex(link.Index)
	must(t, err)
	if l.Attrs().MTU != 1400 {
		t.Errorf("MTU %d, want 1400", l.Attrs().MTU)
	}
}

// TestAPortGoesAway: whoever waits at it is told, instead of waiting at an index
// that no port will have again.
func TestAPortGoesAway(t *testing.T) {
	plug := func() (near Link, far netlink.Link) {
		near, far = direct(t, "lf0", "far0")
		must(t, netlink.LinkSetUp(far))
		must(t, WaitCarrier(within(t, 5*time.Second), near))
		return near, far
	}
	tests := []struct {
		name    string
		carrier bool
		event   func(far netlink.Link) error
		ends    bool
	}{
		{"deleted", false, netlink.LinkDel, true},
		{"cable out", true, netlink.LinkSetDown, true},
		{"cable out, which is no matter", false, netlink.LinkSetDown, false},
	}
	for _, tt := range tests {
		link, far := plug()
		ctx, cancel, err := WithPort(t.Context(), link, tt.carrier)
		must(t, err)
		if ctx.Err() != nil {
			t.Fatalf("%s: ended before anything happened", tt.name)
		}
		must(t, tt.event(far))
		if tt.ends {
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Second):
				t.Errorf("%s: still waited at", tt.name)
			}
		} else if err := WaitCarrier(within(t, 100*time.Millisecond), link); !errors.Is(err, ErrNoCarrier) || ctx.Err() != nil {
			t.Errorf("%s: %v; ended: %v", tt.name, err, ctx.Err())
		}
		cancel()
		_ = netlink.LinkDel(far)
	}
	link, far := direct(t, "lf0", "far0") // no carrier
	time.AfterFunc(200*time.Millisecond, func() { _ = netlink.LinkDel(far) })
	if err := WaitCarrier(within(t, 20*time.Second), link); !errors.Is(err, ErrGone) {
		t.Errorf("deleted meanwhile: got %v, want ErrGone", err)
	}
	if err := WaitCarrier(within(t, 20*time.Second), link); !errors.Is(err, ErrGone) {
		t.Errorf("deleted before: got %v, want ErrGone", err)
	}
	ctx, cancel, err := WithPort(t.Context(), link, false)
	must(t, err)
	defer cancel()
	if ctx.Err() == nil {
		t.Error("a port that is not there is waited at")
	}
}

// TestLinksByMAC: a bridge with the MAC address of a port is none, though it was
// there first, nor is one with an address of its own.
func TestLinksByMAC(t *testing.T) {
	other := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0x77}
	for name, mac := range map[string]net.HardwareAddr{"brmac": testMAC, "brown": other} {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: mac}}
		must(t, netlink.LinkAdd(br))
		t.Cleanup(func() { _ = netlink.LinkDel(br) })
	}
	cable(t, "lf0", testMAC, "far0")
	links, err := Links()
	must(t, err)
	if l := ByMAC(links, testMAC); l == nil || l.Name != "lf0" {
		t.Errorf("port of %s: got %+v, want lf0", testMAC, l)
	}
	for _, mac := range []net.HardwareAddr{other, {2, 0, 0, 0, 0, 1}} {
		if l := ByMAC(links, mac); l != nil {
			t.Errorf("got %+v for %s, which is no port's", l, mac)
		}
	}
}

// TestByMACInBond: a bond gives its members the address of the first.
func TestByMACInBond(t *testing.T) {
	a, b, c := net.HardwareAddr{2, 0, 0, 0, 0, 0xa}, net.HardwareAddr{2, 0, 0, 0, 0, 0xb}, net.HardwareAddr{2, 0, 0, 0, 0, 0xc}
	links := []Link{{Name: "eth1", MAC: a, Permanent: b}, {Name: "eth0", MAC: a, Permanent: a}, {Name: "eth2", MAC: c, Permanent: net.HardwareAddr{2, 0, 0, 0, 0, 0xd}}}
	for want, mac := range map[string]net.HardwareAddr{"eth0": a, "eth1": b, "eth2": c} {
		if l := ByMAC(links, mac); l == nil || l.Name != want {
			t.Errorf("%s: got %+v, want %s", mac, l, want)
		}
	}
}

func TestTakenBy(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0")
	port, err := netlink.LinkByName("lf0")
	must(t, err)
	for _, tt := range []struct {
		master netlink.Link // nil: none
		want   string
	}{
		{nil, ""},
		{&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "brtake"}}, "bridge brtake"},
		{nil, ""},
	} {
		if tt.master == nil {
			must(t, netlink.LinkSetNoMaster(port))
		} else {
			must(t, netlink.LinkAdd(tt.master))
			t.Cleanup(func() { _ = netlink.LinkDel(tt.master) })
			must(t, netlink.LinkSetMaster(port, tt.master))
		}
		if got, err := TakenBy(link); err != nil || got != tt.want {
			t.Errorf("got %q, %v, want %q", got, err, tt.want)
		}
	}
}

func TestDHCPEndsWithContext(t *testing.T) {
	link := cable(t, "lf0", testMAC)
	must(t, Up(link, 0))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	if _, err := DHCP(ctx, link, Config{}); !errors.Is(err, errNoLease) {
		t.Errorf("got %v, want errNoLease", err)
	}
}

func TestLeaseExpires(t *testing.T) {
	l := Lease{Got: time.Now().Add(-time.Minute), Duration: 59 * time.Second, Address: netip.MustParsePrefix("10.0.0.1/8")}
	if !l.Expired() {
		t.Error("a lease of 59 s is good after 60 s")
	}
	l.Duration = time.Hour
	if l.Expired() {
		t.Error("a lease of an hour ends after a minute")
	}
}

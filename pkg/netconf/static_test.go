package netconf

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// has lists a port's addresses (not link-local) and routes as the kernel tells
// them.
func has(t *testing.T, l Link) []string {
	t.Helper()
	var list []string
	addrs, err := netlink.AddrList(handleOf(l), netlink.FAMILY_ALL)
	must(t, err)
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() {
			list = append(list, a.IPNet.String())
			if a.Flags&(unix.IFA_F_TENTATIVE) != 0 {
				t.Errorf("%s can't be used yet", a.IPNet)
			}
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteList(handleOf(l), family)
		must(t, err)
		for _, r := range routes {
			if ones, _ := r.Dst.Mask.Size(); r.Gw != nil || ones == 32 {
				list = append(list, strings.TrimSuffix("to "+r.Dst.String()+" by "+r.Gw.String(), " by <nil>"))
			}
		}
	}
	slices.Sort(list)
	return list
}

func TestStatic(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0")
	must(t, Up(link, 0))
	addrs := []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd00:9::1/64")}
	for range 2 { // may be repeated
		must(t, Static(link, addrs, netip.MustParseAddr("10.9.0.254")))
		must(t, Static(link, nil, netip.MustParseAddr("fd00:9::254")))
	}
	want := []string{"10.9.0.1/24", "fd00:9::1/64", "to 0.0.0.0/0 by 10.9.0.254", "to ::/0 by fd00:9::254"}
	if diff := cmp.Diff(want, has(t, link)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	must(t, Withdraw(&Lease{Link: link, Address: addrs[0], Others: addrs[1:], Router: netip.MustParseAddr("10.9.0.254")}))
	must(t, Withdraw(&Lease{Link: link, Address: addrs[0], Router: netip.MustParseAddr("fd00:9::254")}))
	if left := has(t, link); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if err := Static(link, addrs[:1], netip.MustParseAddr("192.0.2.1")); err == nil || !strings.Contains(err.Error(), "route by 192.0.2.1 on lf0") {
		t.Errorf("a gateway elsewhere: %v", err)
	}
}

// TestGatewayOutsideTheNetwork: an address of a single host, or a link-local
// gateway, as where each machine has a router of its own.
func TestGatewayOutsideTheNetwork(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0")
	must(t, Up(link, 0))
	for _, tt := range []struct{ address, gateway string }{
		{"10.9.0.7/32", "169.254.0.1"}, {"10.9.0.7/32", "10.9.0.1"}, {"10.9.0.7/24", "169.254.0.1"},
	} {
		lease := &Lease{Link: link, Address: netip.MustParsePrefix(tt.address), Router: netip.MustParseAddr(tt.gateway)}
		want := []string{tt.address, "to 0.0.0.0/0 by " + tt.gateway}
		for how, set := range map[string]func() error{
			"static": func() error { return Static(link, []netip.Prefix{lease.Address}, lease.Router) },
			"lease":  func() error { return Apply(lease) },
		} {
			for range 2 { // may be repeated
				if err := set(); err != nil {
					t.Errorf("%s, %s by %s: %v", how, tt.address, tt.gateway, err)
				}
			}
			if diff := cmp.Diff(want, has(t, link)); diff != "" {
				t.Errorf("%s: -want +got\n%s", how, diff)
			}
			must(t, Withdraw(lease))
			if left := has(t, link); len(left) != 0 {
				t.Errorf("%s: left: %v", how, left)
			}
		}
	}
}

func TestApplyAndWithdrawQuarantine(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0")
	must(t, Up(link, 0))
	lease := &Lease{Link: link, Address: netip.MustParsePrefix("10.9.0.200/32"), Routes: []Route{
		{To: netip.MustParseAddr("10.9.0.1")}, {To: netip.MustParseAddr("10.9.0.254")},
		{To: netip.MustParseAddr("10.8.0.1"), By: netip.MustParseAddr("10.9.0.254")}}}
	must(t, Apply(lease))
	must(t, Apply(lease))
	want := []string{"10.9.0.200/32", "to 10.8.0.1/32 by 10.9.0.254", "to 10.9.0.1/32", "to 10.9.0.254/32"}
	if diff := cmp.Diff(want, has(t, link)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	must(t, Withdraw(lease))
	must(t, Withdraw(lease))
	if left := has(t, link); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestParseRoutes(t *testing.T) {
	host := func(a string, by string) []byte {
		x, y := netip.MustParseAddr(a).As4(), netip.MustParseAddr(by).As4()
		return append(append([]byte{32}, x[:]...), y[:]...)
	}
	join := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	direct, gateway := host("10.9.0.1", "0.0.0.0"), host("10.9.0.254", "0.0.0.0")
	tests := []struct {
		name string
		in   []byte
		want string
	}{
		{"none", nil, ""},
		{"on the link", direct, "10.9.0.1"},
		{"by a gateway", join(gateway, host("10.8.0.1", "10.9.0.254")), "10.9.0.254 10.8.0.1/10.9.0.254"},
		{"in another order", join(host("10.8.0.1", "10.9.0.254"), gateway), "10.9.0.254 10.8.0.1/10.9.0.254"},
		{"by an unknown gateway", join(direct, host("10.8.0.1", "10.9.0.254")), ""},
		{"by a gateway behind a gateway", join(direct, host("10.8.0.1", "10.9.0.1"), host("10.7.0.1", "10.8.0.1")), ""},
		{"default route", []byte{0, 10, 9, 0, 1}, ""},
		{"default route too", join(direct, []byte{0, 10, 9, 0, 1}), ""},
		{"a network", join(direct, []byte{24, 10, 8, 0, 10, 9, 0, 1}), ""},
		{"a network as long as a host", []byte{25, 10, 8, 0, 128, 0, 0, 0, 0}, ""},
		{"cut", direct[:8], ""},
		{"multicast", host("224.0.0.1", "0.0.0.0"), ""},
		{"loopback", host("127.0.0.1", "0.0.0.0"), ""},
		{"too many", slices.Repeat(direct, maxRoutes+1), ""},
	}
	for _, tt := range tests {
		var got []string
		for _, r := range parseRoutes(tt.in) {
			s := r.To.String()
			if r.By.IsValid() {
				s += "/" + r.By.String()
			}
			got = append(got, s)
		}
		if g := strings.Join(got, " "); g != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, g, tt.want)
		}
	}
}

// TestRoutesOfOrdinaryLeasesAreNotTaken: a rogue server's option 121 must not
// redirect a device that has its expected address.
func TestRoutesOfOrdinaryLeasesAreNotTaken(t *testing.T) {
	b, xid := packetFrom(t, dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
		&dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4(10, 8, 0, 1), Mask: net.CIDRMask(32, 32)}, Router: net.IPv4zero})))
	a, err := parseAnswer(b, false, question{mac: testMAC, xid: xid})
	must(t, err)
	if len(a.routes) != 1 {
		t.Fatalf("routes %v", a.routes)
	}
	if l := (&client{}).take(a); l.Routes != nil || !l.Router.IsValid() {
		t.Errorf("an ordinary lease has the routes %v and router %s", l.Routes, l.Router)
	}
	if l := (&client{quarantine: true}).take(a); len(l.Routes) != 1 || l.Router.IsValid() {
		t.Errorf("a quarantine lease has the routes %v and router %s", l.Routes, l.Router)
	}
}

func TestNotQuarantine(t *testing.T) {
	routes := []Route{{To: netip.MustParseAddr("10.9.0.1")}}
	tests := []struct {
		address string
		routes  []Route
		want    string
	}{
		{"10.9.0.200/32", routes, ""},
		{"10.9.0.200/24", routes, "10.9.0.200/24 instead of a quarantine address (/32)"},
		{"10.9.0.200/32", nil, "10.9.0.200/32 without routes to single hosts"},
	}
	for _, tt := range tests {
		a := &answer{lease: Lease{Address: netip.MustParsePrefix(tt.address)}, routes: tt.routes}
		if got := notQuarantine(a); got != tt.want {
			t.Errorf("%s, %v: got %q, want %q", tt.address, tt.routes, got, tt.want)
		}
	}
}

func TestDatagram4Checksums(t *testing.T) {
	for _, payload := range []string{"", "a", "ab", "landfall"} {
		b := Datagram4(netip.MustParseAddrPort("10.9.0.1:67"), netip.MustParseAddrPort("10.9.0.12:68"), []byte(payload))
		if sum := checksum(b[:ipv4Header]); sum != 0 {
			t.Errorf("%q: header sums up to %#x", payload, sum)
		}
		pseudo := append(append(slices.Clone(b[12:20]), 0, protoUDP), b[24:26]...)
		if sum := checksum(append(pseudo, b[ipv4Header:]...)); sum != 0 {
			t.Errorf("%q: datagram sums up to %#x", payload, sum)
		}
	}
}

// TestQuarantineIsShort: whatever a server says, a machine asks again soon.
func TestQuarantineIsShort(t *testing.T) {
	c := &client{quarantine: true}
	for said, want := range map[time.Duration]time.Duration{
		0: minQuarantine, time.Minute: time.Minute, 0xffffffff * time.Second: maxQuarantine,
	} {
		if got := c.take(&answer{time: said}).Duration; got != want {
			t.Errorf("a lease of %s is held for %s, want %s", said, got, want)
		}
	}
}

package dhcpserve

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

func inventedMAC(i int) net.HardwareAddr {
	m := net.HardwareAddr{2, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(m[2:], uint32(i))
	return m
}

// join is DISCOVER and REQUEST of a stranger; "" or the address.
func join(t testing.TB, c *Core, now time.Time, m net.HardwareAddr) string {
	t.Helper()
	offer := c.Answer4(now, 0, message(t, m, dhcpv4.MessageTypeDiscover))
	if offer == nil {
		return ""
	}
	o, err := dhcpv4.FromBytes(offer.Payload)
	must(t, err)
	return renew(t, c, now, m, o.YourIPAddr.String())
}

func renew(t testing.TB, c *Core, now time.Time, m net.HardwareAddr, address string) string {
	t.Helper()
	ack := c.Answer4(now, 0, message(t, m, dhcpv4.MessageTypeRequest, server("10.9.0.1"), wanted(address)))
	if ack == nil {
		return ""
	}
	a, err := dhcpv4.FromBytes(ack.Payload)
	must(t, err)
	if a.MessageType() != dhcpv4.MessageTypeAck {
		return ""
	}
	return a.YourIPAddr.String()
}

func TestQuarantineAddressesAreLentOnce(t *testing.T) {
	c := newCore(t, config(table()), true)
	has := map[string]int{}
	for i := range 10 { // half of the pool
		a := join(t, c, noon, inventedMAC(i))
		if a == "" {
			t.Fatalf("stranger %d got nothing", i)
		}
		if other, taken := has[a]; taken {
			t.Fatalf("strangers %d and %d both have %s", i, other, a)
		}
		has[a] = i
	}
	for a, i := range has {
		if got := renew(t, c, noon.Add(30*time.Second), inventedMAC(i), a); got != a {
			t.Errorf("stranger %d renews %s and gets %q", i, a, got)
		}
		if got := renew(t, c, noon.Add(30*time.Second), inventedMAC(99), a); got != "" {
			t.Errorf("somebody else gets %s of stranger %d", a, i)
		}
	}
}

// TestFloodOfInventedMACs: known devices don't feel it, strangers with a lease
// keep it, the pool never runs out, memory is bounded.
func TestFloodOfInventedMACs(t *testing.T) {
	c := newCore(t, config(table()), false)
	honest := join(t, c, noon, strangeMAC)
	if honest == "" {
		t.Fatal("no address for the first stranger")
	}
	now := noon
	for i := range 20000 { // 100 seconds of 200 a second
		now = now.Add(5 * time.Millisecond)
		join(t, c, now, inventedMAC(i))
		if i%5000 == 4999 { // each 25 s
			if got := renew(t, c, now, strangeMAC, honest); got != honest {
				t.Fatalf("after %s the stranger with %s gets %q", now.Sub(noon), honest, got)
			}
			if a := c.Answer4(now, 0, message(t, knownMAC, dhcpv4.MessageTypeDiscover, pxe)); a == nil {
				t.Fatal("a known device's firmware gets nothing")
			}
		}
	}
	if len(c.pool.owner) > len(c.pool.slots) {
		t.Errorf("%d owners of %d addresses", len(c.pool.owner), len(c.pool.slots))
	}
	if n := c.Counters(); n.PoolLimited == 0 {
		t.Errorf("nothing was limited: %+v", n)
	}
	// When it ends, a new stranger gets an address at once, or nearly.
	if a := join(t, c, now.Add(10*time.Second), inventedMAC(1<<20)); a == "" {
		t.Errorf("no address after the flood: %+v", c.Counters())
	}
}

func TestOffersTakeNothing(t *testing.T) {
	c := newCore(t, config(table()), false)
	for i := range 900 {
		c.Answer4(noon, 0, message(t, inventedMAC(i), dhcpv4.MessageTypeDiscover, rapid))
	}
	if len(c.pool.owner) != 0 {
		t.Errorf("900 DISCOVERs took %d addresses", len(c.pool.owner))
	}
	if n := c.Counters(); n.Offers != 900 || n.Strange != 900 {
		t.Errorf("counted %+v", n)
	}
}

func TestAnswersToStrangersAreLimited(t *testing.T) {
	c := newCore(t, config(table()), true)
	honest := join(t, c, noon.Add(-time.Second), strangeMAC)
	before := c.Counters()
	for i := range 5000 {
		c.Answer4(noon, 0, message(t, inventedMAC(i), dhcpv4.MessageTypeDiscover))
	}
	n := c.Counters()
	if answered, limited := n.Offers-before.Offers, n.PoolLimited-before.PoolLimited; answered != strangersPerSecond || answered+limited != 5000 {
		t.Errorf("of 5000 in a moment %d answered, %d limited", answered, limited)
	}
	if got := renew(t, c, noon, strangeMAC, honest); got != honest {
		t.Errorf("the stranger with %s gets %q in the same moment", honest, got)
	}
	if c.Answer4(noon, 0, message(t, knownMAC, dhcpv4.MessageTypeDiscover)) == nil {
		t.Error("a known device gets nothing in the same moment")
	}
}

func TestPoolOfOne(t *testing.T) {
	d := table()
	d.Quarantine = &snapshot.Quarantine{First: "10.9.0.200", Last: "10.9.0.200"}
	c := newCore(t, config(d), true)
	if a := join(t, c, noon, strangeMAC); a != "10.9.0.200" {
		t.Fatalf("got %q", a)
	}
	if a := join(t, c, noon, inventedMAC(1)); a != "" || c.Counters().PoolFull != 1 {
		t.Errorf("the second stranger gets %q; counted %+v", a, c.Counters())
	}
	// Given back, it is free at once; a new client waits for the limit.
	c.Answer4(noon, 0, message(t, strangeMAC, dhcpv4.MessageTypeRelease, server("10.9.0.1"), ciaddr("10.9.0.200")))
	if a := join(t, c, noon.Add(slotHold+time.Second), inventedMAC(1)); a != "10.9.0.200" {
		t.Errorf("after the release got %q", a)
	}
	// Somebody else uses it: nobody gets it for a while.
	later := noon.Add(2*slotHold + 2*time.Second)
	if a := join(t, c, later, inventedMAC(2)); a != "10.9.0.200" {
		t.Fatalf("after its time got %q", a)
	}
	c.Answer4(later, 0, message(t, inventedMAC(2), dhcpv4.MessageTypeDecline, server("10.9.0.1"), wanted("10.9.0.200")))
	if a := join(t, c, later.Add(slotHold-time.Second), inventedMAC(3)); a != "" {
		t.Errorf("a declined address is lent to another one: %s", a)
	}
}

// TestOneAddressEach: a client that comes back to another address has no claim on
// the first one, and whoever gets that takes nothing from it.
func TestOneAddressEach(t *testing.T) {
	p, err := newPool("10.9.0.200", "10.9.0.209")
	must(t, err)
	first, other := mac(inventedMAC(1)), mac(inventedMAC(2))
	later := noon.Add(slotHold + time.Second)
	if !p.take(1, first, noon) || !p.take(0, first, later) || !p.take(1, other, later) {
		t.Fatal("an address that is free was not lent")
	}
	if a, b := p.held(first, later), p.held(other, later); a != 0 || b != 1 {
		t.Errorf("they have the addresses %d and %d, want 0 and 1", a, b)
	}
}

// TestGivenBackElsewhere: what a client gives back to another server takes nothing
// from it here.
func TestGivenBackElsewhere(t *testing.T) {
	c := newCore(t, config(table()), true)
	a := join(t, c, noon, strangeMAC)
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline} {
		c.Answer4(noon, 0, message(t, strangeMAC, kind, server("10.66.0.1"), ciaddr(a)))
		if c.pool.held(mac(strangeMAC), noon) < 0 {
			t.Errorf("%s to another server, and %s is free", kind, a)
		}
	}
	if n := c.Counters(); n.Declined != 0 || n.Ignored != 2 {
		t.Errorf("counted %+v", n)
	}
}

// TestQuarantineRoutesAreFew: each member once, and no more than a client takes.
func TestQuarantineRoutesAreFew(t *testing.T) {
	own, gateway := netip.MustParsePrefix("10.9.0.1/24"), netip.MustParseAddr("10.9.0.254")
	member := func(network, i int, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(network), 0, byte(i)}), port)
	}
	if got := quarantineRoutes(own, gateway, []netip.AddrPort{member(9, 2, 1), member(9, 2, 2), member(8, 2, 1), member(8, 2, 2)}); len(got) != 3 {
		t.Errorf("two members and the gateway: got %v", got)
	}
	for _, network := range []int{8, 9} {
		var fleet []netip.AddrPort
		for i := range 40 {
			fleet = append(fleet, member(network, i+1, 7443))
		}
		if got := quarantineRoutes(own, gateway, fleet); len(got) > maxRoutes || len(got) < maxRoutes-1 {
			t.Errorf("40 members in 10.%d: %d routes, want at most %d", network, len(got), maxRoutes)
		}
	}
}

func TestQuarantineRoutes(t *testing.T) {
	cfg := config(table())
	cfg.Ports[0].Gateway = [1]Port{}[0].Gateway // none
	c := newCore(t, cfg, true)
	if got := c.ports[0].routes; len(got) != 1 || got[0].to.String() != "10.9.0.1" {
		t.Errorf("without a gateway: routes %v, want the member on the link only", got)
	}
	cfg.Fleet = cfg.Fleet[1:]
	c = newCore(t, cfg, true)
	if a := c.Answer4(noon, 0, message(t, strangeMAC, dhcpv4.MessageTypeDiscover)); a != nil || c.Counters().Unknown != 1 {
		t.Errorf("no member can be reached, but a stranger gets %s", words(t, a))
	}
}

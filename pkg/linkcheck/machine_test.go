package linkcheck_test

import (
	"bytes"
	"crypto/rand"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/lldp"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/qemu/fabric"
)

var epoch = time.Date(2099, 12, 31, 23, 59, 59, 0, time.UTC)

// ends is a machine for a with a link to b, and what answers for b.
func ends(t *testing.T, change func(c *linkcheck.Config)) (a *linkcheck.Machine, b *linkcheck.Session) {
	t.Helper()
	tpmA, tpmB := newTPM(t), newTPM(t)
	c := linkcheck.Config{
		Region: "sea1", Device: "a", Generation: 1, Session: newSession(t, tpmA, "a"), Rand: rand.Reader,
		Ports: []linkcheck.PortConfig{{Name: "eth0"}},
		Links: []linkcheck.Link{{Interface: "eth0", Peer: fabric.E("b", "eth0"), AKName: tpmB.AKName(), Required: true}},
	}
	if change != nil {
		change(&c)
	}
	m, err := linkcheck.New(epoch, c)
	if err != nil {
		t.Fatal(err)
	}
	return m, newSession(t, tpmB, "b")
}

// answer makes b's answer to a request.
func answer(t *testing.T, s *linkcheck.Session, request []byte, state linkcheck.State) []byte {
	t.Helper()
	q, err := linkcheck.ParseRequest(request)
	if err != nil {
		t.Fatal(err)
	}
	r := linkcheck.Response{Nonce: q.Nonce, Arrived: q.To.Interface, Expected: q.From, State: state, Generation: 1}
	if err := s.Sign(&r, request); err != nil {
		t.Fatal(err)
	}
	b, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// next lets time pass until the machine asks.
func next(t *testing.T, m *linkcheck.Machine, o linkcheck.Output) (time.Time, linkcheck.Send, linkcheck.Output) {
	t.Helper()
	if o.Wake.IsZero() {
		t.Fatal("the machine waits for nothing")
	}
	at := o.Wake
	o = m.Tick(at)
	if len(o.Send) != 1 {
		t.Fatalf("got %d requests, want 1", len(o.Send))
	}
	return at, o.Send[0], o
}

var peerAddr = netip.MustParseAddrPort("[fe80::b]:7447")

// TestAsking holds the intervals: at once, then 1, 2, 4, 8 s and a quarter more
// or less; from the second on anyone may answer; 2 s while the neighbor is
// pending, at the address that it answered from; then never again.
func TestAsking(t *testing.T) {
	t.Parallel()
	a, b := ends(t, nil)
	o := a.LinkUp(epoch, "eth0")
	last := epoch
	near := func(got, want time.Duration) {
		t.Helper()
		if got < want*3/4 || got > want*5/4 {
			t.Errorf("asked after %v, want %v and a quarter more or less", got, want)
		}
	}
	var at time.Time
	var s linkcheck.Send
	for i, want := range []time.Duration{0, 1, 2, 4, 8, 8, 8} {
		at, s, o = next(t, a, o)
		if want == 0 && at.Sub(last) > 200*time.Millisecond {
			t.Errorf("first asked after %v", at.Sub(last))
		} else if want > 0 {
			near(at.Sub(last), want*time.Second)
		}
		if q, err := linkcheck.ParseRequest(s.Datagram); err != nil || q.Anyone != (i > 0) || s.To.IsValid() {
			t.Errorf("request %d: %+v, %v, to %v", i, q, err, s.To)
		}
		last = at
	}
	o = a.Receive(at, "eth0", peerAddr, answer(t, b, s.Datagram, linkcheck.Pending))
	for range 3 {
		at, s, _ = next(t, a, o)
		near(at.Sub(last), 2*time.Second)
		if s.To != peerAddr {
			t.Errorf("asked %v, want the address of the proof", s.To)
		}
		last = at
		o = a.Receive(at, "eth0", peerAddr, answer(t, b, s.Datagram, linkcheck.Pending))
	}
	at, s, _ = next(t, a, o)
	o = a.Receive(at, "eth0", peerAddr, answer(t, b, s.Datagram, linkcheck.OK))
	if !o.Wake.IsZero() {
		t.Error("asks again after ok")
	}
	if len(o.Changed) != 1 || o.Changed[0].Verdict != linkcheck.ProvedOK {
		t.Errorf("got %v, want proved-ok", o.Changed)
	}
}

// TestProofIsForgotten: a neighbor that was pending and falls silent.
func TestProofIsForgotten(t *testing.T) {
	t.Parallel()
	a, b := ends(t, nil)
	at, s, _ := next(t, a, a.LinkUp(epoch, "eth0"))
	o := a.Receive(at, "eth0", peerAddr, answer(t, b, s.Datagram, linkcheck.Pending))
	for range 3 {
		_, s, o = next(t, a, o)
		if a.Links()[0].Verdict != linkcheck.Proved {
			t.Fatalf("got %s, want proved", a.Links()[0])
		}
	}
	if s.To.IsValid() {
		t.Errorf("still asks %v, which does not answer", s.To)
	}
	_, _, o = next(t, a, o)
	if len(o.Changed) != 1 || o.Changed[0].Verdict != linkcheck.Silent {
		t.Errorf("got %v, want silent", o.Changed)
	}
}

func TestProofOnly(t *testing.T) {
	t.Parallel()
	a, b := ends(t, func(c *linkcheck.Config) { c.Links[0].ProofOnly = true })
	at, s, _ := next(t, a, a.LinkUp(epoch, "eth0"))
	if o := a.Receive(at, "eth0", peerAddr, answer(t, b, s.Datagram, linkcheck.Pending)); !o.Wake.IsZero() || !a.Summary().Complete() {
		t.Error("asks again after a proof that is enough")
	}
}

func TestRoutedAddress(t *testing.T) {
	t.Parallel()
	far := netip.MustParseAddr("10.1.2.3")
	a, _ := ends(t, func(c *linkcheck.Config) { c.Links[0].Routed, c.Links[0].Address = true, far })
	if _, s, _ := next(t, a, a.LinkUp(epoch, "eth0")); s.To != netip.AddrPortFrom(far, linkcheck.Port) {
		t.Errorf("asked %v, want %v", s.To, far)
	}
}

// TestAddressComesLate asks a routed neighbor soon after an address has come,
// but no others, and none more often than once a second.
func TestAddressComesLate(t *testing.T) {
	t.Parallel()
	for _, routed := range []bool{true, false} {
		a, _ := ends(t, func(c *linkcheck.Config) {
			c.Links[0].Routed, c.Links[0].Address = routed, netip.MustParseAddr("10.1.2.3")
		})
		o := a.LinkUp(epoch, "eth0")
		var at time.Time
		for range 4 { // now it waits for 8 s
			at, _, o = next(t, a, o)
		}
		later, again := a.LinkUp(at.Add(10*time.Millisecond), "eth0"), a.LinkUp(at.Add(2*time.Second), "eth0")
		if !routed {
			if again.Wake != o.Wake {
				t.Error("an address makes it ask over the link itself")
			}
			continue
		}
		if d := later.Wake.Sub(at); d < time.Second || d > 1300*time.Millisecond {
			t.Errorf("asks %s after the last question", d)
		}
		if d := again.Wake.Sub(at); d > 2200*time.Millisecond {
			t.Errorf("the address came 2 s after the last question, and it asks %s after that", d)
		}
	}
}

// TestSwitchNames holds how a switch and its ports are called in a hold: by what
// is written on them.
func TestSwitchNames(t *testing.T) {
	t.Parallel()
	mac := lldp.ID{Subtype: lldp.MACAddress, Value: []byte{0, 0x11, 0x22, 0x33, 0x44, 0x55}}
	for _, tt := range []struct {
		want       snapshot.LLDP
		du         lldp.DU
		seen, says string
	}{
		{
			snapshot.LLDP{ChassisID: "tor-7", PortID: "12"},
			lldp.DU{Chassis: lldp.ID{Subtype: lldp.Local, Value: []byte("tor-7")}, Port: lldp.ID{Subtype: lldp.Local, Value: []byte("14")}, TTL: 120},
			"tor-7 port 14", "port 12",
		},
		{
			snapshot.LLDP{ChassisID: "mac:00:11:22:33:44:55", PortID: "ifname:Eth1/12"},
			lldp.DU{Chassis: mac, Port: lldp.ID{Subtype: lldp.InterfaceName, Value: []byte("Eth1/14")}, SystemName: "tor-7", TTL: 120},
			"tor-7 port Eth1/14", "port Eth1/12",
		},
		{
			snapshot.LLDP{ChassisID: "tor-8", PortID: "12"},
			lldp.DU{Chassis: mac, Port: lldp.ID{Subtype: lldp.Local, Value: []byte("12")}, TTL: 120},
			"00:11:22:33:44:55 port 12", "tor-8 port 12",
		},
	} {
		a, _ := ends(t, func(c *linkcheck.Config) { c.Ports[0].LLDP = &tt.want })
		a.LLDP(epoch, "eth0", &tt.du)
		s := a.Links()[0]
		if s.LLDP != linkcheck.LLDPMismatch || s.LLDPSeen != tt.seen || s.LLDPWant != tt.says {
			t.Errorf("got %s: %q, belongs on %q; want %q and %q", s.LLDP, s.LLDPSeen, s.LLDPWant, tt.seen, tt.says)
		}
	}
}

// TestDone holds the linger: until every required neighbor has had the answer
// "ok" and is content, but no longer than half a minute.
func TestDone(t *testing.T) {
	t.Parallel()
	a, _ := ends(t, nil)
	askFor := func(at time.Time, to linkcheck.End) {
		q := linkcheck.Request{Region: "sea1", From: fabric.E("b", "eth0"), To: to, Anyone: true}
		request, err := q.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		o := a.Receive(at, "eth0", peerAddr, request)
		if len(o.Send) != 1 || o.Send[0].To != peerAddr || len(o.Send[0].Datagram) > len(request) {
			t.Fatalf("got %v, want an answer that is no larger than the request", o.Send)
		}
	}
	ask := func(at time.Time) { askFor(at, fabric.E("a", "eth0")) }
	s := func(n float64) time.Time { return epoch.Add(time.Duration(n * float64(time.Second))) }
	ask(s(1)) // heard "pending"
	for _, step := range []struct {
		at   time.Time
		what func()
		want bool
	}{
		{s(4), func() {}, false},
		{s(5), func() { a.SetState(s(5), linkcheck.OK) }, false},
		{s(10), func() { askFor(s(10), fabric.E("c", "eth0")) }, false},
		{s(20), func() {}, false}, // that was about another link
		{s(21), func() { ask(s(21)) }, false},
		{s(23), func() {}, false}, // b would ask again after 2.5 s at most
		{s(24), func() {}, true},
		{s(25), func() { ask(s(25)) }, false}, // it had not heard
		{s(26), func() { a.SetState(s(26), linkcheck.Pending) }, false},
		{s(40), func() { a.SetState(s(40), linkcheck.OK) }, false}, // the answer was of another time
		{s(69), func() {}, false},
		{s(70), func() {}, true},
	} {
		step.what()
		if got := a.Done(step.at); got != step.want {
			t.Errorf("after %v: done is %t, want %t", step.at.Sub(epoch), got, step.want)
		}
	}
}

// TestGarbage counts what cannot be read, and does nothing about it.
func TestGarbage(t *testing.T) {
	t.Parallel()
	a, _ := ends(t, nil)
	o := a.LinkUp(epoch, "eth0")
	at, s, _ := next(t, a, o)
	for _, b := range [][]byte{nil, []byte("x"), make([]byte, 1200), make([]byte, 65536), bytes.Repeat([]byte{1}, 1199), s.Datagram[:100]} {
		if o := a.Receive(at, "eth0", peerAddr, b); len(o.Send)+len(o.Changed) > 0 {
			t.Errorf("%d octets of garbage led to %+v", len(b), o)
		}
	}
	if o := a.Receive(at, "eth9", peerAddr, s.Datagram); len(o.Send) > 0 {
		t.Error("answered on an interface that is not in the slice")
	}
	if c := a.Counters(); c.Malformed != 7 {
		t.Errorf("counted %d, want 7", c.Malformed)
	}
}

// TestBrokenRandom: no nonce is ever a guess.
func TestBrokenRandom(t *testing.T) {
	t.Parallel()
	a, _ := ends(t, func(c *linkcheck.Config) { c.Rand = strings.NewReader("") })
	o := a.LinkUp(epoch, "eth0")
	o = a.Tick(o.Wake)
	if len(o.Send) > 0 || o.Wake.IsZero() || a.Counters().Failed != 1 {
		t.Errorf("got %+v, want another try", o)
	}
}

func TestWipedSession(t *testing.T) {
	t.Parallel()
	_, b := ends(t, nil)
	b.Wipe()
	if err := b.Sign(&linkcheck.Response{Arrived: "eth0"}, nil); err == nil {
		t.Error("a wiped session signs")
	}
}

func TestConfigRefuses(t *testing.T) {
	t.Parallel()
	s := newSession(t, newTPM(t), "a")
	for name, change := range map[string]func(c *linkcheck.Config){
		"no session":        func(c *linkcheck.Config) { c.Session = nil },
		"another's session": func(c *linkcheck.Config) { c.Device = "c" },
		"no random":         func(c *linkcheck.Config) { c.Rand = nil },
		"interface twice":   func(c *linkcheck.Config) { c.Ports = append(c.Ports, c.Ports[0]) },
		"no such interface": func(c *linkcheck.Config) { c.Links[0].Interface = "eth1" },
		"link twice":        func(c *linkcheck.Config) { c.Links = append(c.Links, c.Links[0]) },
		"link to itself":    func(c *linkcheck.Config) { c.Links[0].Peer.Device = "a" },
		"routed to nowhere": func(c *linkcheck.Config) { c.Links[0].Routed = true },
		"LLDP":              func(c *linkcheck.Config) { c.Ports[0].LLDP = &snapshot.LLDP{ChassisID: "mac:x"} },
	} {
		c := linkcheck.Config{
			Region: "sea1", Device: "a", Session: s, Rand: rand.Reader, Ports: []linkcheck.PortConfig{{Name: "eth0"}},
			Links: []linkcheck.Link{{Interface: "eth0", Peer: fabric.E("b", "eth0")}},
		}
		change(&c)
		if _, err := linkcheck.New(epoch, c); err == nil || !strings.HasPrefix(err.Error(), "links cannot be checked: ") {
			t.Errorf("%s: got %v, want that they cannot be checked", name, err)
		}
	}
}

func TestFromSlice(t *testing.T) {
	t.Parallel()
	tor := &snapshot.LLDP{ChassisID: "tor", PortID: "7"}
	s := &snapshot.Slice{
		Region: "sea1", Generation: 3, Device: snapshot.Device{ID: "a"},
		Interfaces: []snapshot.Interface{{Name: "eth0", LLDP: tor}, {Name: "eth1"}},
		Neighbors: []snapshot.Neighbor{
			{Device: "b", Interface: "eth0", PeerInterface: "eth4", AKName: "000b", Link: "l2", Check: "required"},
			{Device: "c", Interface: "eth1", PeerInterface: "eth0", AKName: "000c", Link: "routed", Address: "10.0.8.3", Check: "advisory"},
			{Device: "d", Interface: "eth1", PeerInterface: "eth0", AKName: "000d", Link: "l2", Check: "required"},
		},
		Policy:    snapshot.Policy{Links: "required"},
		Amendment: &snapshot.Amendment{Waivers: []snapshot.Waiver{{Interface: "eth1", Peer: "d", Reason: "dead"}}},
	}
	want := linkcheck.Config{
		Region: "sea1", Device: "a", Generation: 3,
		Ports: []linkcheck.PortConfig{{Name: "eth0", LLDP: tor}, {Name: "eth1"}},
		Links: []linkcheck.Link{
			{Interface: "eth0", Peer: fabric.E("b", "eth4"), AKName: "000b", Required: true},
			{Interface: "eth1", Peer: fabric.E("c", "eth0"), AKName: "000c", Routed: true, Address: netip.MustParseAddr("10.0.8.3")},
			{Interface: "eth1", Peer: fabric.E("d", "eth0"), AKName: "000d", Waiver: "dead"},
		},
	}
	if diff := cmp.Diff(want.Links, linkcheck.FromSlice(s).Links, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want.Ports, linkcheck.FromSlice(s).Ports); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s.Policy.Links = "advisory"
	if linkcheck.FromSlice(s).Links[0].Required {
		t.Error("a link is required against the region's policy")
	}
}

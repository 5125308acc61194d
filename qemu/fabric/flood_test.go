package fabric_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// TestFlood has somebody on a's switch ask a thousand times a second, in their
// own name and in that of a's neighbor: a signs little for it, and still proves
// its links.
func TestFlood(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"stranger", "b"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := pair(t)
			on(t, n, "a", "b")
			q := linkcheck.Request{Region: "sea1", From: fabric.E(name, "eth0"), To: fabric.E("a", "eth0"), Anyone: true}
			flood, err := q.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			from := netip.MustParseAddrPort("[fe80::bad]:7447")
			for range 10_000 {
				n.Run(n.Now()+time.Millisecond, nil)
				n.Inject(fabric.Packet{From: from, To: fabric.E("a", "eth0"), Datagram: flood})
			}
			most := 1 + 10
			if name == "b" {
				most = 10 + 10*10
			}
			if c := n.Device("a").Machine.Counters(); int(c.Answered) > most+10 || c.Limited < 9000 {
				t.Errorf("a flood of 10,000 requests in 10 s got %d answers, want %d and those to b: %+v", c.Answered, most, c)
			}
			if s := n.Device("b").Verdict("eth1", "a"); !s.Verdict.Proof() {
				t.Errorf("a flood on one port costs the other its proof: %s", s)
			}
			// Who floods in b's name on b's own segment keeps b waiting, but
			// no longer than that.
			if name == "stranger" {
				want(t, n, "b", "eth0", "a", linkcheck.ProvedOK)
			}
			if !n.Run(40*time.Second, n.AllReady) {
				t.Error("not ready after the flood")
			}
		})
	}
}

// TestForgedFlood answers each request a thousand times with b's own
// certificate: what a checks is bounded, and the true answer counts.
func TestForgedFlood(t *testing.T) {
	t.Parallel()
	n := pair(t)
	n.Tap = func(p fabric.Packet) []fabric.Packet {
		if _, ok := response(p); !ok {
			return []fabric.Packet{p}
		}
		var all []fabric.Packet
		for range 1000 {
			all = append(all, forge(t, p, func(r *linkcheck.Response) { r.Generation++ }))
		}
		return all
	}
	on(t, n, "a", "b")
	n.Run(5*time.Second, nil)
	c := n.Device("a").Machine.Counters()
	if c.BadSignature > 32*c.Asked || c.Limited == 0 {
		t.Errorf("%d requests led to %d checked signatures, want at most 32 each", c.Asked, c.BadSignature)
	}
	n.Tap = nil
	if !n.Run(30*time.Second, n.AllReady) {
		t.Error("not ready after the flood")
	}
}

// TestNoiseHidesNothing has somebody claim three other things at once about each
// request of a link that leads to the wrong port: what the neighbor's TPM
// vouches for stays on the screen. Where nobody does, one request changes it
// once at most.
func TestNoiseHidesNothing(t *testing.T) {
	t.Parallel()
	tpm, err := fabric.NewTPM()
	if err != nil {
		t.Fatal(err)
	}
	var noise []*linkcheck.Session
	for _, id := range []string{"x", "y", "z"} {
		s, err := tpm.Session("sea1", id)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Wipe()
		noise = append(noise, s)
	}
	n := pair(t)
	n.Swap(fabric.E("b", "eth0"), fabric.E("b", "eth1"))
	swallow := false
	n.Tap = func(p fabric.Packet) []fabric.Packet {
		if _, ok := response(p); !ok {
			return []fabric.Packet{p}
		}
		var all []fabric.Packet
		if !swallow {
			all = append(all, p)
		}
		for _, s := range noise {
			all = append(all, forge(t, p, func(r *linkcheck.Response) { r.Certificate = s.Certificate() }))
		}
		return all
	}
	on(t, n, "a", "b")
	a := n.Device("a")
	n.Run(15*time.Second, nil)
	if s := want(t, n, "a", "eth0", "b", linkcheck.WrongPort, fabric.E("b", "eth1")); !s.Proven {
		t.Errorf("a says %s", s)
	}
	for _, c := range a.History {
		if v := c.Status.Verdict; v != linkcheck.WrongPort {
			t.Errorf("a said %s", c.Status)
		}
	}
	swallow = true
	n.Run(60*time.Second, nil)
	want(t, n, "a", "eth0", "b", linkcheck.WrongDevice)
	if asked := int(a.Machine.Counters().Asked); len(a.History) > asked {
		t.Errorf("%d requests led to %d changes on the screen", asked, len(a.History))
	}
}

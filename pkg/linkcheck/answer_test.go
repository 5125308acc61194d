package linkcheck_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// put has a machine take a request on a port, and returns whom its answer
// expects there; no answer is "silence".
func put(t *testing.T, m *linkcheck.Machine, at time.Time, iface string, q linkcheck.Request) string {
	t.Helper()
	if q.Region == "" {
		q.Region = "sea1"
	}
	b, err := q.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	o := m.Receive(at, iface, peerAddr, b)
	if len(o.Send) == 0 {
		return "silence"
	}
	r, err := linkcheck.ParseResponse(o.Send[0].Datagram)
	if err != nil {
		t.Fatal(err)
	}
	return r.Expected.String()
}

// TestAnswers is every check of a request. a has b and d on eth0, c on eth1.
func TestAnswers(t *testing.T) {
	t.Parallel()
	e := fabric.E
	type counters = linkcheck.Counters
	notForUs := counters{NotForUs: 1}
	tests := []struct {
		name  string
		q     linkcheck.Request
		want  string
		count counters
	}{
		{name: "the neighbor", q: linkcheck.Request{From: e("b", "eth0"), To: e("a", "eth0")}, want: "b eth0"},
		{name: "the other neighbor of this port", q: linkcheck.Request{From: e("d", "eth5"), To: e("a", "eth0")}, want: "d eth5"},
		{name: "the neighbor, from another port", q: linkcheck.Request{From: e("d", "eth7"), To: e("a", "eth0")}, want: "d eth5"},
		{name: "a stranger", q: linkcheck.Request{From: e("x", "eth0"), To: e("a", "eth0")}, want: "b eth0"},
		{name: "for another device", q: linkcheck.Request{From: e("b", "eth0"), To: e("x", "eth0")}, want: "silence", count: notForUs},
		{name: "for another port", q: linkcheck.Request{From: e("c", "eth0"), To: e("a", "eth1")}, want: "silence", count: notForUs},
		{name: "for anyone", q: linkcheck.Request{From: e("b", "eth0"), To: e("x", "eth0"), Anyone: true}, want: "b eth0"},
		{name: "for anyone, who is on this switch", q: linkcheck.Request{From: e("d", "eth5"), To: e("b", "eth0"), Anyone: true}, want: "silence", count: notForUs},
		{name: "another region, for anyone", q: linkcheck.Request{Region: "lon2", From: e("d", "eth5"), To: e("b", "eth0"), Anyone: true}, want: "b eth0"},
		{name: "another region, for one of our name", q: linkcheck.Request{Region: "lon2", From: e("d", "eth5"), To: e("a", "eth0")}, want: "silence", count: notForUs},
		{name: "our own", q: linkcheck.Request{From: e("a", "eth1"), To: e("a", "eth0"), Anyone: true}, want: "silence", count: counters{Reflected: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newCourt(t, nil)
			if got := put(t, k.m, k.at, "eth0", tt.q); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			count := k.m.Counters()
			count.Asked, count.Answered = 0, 0
			if diff := cmp.Diff(tt.count, count); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAnswerRates: a neighbor that asks for its port gets ten answers a second,
// all others one, and none takes from another.
func TestAnswerRates(t *testing.T) {
	t.Parallel()
	e := fabric.E
	k := newCourt(t, nil)
	for _, tt := range []struct {
		name string
		q    linkcheck.Request
		want int
	}{
		{"stranger", linkcheck.Request{From: e("x", "eth0"), To: e("a", "eth0")}, 1},
		{"neighbor that asks for anyone", linkcheck.Request{From: e("b", "eth0"), To: e("y", "eth0"), Anyone: true}, 1},
		{"neighbor", linkcheck.Request{From: e("b", "eth0"), To: e("a", "eth0")}, 10},
		{"the other neighbor", linkcheck.Request{From: e("d", "eth5"), To: e("a", "eth0")}, 10},
	} {
		got := 0
		for range 20 {
			if put(t, k.m, k.at, "eth0", tt.q) != "silence" {
				got++
			}
		}
		if got != tt.want {
			t.Errorf("%s: %d answers at once, want %d", tt.name, got, tt.want)
		}
	}
}

// TestDoneCountsThePort: only a neighbor that asks from its own port has heard
// what it needs.
func TestDoneCountsThePort(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]bool{"eth0": true, "eth7": false} {
		a, _ := ends(t, nil)
		a.SetState(epoch, linkcheck.OK)
		put(t, a, epoch, "eth0", linkcheck.Request{From: fabric.E("b", from), To: fabric.E("a", "eth0")})
		if got := a.Done(epoch.Add(5 * time.Second)); got != want {
			t.Errorf("asked from %s: done is %t", from, got)
		}
	}
}

// TestLoop: our own request on another of our ports is a cable between the two,
// if it was for anyone and is one of ours.
func TestLoop(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		asks  int
		iface string
		edit  func(q *linkcheck.Request)
		want  linkcheck.Verdict
	}{
		"on another port":        {2, "eth1", nil, linkcheck.WrongDevice},
		"on its own port":        {2, "eth0", nil, linkcheck.Unknown},
		"that was for one":       {1, "eth1", nil, linkcheck.Unknown},
		"that was never asked":   {2, "eth1", func(q *linkcheck.Request) { q.Nonce[0] ^= 1 }, linkcheck.Unknown},
		"that says another port": {2, "eth0", func(q *linkcheck.Request) { q.From.Interface = "eth1" }, linkcheck.Unknown},
	} {
		k := newCourt(t, nil)
		if tt.asks == 2 {
			k.ask(t, k.at.Add(2*time.Second))
		}
		q, err := linkcheck.ParseRequest(k.requests["b"])
		if err != nil {
			t.Fatal(err)
		}
		if tt.edit != nil {
			tt.edit(q)
		}
		put(t, k.m, k.at, tt.iface, *q)
		got := k.m.Links()[0]
		if got.Verdict != tt.want || tt.want == linkcheck.WrongDevice && got.Seen != fabric.E("a", "eth1") {
			t.Errorf("%s: got %s, want %s", name, got, tt.want)
		}
	}
}

// TestCarrierForgets what was proved or claimed of a cable, which may be another
// one by now.
func TestCarrierForgets(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]func(k *court) testimony{
		"proof": func(k *court) testimony { return testimony{tpm: k.b, device: "b"} },
		"claim": func(k *court) testimony { return testimony{tpm: k.b, device: "x"} },
	} {
		k := newCourt(t, nil)
		k.m.Receive(k.at, "eth0", peerAddr, k.answer(t, by(k)))
		k.m.LinkDown(k.at, "eth0")
		if got := k.m.Links()[0]; got.Verdict != linkcheck.Unknown || got.Carrier {
			t.Errorf("%s: got %s", name, got)
		}
		k.m.LinkUp(k.at, "eth0")
		k.m.Receive(k.at, "eth0", peerAddr, k.answer(t, testimony{tpm: k.b, device: "b"}))
		if got := k.m.Links()[0]; got.Verdict != linkcheck.Unknown {
			t.Errorf("%s: an answer from before counts: %s", name, got)
		}
	}
}

// TestProductionAsksNothing more.
func TestProductionAsksNothing(t *testing.T) {
	t.Parallel()
	k := newCourt(t, nil)
	if o := k.m.SetState(k.at, linkcheck.Production); !o.Wake.IsZero() {
		t.Errorf("waits until %s", o.Wake)
	}
	if o := k.m.Tick(k.at.Add(time.Minute)); len(o.Send) > 0 {
		t.Errorf("asks %d times", len(o.Send))
	}
	k.m.Receive(k.at, "eth0", peerAddr, k.answer(t, testimony{tpm: k.b, device: "b"}))
	if got := k.m.Links()[0]; got.Verdict != linkcheck.Unknown {
		t.Errorf("an answer to what it asked before counts: %s", got)
	}
}

// TestFourRequests may be answered at most; the oldest goes first.
func TestFourRequests(t *testing.T) {
	t.Parallel()
	for newer, want := range map[int]linkcheck.Verdict{3: linkcheck.Proved, 4: linkcheck.Unknown} {
		a, b := ends(t, func(c *linkcheck.Config) {
			c.Links[0].Routed, c.Links[0].Address = true, netip.MustParseAddr("10.1.2.3")
		})
		at, first, _ := next(t, a, a.LinkUp(epoch, "eth0"))
		for range newer {
			o := a.LinkUp(at.Add(time.Second), "eth0") // an address comes
			at, _, _ = next(t, a, o)
		}
		a.Receive(at, "eth0", peerAddr, answer(t, b, first.Datagram, linkcheck.Pending))
		if got := a.Links()[0].Verdict; got != want && (want == linkcheck.Proved || got == linkcheck.Proved) {
			t.Errorf("after %d more requests: got %s, want %s", newer, got, want)
		}
	}
}

func TestWaivedLinksDoNotCount(t *testing.T) {
	t.Parallel()
	a, _ := ends(t, func(c *linkcheck.Config) { c.Links[0].Waiver = "dead port" })
	if diff := cmp.Diff(linkcheck.Summary{}, a.Summary()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

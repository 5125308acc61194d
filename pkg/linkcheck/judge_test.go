package linkcheck_test

import (
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// court is a machine for a, which waits for answers of b on eth0, of d on the
// same port by a switch, and of c on eth1.
type court struct {
	m        *linkcheck.Machine
	at       time.Time         // when it asked
	requests map[string][]byte // by whom they are for
	b, c, d  *fabric.TPM
}

func newCourt(t *testing.T, change func(c *linkcheck.Config)) *court {
	t.Helper()
	k := &court{at: epoch.Add(time.Second), requests: map[string][]byte{}, b: newTPM(t), c: newTPM(t), d: newTPM(t)}
	cfg := linkcheck.Config{
		Region: "sea1", Device: "a", Generation: 1, Session: newSession(t, newTPM(t), "a"), Rand: rand.Reader,
		Ports: []linkcheck.PortConfig{{Name: "eth0"}, {Name: "eth1"}},
		Links: []linkcheck.Link{
			{Interface: "eth0", Peer: fabric.E("b", "eth0"), AKName: k.b.AKName(), Required: true},
			{Interface: "eth1", Peer: fabric.E("c", "eth0"), AKName: k.c.AKName(), Required: true},
			{Interface: "eth0", Peer: fabric.E("d", "eth5"), AKName: k.d.AKName(), Required: true},
		},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if k.m, err = linkcheck.New(epoch, cfg); err != nil {
		t.Fatal(err)
	}
	k.m.LinkUp(epoch, "eth0")
	k.m.LinkUp(epoch, "eth1")
	k.ask(t, k.at)
	return k
}

// ask has the machine ask whom it still asks.
func (k *court) ask(t *testing.T, at time.Time) {
	t.Helper()
	k.at = at
	for _, s := range k.m.Tick(at).Send {
		q, err := linkcheck.ParseRequest(s.Datagram)
		if err != nil {
			t.Fatal(err)
		}
		k.requests[q.To.Device] = s.Datagram
	}
}

// testimony is an answer to the request for b, and what is wrong with it.
type testimony struct {
	tpm    *fabric.TPM
	region string // "": sea1
	device string
	edit   func(r *linkcheck.Response) // before it is signed
	after  func(r *linkcheck.Response)
	over   func(request []byte) // what the signature is over, changed
}

func (k *court) answer(t *testing.T, y testimony) []byte {
	t.Helper()
	if y.region == "" {
		y.region = "sea1"
	}
	s, err := y.tpm.Session(y.region, y.device)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Wipe()
	request := append([]byte(nil), k.requests["b"]...)
	q, err := linkcheck.ParseRequest(request)
	if err != nil {
		t.Fatal(err)
	}
	r := linkcheck.Response{Nonce: q.Nonce, Arrived: "eth0", Expected: fabric.E("a", "eth0"), State: linkcheck.Pending, Generation: 1}
	if y.edit != nil {
		y.edit(&r)
	}
	if y.over != nil {
		y.over(request)
	}
	if err := s.Sign(&r, request); err != nil {
		t.Fatal(err)
	}
	if y.after != nil {
		y.after(&r)
	}
	b, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestJudge is every check of an answer, by an answer that fails that one only.
func TestJudge(t *testing.T) {
	t.Parallel()
	type counters = linkcheck.Counters
	edit := func(f func(r *linkcheck.Response)) func(k *court) testimony {
		return func(k *court) testimony { return testimony{tpm: k.b, device: "b", edit: f} }
	}
	tests := []struct {
		name  string
		by    func(k *court) testimony
		iface string        // "": eth0
		after time.Duration // since the request
		want  linkcheck.Verdict
		count counters
	}{
		{name: "the neighbor", by: edit(nil), want: linkcheck.Proved},
		{name: "in the last moment", by: edit(nil), after: 10 * time.Second, want: linkcheck.Proved},
		{name: "the neighbor is ok", by: edit(func(r *linkcheck.Response) { r.State = linkcheck.OK }), want: linkcheck.ProvedOK},
		{name: "the neighbor in production", by: func(k *court) testimony {
			k.b.Cap()
			return testimony{tpm: k.b, device: "b", edit: func(r *linkcheck.Response) { r.State = linkcheck.Production }}
		}, want: linkcheck.InProduction},

		{name: "to no request", by: edit(func(r *linkcheck.Response) { r.Nonce[0] ^= 1 }), want: linkcheck.Unknown, count: counters{Unmatched: 1}},
		{name: "on another interface", by: edit(nil), iface: "eth1", want: linkcheck.Unknown, count: counters{CrossInterface: 1}},
		{name: "too late", by: edit(nil), after: 10*time.Second + 1, want: linkcheck.Unknown, count: counters{Late: 1}},
		{name: "state that is none", by: edit(func(r *linkcheck.Response) { r.State = 4 }), want: linkcheck.Unknown, count: counters{Malformed: 1}},
		{name: "certificate that is none", by: func(k *court) testimony {
			return testimony{tpm: k.b, device: "b", after: func(r *linkcheck.Response) { r.Certificate = []byte{1, 2} }}
		}, want: linkcheck.Unknown, count: counters{Malformed: 1}},
		{name: "the other neighbor of this port", by: func(k *court) testimony {
			return testimony{tpm: k.d, device: "d", edit: func(r *linkcheck.Response) { r.Arrived = "eth5" }}
		}, want: linkcheck.Unknown, count: counters{NotForUs: 1}},

		{name: "the other neighbor from another of its ports", by: func(k *court) testimony { return testimony{tpm: k.d, device: "d"} }, want: linkcheck.WrongPort},
		{name: "from another port", by: edit(func(r *linkcheck.Response) { r.Arrived = "eth7" }), want: linkcheck.WrongPort},
		{name: "the neighbor of another port", by: func(k *court) testimony { return testimony{tpm: k.c, device: "c"} }, want: linkcheck.WrongPort},
		{name: "expects another port of ours", by: edit(func(r *linkcheck.Response) { r.Expected = fabric.E("a", "eth1") }), want: linkcheck.Disagrees},
		{name: "expects another device", by: edit(func(r *linkcheck.Response) { r.Expected = fabric.E("x", "eth0") }), want: linkcheck.Disagrees},
		{name: "expects nobody", by: edit(func(r *linkcheck.Response) { r.Expected = linkcheck.End{} }), want: linkcheck.Disagrees},
		{name: "another region", by: func(k *court) testimony { return testimony{tpm: k.b, region: "lon2", device: "b"} }, want: linkcheck.Foreign},
		{name: "a device that is no neighbor", by: func(k *court) testimony { return testimony{tpm: k.b, device: "x"} }, want: linkcheck.WrongDevice},

		{name: "by another TPM", by: func(k *court) testimony { return testimony{tpm: k.c, device: "b"} }, want: linkcheck.BadSignature, count: counters{BadCertificate: 1}},
		{name: "capped, and extended again", by: func(k *court) testimony {
			k.b.Cap()
			k.b.Cap()
			return testimony{tpm: k.b, device: "b"}
		}, want: linkcheck.BadSignature, count: counters{BadCertificate: 1}},
		{name: "another's certificate", by: func(k *court) testimony {
			other := newSession(t, k.b, "b").Certificate()
			return testimony{tpm: k.b, device: "b", after: func(r *linkcheck.Response) { r.Certificate = other }}
		}, want: linkcheck.BadSignature, count: counters{BadSignature: 1}},
		{name: "changed after it was signed", by: func(k *court) testimony {
			return testimony{tpm: k.b, device: "b", after: func(r *linkcheck.Response) { r.State = linkcheck.OK }}
		}, want: linkcheck.BadSignature, count: counters{BadSignature: 1}},
		{name: "to a request that was changed on its way", by: func(k *court) testimony {
			return testimony{tpm: k.b, device: "b", over: func(request []byte) { request[7] ^= 1 }}
		}, want: linkcheck.BadSignature, count: counters{BadSignature: 1}},
		{name: "production that is not capped", by: edit(func(r *linkcheck.Response) { r.State = linkcheck.Production }),
			want: linkcheck.BadSignature, count: counters{BadSignature: 1}},
		{name: "capped, and says it boots", by: func(k *court) testimony {
			k.b.Cap()
			return testimony{tpm: k.b, device: "b"}
		}, want: linkcheck.BadSignature, count: counters{BadSignature: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newCourt(t, nil)
			iface := tt.iface
			if iface == "" {
				iface = "eth0"
			}
			k.m.Receive(k.at.Add(tt.after), iface, peerAddr, k.answer(t, tt.by(k)))
			if got := k.m.Links()[0]; got.Verdict != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			for _, other := range k.m.Links()[1:] {
				if other.Verdict != linkcheck.Unknown {
					t.Errorf("it says something of another link: %s", other)
				}
			}
			count := k.m.Counters()
			count.Asked = 0
			if diff := cmp.Diff(tt.count, count); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
		})
	}
}

// TestJudgeLooksAtThePeer that the certificate was verified for.
func TestJudgeLooksAtThePeer(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(p *linkcheck.Peer){
		"another device": func(p *linkcheck.Peer) { p.Device = "c" }, "another region": func(p *linkcheck.Peer) { p.Region = "lon2" },
	} {
		k := newCourt(t, func(c *linkcheck.Config) {
			c.Verify = func(certificate []byte, akName string) (*linkcheck.Peer, error) {
				p, err := linkcheck.VerifyCertificate(certificate, akName)
				if err == nil {
					change(p)
				}
				return p, err
			}
		})
		k.m.Receive(k.at, "eth0", peerAddr, k.answer(t, testimony{tpm: k.b, device: "b"}))
		if got := k.m.Links()[0]; got.Verdict != linkcheck.BadSignature || k.m.Counters().BadCertificate != 1 {
			t.Errorf("%s: got %s, counted %+v", name, got, k.m.Counters())
		}
	}
}

// TestJudgeVerifiesOnce a certificate, and another one again.
func TestJudgeVerifiesOnce(t *testing.T) {
	t.Parallel()
	verified := 0
	k := newCourt(t, func(c *linkcheck.Config) {
		c.Verify = func(certificate []byte, akName string) (*linkcheck.Peer, error) {
			verified++
			return linkcheck.VerifyCertificate(certificate, akName)
		}
	})
	s := newSession(t, k.b, "b")
	for i, want := range []int{1, 1, 2} {
		if i == 2 {
			s = newSession(t, k.b, "b") // it has booted again
		}
		k.ask(t, k.at.Add(3*time.Second))
		k.m.Receive(k.at, "eth0", peerAddr, answer(t, s, k.requests["b"], linkcheck.Pending))
		if got := k.m.Links()[0]; verified != want || got.Verdict != linkcheck.Proved {
			t.Errorf("answer %d: %d certificates were verified, want %d; %s", i, verified, want, got)
		}
	}
}

// TestJudgeReplay: an answer counts once, and a proof uses up all requests
// before it.
func TestJudgeReplay(t *testing.T) {
	t.Parallel()
	k := newCourt(t, nil)
	first := k.requests["b"]
	k.ask(t, k.at.Add(2*time.Second))
	b := newSession(t, k.b, "b")
	second := answer(t, b, k.requests["b"], linkcheck.Pending)
	for _, datagram := range [][]byte{second, second, answer(t, b, first, linkcheck.OK)} {
		k.m.Receive(k.at, "eth0", peerAddr, datagram)
	}
	if got, n := k.m.Links()[0], k.m.Counters().Unmatched; got.Verdict != linkcheck.Proved || n != 2 {
		t.Errorf("got %s, %d unmatched; want proved, 2", got, n)
	}
}

// TestJudgeBound: forged answers cost a bounded number of signatures, and until
// then the neighbor's own still counts.
func TestJudgeBound(t *testing.T) {
	t.Parallel()
	for forged, want := range map[uint64]linkcheck.Verdict{31: linkcheck.Proved, 32: linkcheck.BadSignature} {
		k := newCourt(t, nil)
		forgery := k.answer(t, testimony{tpm: k.b, device: "b", after: func(r *linkcheck.Response) { r.Generation++ }})
		for range forged {
			k.m.Receive(k.at, "eth0", peerAddr, forgery)
		}
		k.m.Receive(k.at, "eth0", peerAddr, k.answer(t, testimony{tpm: k.b, device: "b"}))
		c := k.m.Counters()
		if got := k.m.Links()[0]; got.Verdict != want || c.BadSignature != forged || c.Limited != forged-31 {
			t.Errorf("after %d forgeries: got %s, counted %+v; want %s", forged, got, c, want)
		}
	}
}

// TestJudgeClaims: what a TPM vouches for is not displaced by what anybody can
// say; of two claims to one request the first is shown; none is shown for ever.
func TestJudgeClaims(t *testing.T) {
	t.Parallel()
	type step struct {
		after time.Duration // since the step before; 0: the same request
		by    string        // "": nobody
		want  linkcheck.Verdict
	}
	const moment = 2 * time.Second
	tests := []struct {
		name  string
		steps []step
	}{
		{"one request, two claims", []step{{0, "stranger", linkcheck.WrongDevice}, {0, "foreigner", linkcheck.WrongDevice}}},
		{"the next request, another claim", []step{{0, "stranger", linkcheck.WrongDevice}, {moment, "foreigner", linkcheck.Foreign}}},
		{"a proven one displaces a claim", []step{{0, "stranger", linkcheck.WrongDevice}, {0, "c", linkcheck.WrongPort}}},
		{"a claim does not displace a proven one", []step{{0, "c", linkcheck.WrongPort}, {moment, "stranger", linkcheck.WrongPort}}},
		{"a proven one displaces the one before", []step{{0, "c", linkcheck.WrongPort}, {moment, "other slice", linkcheck.Disagrees}}},
		{"a proof displaces all", []step{{0, "c", linkcheck.WrongPort}, {0, "b", linkcheck.Proved}}},
		{"nothing displaces a proof", []step{{0, "b", linkcheck.Proved}, {moment, "c", linkcheck.Proved}, {moment, "stranger", linkcheck.Proved}}},
		{"a claim is forgotten", []step{{0, "stranger", linkcheck.WrongDevice}, {20 * time.Second, "", linkcheck.WrongDevice}, {1, "", linkcheck.Unknown}}},
		{"an old proven one is displaced", []step{{0, "c", linkcheck.WrongPort}, {21 * time.Second, "stranger", linkcheck.WrongDevice}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newCourt(t, nil)
			by := map[string]testimony{
				"b": {tpm: k.b, device: "b"}, "c": {tpm: k.c, device: "c"}, "stranger": {tpm: k.b, device: "x"},
				"foreigner":   {tpm: k.b, region: "lon2", device: "b"},
				"other slice": {tpm: k.b, device: "b", edit: func(r *linkcheck.Response) { r.Expected = fabric.E("x", "eth0") }},
			}
			for i, s := range tt.steps {
				switch {
				case s.by == "":
					k.at = k.at.Add(s.after)
					k.m.SetState(k.at, linkcheck.Pending) // looks at the clock, and asks nothing
				case s.after > 0:
					k.ask(t, k.at.Add(s.after))
				}
				if s.by != "" {
					k.m.Receive(k.at, "eth0", peerAddr, k.answer(t, by[s.by]))
				}
				if got := k.m.Links()[0]; got.Verdict != s.want {
					t.Errorf("step %d, %q: got %s, want %s", i, s.by, got, s.want)
				}
			}
		})
	}
}

// TestJudgeTells who answered, and how sure that is.
func TestJudgeTells(t *testing.T) {
	t.Parallel()
	k := newCourt(t, nil)
	k.m.Receive(k.at, "eth0", peerAddr, k.answer(t, testimony{tpm: k.c, device: "c", edit: func(r *linkcheck.Response) { r.Expected, r.Generation = fabric.E("x", "eth9"), 7 }}))
	got := k.m.Links()[0]
	if got.Seen != fabric.E("c", "eth0") || !got.Proven || got.Ours != "eth1" || got.Belongs != fabric.E("x", "eth9") || got.Generation != 7 || got.Err != nil {
		t.Errorf("a proven wrong port: %+v", got)
	}
	k = newCourt(t, nil)
	k.m.Receive(k.at, "eth0", peerAddr, k.answer(t, testimony{tpm: k.c, device: "b"}))
	if got := k.m.Links()[0]; got.Proven || !errors.Is(got.Err, linkcheck.ErrAK) {
		t.Errorf("another TPM: %+v", got)
	}
}

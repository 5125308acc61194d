package fabric_test

import (
	"errors"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// pair is a region of two devices with two cables between them.
func pair(t testing.TB) *fabric.Network {
	e := fabric.E
	return build(t, fabric.Plan{Region: "sea1", Generation: 1, Wires: []fabric.Wire{
		{A: e("a", "eth0"), B: e("b", "eth0")},
		{A: e("a", "eth1"), B: e("b", "eth1")},
	}})
}

// everProved says whether a device ever took a link for proved.
func everProved(d *fabric.Device, iface string) bool {
	for _, c := range d.History {
		if c.Status.Interface == iface && c.Status.Verdict.Proof() {
			return true
		}
	}
	return false
}

// response reads a packet as a response.
func response(p fabric.Packet) (*linkcheck.Response, bool) {
	r, err := linkcheck.ParseResponse(p.Datagram)
	return r, err == nil
}

// forge returns the packet with its response changed by somebody who has no
// key.
func forge(t testing.TB, p fabric.Packet, change func(r *linkcheck.Response)) fabric.Packet {
	t.Helper()
	r, ok := response(p)
	if !ok {
		t.Fatal("no response")
	}
	change(r)
	b, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	p.Datagram = b
	return p
}

// TestForged has a switch between that changes every answer, alone and in a race
// with the true one.
func TestForged(t *testing.T) {
	t.Parallel()
	foreign, err := fabric.NewTPM()
	if err != nil {
		t.Fatal(err)
	}
	posing, err := foreign.Session("sea1", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer posing.Wipe()
	other, err := foreign.Session("lon2", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Wipe()
	for name, tt := range map[string]struct {
		change  func(r *linkcheck.Response)
		verdict linkcheck.Verdict
		err     error
	}{
		"state":       {func(r *linkcheck.Response) { r.State = linkcheck.OK + linkcheck.Pending - r.State }, linkcheck.BadSignature, linkcheck.ErrSignature},
		"production":  {func(r *linkcheck.Response) { r.State = linkcheck.Production }, linkcheck.BadSignature, linkcheck.ErrSignature},
		"generation":  {func(r *linkcheck.Response) { r.Generation++ }, linkcheck.BadSignature, linkcheck.ErrSignature},
		"interface":   {func(r *linkcheck.Response) { r.Arrived = "eth9" }, linkcheck.BadSignature, linkcheck.ErrSignature},
		"expectation": {func(r *linkcheck.Response) { r.Expected.Device = "c" }, linkcheck.BadSignature, linkcheck.ErrSignature},
		"certificate of a foreign TPM": {func(r *linkcheck.Response) {
			r.Certificate = posing.Certificate()
		}, linkcheck.BadSignature, linkcheck.ErrAK},
		"certificate of another region": {func(r *linkcheck.Response) {
			r.Certificate = other.Certificate()
		}, linkcheck.Foreign, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := pair(t)
			race := false
			n.Tap = func(p fabric.Packet) []fabric.Packet {
				if _, ok := response(p); !ok {
					return []fabric.Packet{p}
				}
				if race {
					return []fabric.Packet{forge(t, p, tt.change), p, forge(t, p, tt.change)}
				}
				return []fabric.Packet{forge(t, p, tt.change)}
			}
			on(t, n, "a", "b")
			n.Run(15*time.Second, nil)
			if everProved(n.Device("a"), "eth0") || everProved(n.Device("b"), "eth0") {
				t.Error("a forged answer proved a link")
			}
			s := want(t, n, "a", "eth0", "b", tt.verdict)
			if s.Proven || tt.err != nil && !errors.Is(s.Err, tt.err) {
				t.Errorf("a says %s, want %v", s, tt.err)
			}
			race = true
			if !n.Run(30*time.Second, n.AllReady) {
				t.Error("forged answers keep the true one from counting")
			}
		})
	}
}

// TestAlteredRequest has a switch rewrite who asks, so that the answer says what
// the switch wants about the asker. It then answers another request.
func TestAlteredRequest(t *testing.T) {
	t.Parallel()
	n := pair(t)
	n.Tap = func(p fabric.Packet) []fabric.Packet {
		if q, err := linkcheck.ParseRequest(p.Datagram); err == nil {
			q.From.Interface = "eth7"
			if p.Datagram, err = q.Marshal(); err != nil {
				t.Error(err)
			}
		}
		return []fabric.Packet{p}
	}
	on(t, n, "a", "b")
	n.Run(15*time.Second, nil)
	if s := want(t, n, "a", "eth0", "b", linkcheck.BadSignature); !errors.Is(s.Err, linkcheck.ErrSignature) {
		t.Errorf("a says %s, want ErrSignature", s)
	}
}

// TestReplayed sends every datagram of a boot again: to those who have seen it,
// and to the same device in its next boot, while its neighbor is gone.
func TestReplayed(t *testing.T) {
	t.Parallel()
	n := pair(t)
	var heard []fabric.Packet
	n.Tap = func(p fabric.Packet) []fabric.Packet {
		heard = append(heard, p)
		return []fabric.Packet{p}
	}
	on(t, n, "a", "b")
	if !n.Run(10*time.Second, n.AllReady) {
		t.Fatal("not ready after 10 s")
	}
	a := n.Device("a")
	changes := len(a.History)
	for _, p := range heard {
		n.Inject(p)
	}
	if len(a.History) != changes {
		t.Errorf("replayed datagrams changed verdicts: %v", a.History[changes:])
	}
	if c := a.Machine.Counters(); c.Unmatched == 0 {
		t.Errorf("replayed answers were not counted: %+v", c)
	}
	// The next boot: b hangs with its carriers up.
	n.Tap = func(fabric.Packet) []fabric.Packet { return nil }
	a.PowerOff()
	a.History = nil
	on(t, n, "a")
	for range 200 {
		n.Run(n.Now()+100*time.Millisecond, nil)
		for _, p := range heard {
			n.Inject(p)
		}
	}
	if everProved(a, "eth0") || everProved(a, "eth1") {
		t.Error("a replayed answer proved a link")
	}
}

// TestCrossInterface has a switch deliver on the wrong ports: first all answers,
// then all requests.
func TestCrossInterface(t *testing.T) {
	t.Parallel()
	cross := map[string]string{"eth0": "eth1", "eth1": "eth0"}
	n := pair(t)
	n.Tap = func(p fabric.Packet) []fabric.Packet {
		if _, ok := response(p); ok {
			p.To.Interface = cross[p.To.Interface]
		}
		return []fabric.Packet{p}
	}
	on(t, n, "a", "b")
	n.Run(15*time.Second, nil)
	a := n.Device("a")
	if everProved(a, "eth0") || everProved(a, "eth1") {
		t.Error("an answer on another interface proved a link")
	}
	if c := a.Machine.Counters(); c.CrossInterface == 0 {
		t.Errorf("answers on another interface were not counted: %+v", c)
	}
	n.Tap = func(p fabric.Packet) []fabric.Packet {
		p.To.Interface, p.FromPort.Interface = cross[p.To.Interface], cross[p.FromPort.Interface]
		if _, ok := response(p); !ok {
			p.From = n.Address(p.FromPort) // so that the answer comes back
		}
		return []fabric.Packet{p}
	}
	n.Run(40*time.Second, nil)
	s := want(t, n, "a", "eth0", "b", linkcheck.WrongPort, fabric.E("b", "eth1"))
	if !s.Proven || s.Ours != "eth1" {
		t.Errorf("a says %s", s)
	}
	n.Tap = nil
	if !n.Run(70*time.Second, n.AllReady) {
		t.Error("the mended region does not complete")
	}
}

// TestLateAnswer keeps every answer back until its nonce has died.
func TestLateAnswer(t *testing.T) {
	t.Parallel()
	n := pair(t)
	n.Conditions.Delay = 6 * time.Second // there and back: 12 s
	on(t, n, "a", "b")
	n.Run(2*time.Minute, nil)
	if everProved(n.Device("a"), "eth0") {
		t.Error("an answer of another age proved a link")
	}
	if c := n.Device("a").Machine.Counters(); c.Late+c.Unmatched == 0 {
		t.Errorf("late answers were not counted: %+v", c)
	}
}

// TestForeignDevice is plugged in instead of b: of another region, or of nobody,
// with its own TPM and b's name, or with b's certificate.
func TestForeignDevice(t *testing.T) {
	t.Parallel()
	n := pair(t)
	tpm, err := fabric.NewTPM()
	if err != nil {
		t.Fatal(err)
	}
	b := n.Device("b")
	b.TPM, b.Config.Region = tpm, "lon2"
	on(t, n, "a", "b")
	n.Run(10*time.Second, nil)
	if s := want(t, n, "a", "eth0", "b", linkcheck.Foreign, fabric.E("b", "eth0")); s.Region != "lon2" || s.Proven {
		t.Errorf("a says %s", s)
	}
	want(t, n, "b", "eth0", "a", linkcheck.Foreign)
	if c := n.Device("a").Machine.Counters(); c.Answered > 24 {
		t.Errorf("a signed %d answers for a stranger on two ports in 10 s", c.Answered)
	}
}

// TestUncappedClaims: production root has the AK, but not the PCR values of a
// booting image.
func TestUncappedClaims(t *testing.T) {
	t.Parallel()
	n := pair(t)
	on(t, n, "a")
	b := n.Device("b")
	b.TPM.Cap()
	session, err := b.TPM.Session("sea1", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer session.Wipe()
	// What production's root would run: it answers "ok" to everything.
	on(t, n, "b") // for a's carriers; the Tap keeps its machine out of it
	n.Tap = func(p fabric.Packet) []fabric.Packet {
		q, err := linkcheck.ParseRequest(p.Datagram)
		if err != nil || p.To.Device != "b" {
			return nil
		}
		r := linkcheck.Response{Nonce: q.Nonce, Arrived: q.To.Interface, Expected: q.From, State: linkcheck.OK, Generation: 1}
		if err := session.Sign(&r, p.Datagram); err != nil {
			t.Error(err)
		}
		datagram, err := r.Marshal()
		if err != nil {
			t.Error(err)
		}
		return []fabric.Packet{{From: n.Address(p.To), FromPort: p.To, To: p.FromPort, Datagram: datagram}}
	}
	n.Run(10*time.Second, nil)
	if s := want(t, n, "a", "eth0", "b", linkcheck.BadSignature); !errors.Is(s.Err, linkcheck.ErrState) {
		t.Errorf("a says %s, want ErrState", s)
	}
}

package hub

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/landfall-project/landfall/pkg/lldp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// card is the far end of a port, as QEMU is.
type card struct {
	t   *testing.T
	c   net.Conn
	got chan []byte
}

func plug(t *testing.T, h *Hub, name string) *card {
	t.Helper()
	socket, err := h.Port(name)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	k := &card{t: t, c: c, got: make(chan []byte, 1000)}
	go func() {
		defer close(k.got)
		read := streamReader(c)
		for {
			f, err := read()
			if err != nil {
				return
			}
			k.got <- f
		}
	}()
	// The hub knows the card once it has accepted it.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		h.mu.Lock()
		on := h.ports[name].conn != nil
		h.mu.Unlock()
		if on {
			return k
		}
		if time.Now().After(deadline) {
			t.Fatal("the hub does not accept")
		}
	}
}

func frame(text string) []byte {
	return append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 0}, text...)
}

func (k *card) send(text string) {
	k.t.Helper()
	b := frame(text)
	if _, err := k.c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
		k.t.Fatal(err)
	}
}

func (k *card) expect(text string) {
	k.t.Helper()
	select {
	case f := <-k.got:
		if !bytes.Equal(f, frame(text)) {
			k.t.Fatalf("got %q, want %q", f, text)
		}
	case <-time.After(5 * time.Second):
		k.t.Fatalf("%q did not arrive", text)
	}
}

func (k *card) silent() {
	k.t.Helper()
	select {
	case f := <-k.got:
		k.t.Fatalf("got %q, which should not have come here", f)
	case <-time.After(50 * time.Millisecond):
	}
}

func rack(t *testing.T, names ...string) (*Hub, map[string]*card) {
	t.Helper()
	h := New(t.TempDir())
	cards := map[string]*card{}
	for _, n := range names {
		cards[n] = plug(t, h, n)
	}
	t.Cleanup(func() {
		for _, k := range cards {
			if err := k.c.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h, cards
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCable(t *testing.T) {
	h, c := rack(t, "a", "b", "x")
	must(t, h.Cable("a", "b"))
	c["a"].send("to b")
	c["b"].expect("to b")
	c["b"].send("to a")
	c["a"].expect("to a")
	c["x"].silent()
	if err := h.Cable("a", "x"); err == nil {
		t.Error("a port takes two cables")
	}
}

// TestCut also shows what the machines are told of their carriers.
func TestCut(t *testing.T) {
	h, c := rack(t, "a", "b")
	var mu sync.Mutex
	up := map[string]bool{}
	h.OnCarrier(func(port string, on bool) { mu.Lock(); defer mu.Unlock(); up[port] = on })
	carriers := func(want map[string]bool) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if !maps.Equal(up, want) {
			t.Fatalf("carriers %v, want %v", up, want)
		}
	}
	must(t, h.Cable("a", "b"))
	carriers(map[string]bool{"a": true, "b": true})
	mend, err := h.Cut("a")
	must(t, err)
	carriers(map[string]bool{"a": false, "b": false})
	c["b"].send("lost")
	c["a"].send("lost")
	c["a"].silent()
	must(t, mend())
	carriers(map[string]bool{"a": true, "b": true})
	c["b"].send("mended")
	c["a"].expect("mended")
}

func TestSwap(t *testing.T) {
	h, c := rack(t, "a1", "a2", "b1", "b2")
	must(t, h.Cable("a1", "a2"))
	must(t, h.Cable("b1", "b2"))
	must(t, h.Swap("a2", "b2"))
	c["a1"].send("crossed")
	c["b2"].expect("crossed")
	c["a2"].silent()
	must(t, h.Swap("a2", "b2"))
	c["a1"].send("straight")
	c["a2"].expect("straight")
}

func TestSwitch(t *testing.T) {
	h, c := rack(t, "a", "b", "x")
	s := h.NewSwitch("tor-7", net.HardwareAddr{2, 0, 0, 0, 7, 7})
	must(t, s.Plug("Eth1/1", "a"))
	must(t, s.Plug("Eth1/2", "b"))
	if err := s.Plug("Eth1/2", "x"); err == nil {
		t.Error("a socket takes two plugs")
	}
	c["a"].send("broadcast")
	c["b"].expect("broadcast")
	c["x"].silent()
	port := func(name string) string {
		t.Helper()
		select {
		case f := <-c[name].got:
			du, err := lldp.Parse(f[14:])
			must(t, err)
			return du.Port.Text()
		case <-time.After(5 * time.Second):
			t.Fatal("the switch says nothing")
			return ""
		}
	}
	if got := port("a"); got != "Eth1/1" {
		t.Errorf("a hears %q", got)
	}
	must(t, h.Swap("a", "b"))
	for _, k := range c {
		for len(k.got) > 0 {
			<-k.got
		}
	}
	if got := port("a"); got != "Eth1/2" {
		t.Errorf("a hears %q after its plug and b's were exchanged", got)
	}
	// What is for the next bridge, a bridge keeps.
	b := slices.Concat([]byte{1, 0x80, 0xc2, 0, 0, 0x0e}, frame("lldp")[6:])
	if _, err := c["a"].c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
		t.Fatal(err)
	}
	c["a"].send("behind it")
	for f := range c["b"].got {
		if bytes.Equal(f, b) {
			t.Error("the switch passed LLDP on")
		}
		if bytes.Equal(f, frame("behind it")) {
			break
		}
	}
}

// TestPartition: the two parts of a switch hear only themselves, and its plugs
// may change meanwhile.
func TestPartition(t *testing.T) {
	h, c := rack(t, "a", "b", "x", "y")
	s := h.NewSwitch("tor-7", net.HardwareAddr{2, 0, 0, 0, 7, 7})
	s.Mute(true)
	for i, n := range []string{"a", "b", "x", "y"} {
		must(t, s.Plug(string(rune('1'+i)), n))
	}
	s.Partition("1", "2")
	c["a"].send("to b")
	c["b"].expect("to b")
	c["x"].silent()
	c["x"].send("to y")
	c["y"].expect("to y")
	c["a"].silent()
	must(t, h.Swap("b", "x"))
	c["a"].send("to x")
	c["x"].expect("to x")
	c["b"].silent()
	s.Partition()
	c["a"].send("to all")
	for _, n := range []string{"b", "x", "y"} {
		c[n].expect("to all")
	}
}

// TestMute: a switch that swallows LLDP says nothing until it may again.
func TestMute(t *testing.T) {
	h, c := rack(t, "a")
	s := h.NewSwitch("tor-7", net.HardwareAddr{2, 0, 0, 0, 7, 7})
	s.Mute(true)
	must(t, s.Plug("Eth1/1", "a"))
	select {
	case f := <-c["a"].got:
		t.Errorf("a mute switch says %q", f)
	case <-time.After(lldpEvery + lldpEvery/2):
	}
	s.Mute(false)
	select {
	case <-c["a"].got:
	case <-time.After(5 * time.Second):
		t.Error("the switch still says nothing")
	}
}

// TestMendTaken: a plug does not go back into a socket that another has taken.
func TestMendTaken(t *testing.T) {
	h, _ := rack(t, "a", "b", "x", "y")
	s := h.NewSwitch("tor-7", net.HardwareAddr{2, 0, 0, 0, 7, 7})
	must(t, s.Plug("Eth1/1", "a"))
	must(t, h.Cable("b", "x"))
	fromSwitch, err := h.Cut("a")
	must(t, err)
	must(t, s.Plug("Eth1/1", "y"))
	if err := fromSwitch(); err == nil || h.Carrier("a") {
		t.Errorf("a has its socket back, although y is in it: %v", err)
	}
	fromCable, err := h.Cut("b")
	must(t, err)
	must(t, h.Swap("b", "y")) // b in the switch, y free
	if err := fromCable(); err == nil {
		t.Error("b is in two places")
	}
	must(t, h.Swap("b", "y"))
	must(t, fromCable())
	if !h.Carrier("b") || !h.Carrier("x") || !h.Carrier("y") || h.Carrier("a") {
		t.Error("carriers are not those of the plugs")
	}
}

// TestBadLength: a card that sends a length no frame has is unplugged; the
// others go on.
func TestBadLength(t *testing.T) {
	for _, head := range [][]byte{{0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}} {
		h, c := rack(t, "a", "b", "x")
		s := h.NewSwitch("tor-7", net.HardwareAddr{2, 0, 0, 0, 7, 7})
		for i, n := range []string{"a", "b", "x"} {
			must(t, s.Plug(string(rune('1'+i)), n))
		}
		if _, err := c["a"].c.Write(head); err != nil {
			t.Fatal(err)
		}
		for range c["a"].got { // until the hub ends the connection
		}
		c["b"].send("hello")
		c["x"].expect("hello")
	}
}

func TestDisturb(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    Faults
		ok   func(n int, sorted bool) bool
	}{
		{"nothing", Faults{}, func(n int, sorted bool) bool { return n == 200 && sorted }},
		{"all lost", Faults{Drop: 1}, func(n int, _ bool) bool { return n == 0 }},
		{"some lost", Faults{Drop: 0.5}, func(n int, _ bool) bool { return n > 20 && n < 180 }},
		{"all twice", Faults{Duplicate: 1}, func(n int, _ bool) bool { return n == 400 }},
		{"reordered", Faults{Jitter: 20 * time.Millisecond}, func(n int, sorted bool) bool { return n == 200 && !sorted }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, c := rack(t, "a", "b")
			must(t, h.Cable("a", "b"))
			must(t, h.Disturb("a", tt.f))
			for i := range 200 {
				c["a"].send(string([]byte{byte(i)}))
			}
			time.Sleep(300 * time.Millisecond)
			var got []byte
			for len(c["b"].got) > 0 {
				f := <-c["b"].got
				got = append(got, f[len(f)-1])
			}
			if !tt.ok(len(got), slices.IsSorted(got)) {
				t.Errorf("%d of 200 frames arrived, in order: %v", len(got), slices.IsSorted(got))
			}
		})
	}
}

// TestPowerOffAndOn: a machine that was off gets its cable back.
func TestPowerOffAndOn(t *testing.T) {
	h, c := rack(t, "a", "b")
	must(t, h.Cable("a", "b"))
	must(t, c["b"].c.Close())
	for range c["b"].got {
	}
	c["a"].send("nobody is there")
	again, err := net.Dial("unix", h.ports["b"].socket)
	must(t, err)
	c["b"].c = again // closed with the others
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		c["a"].send("hello")
		must(t, again.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		if f, err := streamReader(again)(); err == nil && bytes.Equal(f, frame("hello")) {
			return
		}
	}
	t.Error("nothing arrives after power came back")
}

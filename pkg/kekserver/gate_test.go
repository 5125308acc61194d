package kekserver

import (
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// from is one end of a pipe whose other end has an address of the network.
type from struct {
	net.Conn
	addr net.Addr
}

func (f *from) RemoteAddr() net.Addr { return f.addr }

func enter(t *testing.T, g *gate, host string) *guest {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = theirs.Close() })
	n := g.admit(&from{ours, &net.TCPAddr{IP: net.ParseIP(host), Port: 1}}).(*guest)
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// Who is cut off when there is no room.
func TestGate(t *testing.T) {
	type step struct{ name, host, proves string }
	many := func(name, host string, n int) (out []step) {
		for i := range n {
			out = append(out, step{name: name + string(rune('a'+i)), host: host})
		}
		return out
	}
	for name, c := range map[string]struct {
		quick time.Duration
		steps []step
		want  []string // cut, in the order of entry
	}{
		"room for all":                 {time.Hour, many("x", "10.0.0.1", 3), nil},
		"an address has enough":        {time.Hour, many("x", "10.0.0.1", 6), []string{"xa", "xb"}},
		"one host, two kinds of names": {time.Hour, append(many("x", "10.0.0.1", 4), many("y", "::ffff:10.0.0.1", 1)...), []string{"xa"}},
		"the heaviest makes room":      {time.Hour, append(append(many("x", "10.0.0.1", 4), many("y", "10.0.0.2", 2)...), many("z", "10.0.0.3", 1)...), []string{"xa"}},
		"none is heavy: the oldest, once it had its time": {0,
			append(append(append(many("w", "10.0.0.1", 2), many("x", "10.0.0.2", 2)...), many("y", "10.0.0.3", 2)...), many("z", "10.0.0.4", 1)...), []string{"wa"}},
		"the proved are no strangers": {time.Hour, append([]step{{"a", "10.0.0.1", "d1"}, {"b", "10.0.0.1", "d2"}}, many("x", "10.0.0.1", 4)...), nil},
		"a name has enough":           {time.Hour, []step{{"a", "10.0.0.1", "d1"}, {"b", "10.0.0.1", "d1"}, {"c", "10.0.0.2", "d1"}}, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(&bounds{strangers: 6, perAddress: 4, fair: 2, quick: c.quick, life: time.Hour, perName: 2})
			all := make([]*guest, len(c.steps))
			for i, s := range c.steps {
				all[i] = enter(t, g, s.host)
				if s.proves != "" {
					all[i].prove(s.proves)
				}
			}
			var got []string
			for i, n := range all {
				if n.gone {
					got = append(got, c.steps[i].name)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("cut (-want +got):\n%s", diff)
			}
			if g.taken() != len(c.want) {
				t.Errorf("%d counted as cut, want %d", g.taken(), len(c.want))
			}
			for _, n := range all {
				_ = n.Close()
			}
			if g.count != 0 || len(g.stranger) != 0 || len(g.proved) != 0 {
				t.Errorf("after all have gone: %d, %v, %v", g.count, g.stranger, g.proved)
			}
		})
	}
}

// A newcomer waits while all there are new themselves, until one goes.
func TestGateWaits(t *testing.T) {
	for name, leave := range map[string]func(g *gate, n *guest){
		"one leaves":       func(_ *gate, n *guest) { _ = n.Close() },
		"one is proved":    func(_ *gate, n *guest) { n.prove("d1") },
		"one runs out":     func(_ *gate, n *guest) { n.expire() },
		"the plane closes": func(g *gate, _ *guest) { _ = (&gated{mustListen(t), g}).Close() },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(&bounds{strangers: 1, perAddress: 1, fair: 1, quick: time.Hour, life: time.Hour, perName: 1})
			first := enter(t, g, "10.0.0.1")
			entered := make(chan struct{})
			go func() {
				defer close(entered)
				enter(t, g, "10.0.0.2")
			}()
			leave(g, first)
			<-entered
		})
	}
}

// Who proves nothing is cut off in the end; who proved somebody is not.
func TestGateLife(t *testing.T) {
	g := newGate(&bounds{strangers: 4, perAddress: 4, fair: 4, life: time.Hour, perName: 4})
	idle, proved := enter(t, g, "10.0.0.1"), enter(t, g, "10.0.0.1")
	proved.prove("d1")
	idle.expire()
	proved.expire() // its timer was about to fire
	if !idle.gone || proved.gone {
		t.Errorf("idle is gone: %v, proved is gone: %v", idle.gone, proved.gone)
	}
	if _, err := idle.Write([]byte{0}); err == nil {
		t.Error("the idle one is open")
	}
}

func mustListen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

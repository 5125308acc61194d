package hub

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/landfall-project/landfall/qemu/netlab"
)

// TestTap has a card ask, over the rack's switch, who has the address of a
// network namespace's bridge (RFC 826), and the kernel there answers.
func TestTap(t *testing.T) {
	n, err := netlab.New(t.Context(), "10.7.0.1/24")
	must(t, err)
	defer func() { must(t, n.Close()) }()
	tap, err := n.AddTap(t.Context())
	must(t, err)
	h, c := rack(t, "a")
	s := h.NewSwitch("tor-7", net.HardwareAddr{2, 0, 0, 0, 7, 7})
	must(t, s.Plug("Eth1/1", "a"))
	must(t, h.Tap("host", n, tap))
	must(t, s.Plug("Eth1/2", "host"))
	if err := h.Tap("host", n, tap); err == nil {
		t.Error("a tap was attached twice")
	}
	mac := []byte{2, 0, 0, 0, 0, 1}
	ask := slices.Concat(bytes.Repeat([]byte{0xff}, 6), mac, []byte{8, 6, // ARP
		0, 1, 8, 0, 6, 4, 0, 1}, mac, []byte{10, 7, 0, 2}, make([]byte, 6), []byte{10, 7, 0, 1})
	deadline := time.After(10 * time.Second)
	for {
		if _, err := c["a"].c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(ask))), ask...)); err != nil {
			t.Fatal(err)
		}
		select {
		case f := <-c["a"].got:
			if len(f) >= 42 && bytes.Equal(f[:6], mac) && bytes.Equal(f[12:14], []byte{8, 6}) && f[21] == 2 &&
				bytes.Equal(f[28:32], []byte{10, 7, 0, 1}) {
				return
			}
		case <-time.After(200 * time.Millisecond): // the bridge needs a moment for its new port
		case <-deadline:
			t.Fatal("no answer from the namespace")
		}
	}
}
